// rms_norm: each row is read twice, the second time from the cache.
#include "adder/ops/rms_norm/rms_norm_kernel.h"

#include "adder/backend/cpu/vector_loop.h"

namespace adder::cpu::ADDER_ISA {
namespace {

// 1 / sqrt(mean + eps)
ADDER_SIMD double InverseRms(double sum_of_squares, int64_t channels, float eps) {
  return 1.0 /
         __builtin_sqrt(sum_of_squares / static_cast<double>(channels) + static_cast<double>(eps));
}

// One where there is no weight.
ADDER_SIMD F32 LoadWeight(const float* weight, int64_t d, int64_t n) {
  return weight != nullptr ? LoadLanes(weight + d, n) : Set(1.0f);
}

template <class X>
ADDER_SIMD F32 LoadR(const X* x, const float* residual, int64_t d, int64_t n) {
  const F32 value = LoadLanes(x + d, n);
  return residual != nullptr ? value + LoadLanes(residual + d, n) : value;
}

// Σ (scale · r)², storing r where residual_out is given.
template <class X>
ADDER_SIMD double SumOfSquares(const X* x, const float* residual, float* residual_out,
                               int64_t channels, float scale) {
  double total = 0;
  for (int64_t begin = 0; begin < channels; begin += kSumBlock) {
    F32 sums[4] = {};
    ForEachVector(
        begin, SumBlockEnd(begin, channels),
        [&](int64_t d, int64_t n, int i) __attribute__((always_inline)) {
          const F32 r = LoadR(x, residual, d, n);
          if (residual_out != nullptr) StoreLanes(r, residual_out + d, n);
          const F32 scaled = r * scale;
          sums[i] = MulAdd(scaled, scaled, sums[i]);
        });
    total += Total(sums);
  }
  return total;
}

template <class X, class Y>
ADDER_SIMD void ForwardRow(const RmsNormArguments& a, const X* x, const float* residual, Y* y,
                           float* residual_out) {
  double sum = SumOfSquares(x, residual, residual_out, a.channels, 1.0f);
  // From here on r is residual_out where it was stored: it may have been written over residual.
  const bool stored = residual_out != nullptr;
  const float* added = stored ? nullptr : residual;
  const auto load_r = [&](int64_t d, int64_t n) __attribute__((always_inline)) {
    return stored ? LoadLanes(residual_out + d, n) : LoadR(x, added, d, n);
  };
  if (const float scale = ScaleOfSquares(sum, a.channels, a.eps); scale != 1.0f) {
    sum = stored ? SumOfSquares(residual_out, nullptr, nullptr, a.channels, scale)
                 : SumOfSquares(x, residual, nullptr, a.channels, scale);
    sum /= static_cast<double>(scale) * static_cast<double>(scale);
  }
  const F32 inverse = Set(static_cast<float>(InverseRms(sum, a.channels, a.eps)));
  ForEachVector(
      0, a.channels, [&](int64_t d, int64_t n, int) __attribute__((always_inline)) {
        StoreLanes(load_r(d, n) * inverse * LoadWeight(a.weight, d, n), y + d, n);
      });
}

template <class X, class Y>
void Forward(const RmsNormArguments& a) {
  for (int64_t t = 0; t < a.rows; ++t) {
    ForwardRow(a, static_cast<const X*>(a.x) + t * a.x_stride,
               a.residual != nullptr ? a.residual + t * a.residual_stride : nullptr,
               static_cast<Y*>(a.y) + t * a.y_stride,
               a.residual_out != nullptr ? a.residual_out + t * a.residual_out_stride : nullptr);
  }
}

struct Statistics {
  double squares = 0;  // Σ (scale · r)²
  double dot = 0;      // Σ dy · weight · scale · r
};

template <class DY>
ADDER_SIMD Statistics RowStatistics(const float* r, const float* weight, const DY* dy,
                                    int64_t channels, float scale) {
  Statistics result;
  for (int64_t begin = 0; begin < channels; begin += kSumBlock) {
    F32 squares[4] = {};
    F32 dots[4] = {};
    ForEachVector(
        begin, SumBlockEnd(begin, channels),
        [&](int64_t d, int64_t n, int i) __attribute__((always_inline)) {
          const F32 scaled = LoadLanes(r + d, n) * scale;
          const F32 dn = LoadLanes(dy + d, n) * LoadWeight(weight, d, n);
          squares[i] = MulAdd(scaled, scaled, squares[i]);
          dots[i] = MulAdd(scaled, dn, dots[i]);
        });
    result.squares += Total(squares);
    result.dot += Total(dots);
  }
  return result;
}

// With n = r · inverse:  dr = inverse · (dy·weight - n · mean(dy·weight·n)) + d_residual_out.
template <class DY, class DX>
void Backward(const RmsNormBackwardArguments& a) {
  for (int64_t t = 0; t < a.rows; ++t) {
    const float* r = a.r + t * a.r_stride;
    const DY* dy = static_cast<const DY*>(a.dy) + t * a.dy_stride;
    const float* through =
        a.d_residual_out != nullptr ? a.d_residual_out + t * a.d_residual_out_stride : nullptr;
    float* dr = a.dr != nullptr ? a.dr + t * a.dr_stride : nullptr;
    DX* dx = a.dx != nullptr ? static_cast<DX*>(a.dx) + t * a.dx_stride : nullptr;

    Statistics statistics = RowStatistics(r, a.weight, dy, a.channels, 1.0f);
    if (const float scale = ScaleOfSquares(statistics.squares, a.channels, a.eps); scale != 1.0f) {
      statistics = RowStatistics(r, a.weight, dy, a.channels, scale);
      statistics.squares /= static_cast<double>(scale) * static_cast<double>(scale);
      statistics.dot /= static_cast<double>(scale);
    }
    const double inverse_rms = InverseRms(statistics.squares, a.channels, a.eps);
    const F32 inverse = Set(static_cast<float>(inverse_rms));
    const F32 factor = Set(static_cast<float>(statistics.dot * inverse_rms * inverse_rms /
                                              static_cast<double>(a.channels)));
    ForEachVector(
        0, a.channels, [&](int64_t d, int64_t n, int) __attribute__((always_inline)) {
          const F32 normalised = LoadLanes(r + d, n) * inverse;
          const F32 gradient = LoadLanes(dy + d, n);
          const F32 own =
              NegMulAdd(normalised, factor, gradient * LoadWeight(a.weight, d, n) * inverse);
          const F32 sum = through != nullptr ? own + LoadLanes(through + d, n) : own;
          if (dr != nullptr) StoreLanes(sum, dr + d, n);
          if (dx != nullptr) StoreLanes(sum, dx + d, n);
          if (a.dweight != nullptr) {
            const F32 dweight = MulAdd(gradient, normalised, LoadLanes(a.dweight + d, n));
            StoreLanes(dweight, a.dweight + d, n);
          }
        });
  }
}

}  // namespace

void RmsNormKernel(const RmsNormArguments& a) {
  VisitActivation(a.x_dtype, [&](auto x) {
    VisitActivation(a.y_dtype, [&](auto y) { Forward<decltype(x), decltype(y)>(a); });
  });
}

void RmsNormBackwardKernel(const RmsNormBackwardArguments& a) {
  VisitActivation(a.dy_dtype, [&](auto dy) {
    VisitActivation(a.dx_dtype, [&](auto dx) { Backward<decltype(dy), decltype(dx)>(a); });
  });
}

}  // namespace adder::cpu::ADDER_ISA
