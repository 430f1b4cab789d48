// layer_norm: each row is read three times, the second and third time from the cache: the variance
// is summed around the mean, because the mean of squares less the square of the mean loses digits
// where the mean is large.
#include "adder/ops/layer_norm/layer_norm_kernel.h"

#include "adder/backend/cpu/vector_loop.h"

namespace adder::cpu::ADDER_ISA {
namespace {

template <class X>
ADDER_SIMD F32 LoadR(const X* x, const float* residual, int64_t d, int64_t n) {
  const F32 value = LoadLanes(x + d, n);
  return residual != nullptr ? value + LoadLanes(residual + d, n) : value;
}

// The mean of r, storing r where residual_out is given. Scaled elements are added, so that the sum
// cannot overflow.
template <class X>
ADDER_SIMD double Mean(const X* x, const float* residual, float* residual_out, int64_t channels) {
  double total = 0;
  for (int64_t begin = 0; begin < channels; begin += kSumBlock) {
    F32 sums[4] = {};
    ForEachVector(
        begin, SumBlockEnd(begin, channels),
        [&](int64_t d, int64_t n, int i) __attribute__((always_inline)) {
          const F32 r = LoadR(x, residual, d, n);
          if (residual_out != nullptr) StoreLanes(r, residual_out + d, n);
          sums[i] += r * 0x1p-14f;
        });
    total += Total(sums);
  }
  return total * 0x1p14 / static_cast<double>(channels);
}

// Lanes past the n-th would be counted as -mean.
ADDER_SIMD F32 Centred(F32 r, F32 mean, int64_t n) {
  return n == kLanes ? r - mean : Select(FirstLanes(n), r - mean, Zero());
}

// Σ (scale · (r - mean))²
template <class X>
ADDER_SIMD double SumOfSquares(const X* x, const float* residual, float mean, int64_t channels,
                               float scale) {
  double total = 0;
  for (int64_t begin = 0; begin < channels; begin += kSumBlock) {
    F32 sums[4] = {};
    ForEachVector(
        begin, SumBlockEnd(begin, channels),
        [&](int64_t d, int64_t n, int i) __attribute__((always_inline)) {
          const F32 centred = Centred(LoadR(x, residual, d, n), Set(mean), n) * scale;
          sums[i] = MulAdd(centred, centred, sums[i]);
        });
    total += Total(sums);
  }
  return total;
}

// 1 / sqrt(variance + eps)
template <class X>
ADDER_SIMD double InverseDeviation(const X* x, const float* residual, float mean, int64_t channels,
                                   float eps) {
  double squares = SumOfSquares(x, residual, mean, channels, 1.0f);
  if (const float scale = ScaleOfSquares(squares, channels, eps); scale != 1.0f) {
    squares = SumOfSquares(x, residual, mean, channels, scale) /
              (static_cast<double>(scale) * static_cast<double>(scale));
  }
  return 1.0 / __builtin_sqrt(squares / static_cast<double>(channels) + static_cast<double>(eps));
}

template <class X, class Y>
ADDER_SIMD void Normalise(const LayerNormArguments& a, const X* x, const float* residual,
                          float mean, Y* y) {
  const F32 inverse =
      Set(static_cast<float>(InverseDeviation(x, residual, mean, a.channels, a.eps)));
  ForEachVector(
      0, a.channels, [&](int64_t d, int64_t n, int) __attribute__((always_inline)) {
        const F32 scaled = (LoadR(x, residual, d, n) - mean) * inverse * LoadLanes(a.weight + d, n);
        StoreLanes(a.bias != nullptr ? scaled + LoadLanes(a.bias + d, n) : scaled, y + d, n);
      });
}

template <class X, class Y>
void Forward(const LayerNormArguments& a) {
  for (int64_t t = 0; t < a.rows; ++t) {
    const X* x = static_cast<const X*>(a.x) + t * a.x_stride;
    const float* residual = a.residual != nullptr ? a.residual + t * a.residual_stride : nullptr;
    Y* y = static_cast<Y*>(a.y) + t * a.y_stride;
    float* r = a.residual_out != nullptr ? a.residual_out + t * a.residual_out_stride : nullptr;
    const auto mean = static_cast<float>(Mean(x, residual, r, a.channels));
    // From here on r is read where it was stored: it may have been written over residual.
    if (r != nullptr) {
      Normalise(a, static_cast<const float*>(r), nullptr, mean, y);
    } else {
      Normalise(a, x, residual, mean, y);
    }
  }
}

// With n = (r - mean) · inverse and g = dy · weight:
//     dr = inverse · (g - mean(g) - n · mean(g · n)) + d_residual_out
template <class DY, class DX>
void Backward(const LayerNormBackwardArguments& a) {
  for (int64_t t = 0; t < a.rows; ++t) {
    const float* r = a.r + t * a.r_stride;
    const DY* dy = static_cast<const DY*>(a.dy) + t * a.dy_stride;
    const float* through =
        a.d_residual_out != nullptr ? a.d_residual_out + t * a.d_residual_out_stride : nullptr;
    float* dr = a.dr != nullptr ? a.dr + t * a.dr_stride : nullptr;
    DX* dx = a.dx != nullptr ? static_cast<DX*>(a.dx) + t * a.dx_stride : nullptr;

    const float* none = nullptr;
    const auto mean = static_cast<float>(Mean(r, none, nullptr, a.channels));
    const F32 inverse = Set(static_cast<float>(InverseDeviation(r, none, mean, a.channels, a.eps)));
    double total_g = 0;
    double total_gn = 0;
    for (int64_t begin = 0; begin < a.channels; begin += kSumBlock) {
      F32 g_sums[4] = {};
      F32 gn_sums[4] = {};
      ForEachVector(
          begin, SumBlockEnd(begin, a.channels),
          [&](int64_t d, int64_t n, int i) __attribute__((always_inline)) {
            const F32 g = LoadLanes(dy + d, n) * LoadLanes(a.weight + d, n);
            g_sums[i] += g;
            gn_sums[i] = MulAdd(g, (LoadLanes(r + d, n) - mean) * inverse, gn_sums[i]);
          });
      total_g += Total(g_sums);
      total_gn += Total(gn_sums);
    }
    const F32 mean_g = Set(static_cast<float>(total_g / static_cast<double>(a.channels)));
    const F32 mean_gn = Set(static_cast<float>(total_gn / static_cast<double>(a.channels)));
    ForEachVector(
        0, a.channels, [&](int64_t d, int64_t n, int) __attribute__((always_inline)) {
          const F32 normalised = (LoadLanes(r + d, n) - mean) * inverse;
          const F32 gradient = LoadLanes(dy + d, n);
          const F32 along =
              NegMulAdd(normalised, mean_gn, MulSub(gradient, LoadLanes(a.weight + d, n), mean_g));
          const F32 sum = through != nullptr ? MulAdd(along, inverse, LoadLanes(through + d, n))
                                             : along * inverse;
          if (dr != nullptr) StoreLanes(sum, dr + d, n);
          if (dx != nullptr) StoreLanes(sum, dx + d, n);
          if (a.dweight != nullptr) {
            const F32 dweight = MulAdd(gradient, normalised, LoadLanes(a.dweight + d, n));
            StoreLanes(dweight, a.dweight + d, n);
          }
          if (a.dbias != nullptr) {
            StoreLanes(gradient + LoadLanes(a.dbias + d, n), a.dbias + d, n);
          }
        });
  }
}

}  // namespace

void LayerNormKernel(const LayerNormArguments& a) {
  VisitActivation(a.x_dtype, [&](auto x) {
    VisitActivation(a.y_dtype, [&](auto y) { Forward<decltype(x), decltype(y)>(a); });
  });
}

void LayerNormBackwardKernel(const LayerNormBackwardArguments& a) {
  VisitActivation(a.dy_dtype, [&](auto dy) {
    VisitActivation(a.dx_dtype, [&](auto dx) { Backward<decltype(dy), decltype(dx)>(a); });
  });
}

}  // namespace adder::cpu::ADDER_ISA
