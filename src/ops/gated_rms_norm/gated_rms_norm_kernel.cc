// gated_rms_norm: each group of a row is read twice, the second time from the cache. The gate is
// computed anew then: that costs less than keeping it.
#include "adder/ops/gated_rms_norm/gated_rms_norm_kernel.h"

#include "adder/backend/cpu/vector_loop.h"

namespace adder::cpu::ADDER_ISA {
namespace {

// 1 / sqrt(mean + eps)
ADDER_SIMD double InverseRms(double sum_of_squares, int64_t channels, float eps) {
  return 1.0 /
         __builtin_sqrt(sum_of_squares / static_cast<double>(channels) + static_cast<double>(eps));
}

// What is normalised: the gated x, or x itself.
template <bool kNormFirst, class T>
ADDER_SIMD F32 LoadU(const T* x, const T* z, int64_t d, int64_t n) {
  const F32 value = LoadLanes(x + d, n);
  if constexpr (kNormFirst) {
    return value;
  } else {
    return value * Silu(LoadLanes(z + d, n));
  }
}

// Σ (scale · u)² of channels [begin, end).
template <bool kNormFirst, class T>
ADDER_SIMD double SumOfSquares(const T* x, const T* z, int64_t begin, int64_t end, float scale) {
  double total = 0;
  for (int64_t d0 = begin; d0 < end; d0 += kSumBlock) {
    F32 sums[4] = {};
    ForEachVector(
        d0, SumBlockEnd(d0, end), [&](int64_t d, int64_t n, int i) __attribute__((always_inline)) {
          const F32 u = LoadU<kNormFirst>(x, z, d, n) * scale;
          sums[i] = MulAdd(u, u, sums[i]);
        });
    total += Total(sums);
  }
  return total;
}

template <bool kNormFirst, class T, class Y>
void Forward(const GatedRmsNormArguments& a) {
  for (int64_t t = 0; t < a.rows; ++t) {
    const T* x = static_cast<const T*>(a.x) + t * a.x_stride;
    const T* z = static_cast<const T*>(a.z) + t * a.z_stride;
    Y* y = static_cast<Y*>(a.y) + t * a.y_stride;
    for (int64_t begin = 0; begin < a.channels; begin += a.group_size) {
      const int64_t end = begin + a.group_size;
      double sum = SumOfSquares<kNormFirst>(x, z, begin, end, 1.0f);
      if (const float scale = ScaleOfSquares(sum, a.group_size, a.eps); scale != 1.0f) {
        sum = SumOfSquares<kNormFirst>(x, z, begin, end, scale) /
              (static_cast<double>(scale) * static_cast<double>(scale));
      }
      const F32 inverse = Set(static_cast<float>(InverseRms(sum, a.group_size, a.eps)));
      ForEachVector(
          begin, end, [&](int64_t d, int64_t n, int) __attribute__((always_inline)) {
            F32 value = LoadU<kNormFirst>(x, z, d, n) * inverse * LoadLanes(a.weight + d, n);
            if constexpr (kNormFirst) value *= Silu(LoadLanes(z + d, n));
            StoreLanes(value, y + d, n);
          });
    }
  }
}

struct Statistics {
  double squares = 0;  // Σ (scale · u)²
  double dot = 0;      // Σ dn · scale · u
};

// The gradient of n = u · inverse.
template <bool kNormFirst, class T, class DY>
ADDER_SIMD F32 LoadDn(const T* z, const float* weight, const DY* dy, int64_t d, int64_t n) {
  const F32 gradient = LoadLanes(dy + d, n) * LoadLanes(weight + d, n);
  if constexpr (kNormFirst) {
    return gradient * Silu(LoadLanes(z + d, n));
  } else {
    return gradient;
  }
}

template <bool kNormFirst, class T, class DY>
ADDER_SIMD Statistics GroupStatistics(const T* x, const T* z, const float* weight, const DY* dy,
                                      int64_t begin, int64_t end, float scale) {
  Statistics result;
  for (int64_t d0 = begin; d0 < end; d0 += kSumBlock) {
    F32 squares[4] = {};
    F32 dots[4] = {};
    ForEachVector(
        d0, SumBlockEnd(d0, end), [&](int64_t d, int64_t n, int i) __attribute__((always_inline)) {
          const F32 u = LoadU<kNormFirst>(x, z, d, n) * scale;
          squares[i] = MulAdd(u, u, squares[i]);
          dots[i] = MulAdd(u, LoadDn<kNormFirst>(z, weight, dy, d, n), dots[i]);
        });
    result.squares += Total(squares);
    result.dot += Total(dots);
  }
  return result;
}

// With n = u · inverse:  du = inverse · (dn - n · mean(dn · n)).
template <bool kNormFirst, class T, class DY>
void Backward(const GatedRmsNormBackwardArguments& a) {
  for (int64_t t = 0; t < a.rows; ++t) {
    const T* x = static_cast<const T*>(a.x) + t * a.x_stride;
    const T* z = static_cast<const T*>(a.z) + t * a.z_stride;
    const DY* dy = static_cast<const DY*>(a.dy) + t * a.dy_stride;
    T* dx = a.dx != nullptr ? static_cast<T*>(a.dx) + t * a.dx_stride : nullptr;
    T* dz = a.dz != nullptr ? static_cast<T*>(a.dz) + t * a.dz_stride : nullptr;
    for (int64_t begin = 0; begin < a.channels; begin += a.group_size) {
      const int64_t end = begin + a.group_size;
      Statistics statistics = GroupStatistics<kNormFirst>(x, z, a.weight, dy, begin, end, 1.0f);
      const float scale = ScaleOfSquares(statistics.squares, a.group_size, a.eps);
      if (scale != 1.0f) {
        statistics = GroupStatistics<kNormFirst>(x, z, a.weight, dy, begin, end, scale);
        statistics.squares /= static_cast<double>(scale) * static_cast<double>(scale);
        statistics.dot /= static_cast<double>(scale);
      }
      const double inverse_rms = InverseRms(statistics.squares, a.group_size, a.eps);
      const F32 inverse = Set(static_cast<float>(inverse_rms));
      const F32 factor = Set(static_cast<float>(statistics.dot * inverse_rms * inverse_rms /
                                                static_cast<double>(a.group_size)));
      ForEachVector(
          begin, end, [&](int64_t d, int64_t n, int) __attribute__((always_inline)) {
            const F32 value = LoadLanes(x + d, n);
            const ValueAndSlope gate = SiluWithSlope(LoadLanes(z + d, n));
            const F32 gradient = LoadLanes(dy + d, n);
            const F32 weight = LoadLanes(a.weight + d, n);
            F32 to_weight, to_x, to_gate;
            if constexpr (kNormFirst) {
              const F32 normalised = value * inverse;
              const F32 gated = gradient * gate.value;
              to_x = NegMulAdd(normalised, factor, gated * weight * inverse);
              to_gate = gradient * normalised * weight;
              to_weight = gated * normalised;
            } else {
              const F32 normalised = value * gate.value * inverse;
              const F32 du = NegMulAdd(normalised, factor, gradient * weight * inverse);
              to_x = du * gate.value;
              to_gate = du * value;
              to_weight = gradient * normalised;
            }
            if (dx != nullptr) StoreLanes(to_x, dx + d, n);
            if (dz != nullptr) StoreLanes(to_gate * gate.slope, dz + d, n);
            if (a.dweight != nullptr) {
              StoreLanes(to_weight + LoadLanes(a.dweight + d, n), a.dweight + d, n);
            }
          });
    }
  }
}

}  // namespace

void GatedRmsNormKernel(const GatedRmsNormArguments& a) {
  VisitActivation(a.dtype, [&](auto type) {
    VisitActivation(a.y_dtype, [&](auto y) {
      using T = decltype(type);
      using Y = decltype(y);
      a.norm_before_gate ? Forward<true, T, Y>(a) : Forward<false, T, Y>(a);
    });
  });
}

void GatedRmsNormBackwardKernel(const GatedRmsNormBackwardArguments& a) {
  VisitActivation(a.dtype, [&](auto type) {
    VisitActivation(a.dy_dtype, [&](auto dy) {
      using T = decltype(type);
      using DY = decltype(dy);
      a.norm_before_gate ? Backward<true, T, DY>(a) : Backward<false, T, DY>(a);
    });
  });
}

}  // namespace adder::cpu::ADDER_ISA
