// rotary: sines and cosines of a row are formed once and serve all of its heads.
#include "adder/ops/rotary/rotary_kernel.h"

#include "adder/backend/cpu/vector_loop.h"

namespace adder::cpu::ADDER_ISA {
namespace {

// The part of each angle that is left of whole turns, in quarter turns; double keeps it exact to
// 2^-12 of an f32's spacing for the positions that texts have.
void Angles(const RotaryArguments& a, int64_t position, float* angles) {
  const auto p = static_cast<double>(position);
  for (int64_t i = 0; i < a.rotary_dim / 2; ++i) {
    const double quarters = p * a.frequencies[i];
    angles[i] = static_cast<float>(quarters - 4.0 * __builtin_floor(quarters * 0.25));
  }
}

// cos[i] and sin[i] of pair i, for pairs of two halves; for neighbours the cosine twice, and the
// sine with the sign that it has in either's sum.
void FillTable(const RotaryArguments& a, int64_t position, float* cos, float* sin) {
  float* angles = sin + a.rotary_dim;
  Angles(a, position, angles);
  const int64_t half = a.rotary_dim / 2;
  for (int64_t i = 0; i < half; i += kLanes) {
    const int64_t n = half - i < kLanes ? half - i : kLanes;
    const SinCos of = SinCosQuarterTurns(LoadLanes(angles + i, n));
    StoreLanes(of.cos, cos + i, n);
    StoreLanes(of.sin * a.direction, sin + i, n);
  }
  if (!a.interleaved) return;
  for (int64_t i = half - 1; i >= 0; --i) {
    const float c = cos[i];
    const float s = sin[i];
    cos[2 * i] = cos[2 * i + 1] = c;
    sin[2 * i] = -s;
    sin[2 * i + 1] = s;
  }
}

template <class T>
ADDER_SIMD void RotateHalves(const T* x, const float* cos, const float* sin, int64_t half, T* y) {
  for (int64_t i = 0; i < half; i += kLanes) {
    const int64_t n = half - i < kLanes ? half - i : kLanes;
    const F32 c = LoadLanes(cos + i, n);
    const F32 s = LoadLanes(sin + i, n);
    const F32 first = LoadLanes(x + i, n);
    const F32 second = LoadLanes(x + half + i, n);
    StoreLanes(NegMulAdd(second, s, first * c), y + i, n);
    StoreLanes(MulAdd(first, s, second * c), y + half + i, n);
  }
}

// Lanes 1 0 3 2 ...
ADDER_SIMD F32 SwapNeighbours(F32 v) {
  return InterleaveEven<1>(InterleaveOdd<1>(v, v), InterleaveEven<1>(v, v));
}

template <class T>
ADDER_SIMD void RotateNeighbours(const T* x, const float* cos, const float* sin, int64_t channels,
                                 T* y) {
  for (int64_t i = 0; i < channels; i += kLanes) {
    const int64_t n = channels - i < kLanes ? channels - i : kLanes;
    const F32 value = LoadLanes(x + i, n);
    const F32 rotated =
        MulAdd(SwapNeighbours(value), LoadLanes(sin + i, n), value * LoadLanes(cos + i, n));
    StoreLanes(rotated, y + i, n);
  }
}

template <class T>
void Rotate(const RotaryArguments& a) {
  float* cos = a.table;
  float* sin = a.table + a.rotary_dim;
  for (int64_t t = 0; t < a.rows; ++t) {
    const T* x = static_cast<const T*>(a.x) + t * a.x_stride;
    T* y = static_cast<T*>(a.y) + t * a.y_stride;
    FillTable(a, a.positions[t], cos, sin);
    for (int64_t head = 0; head < a.heads; ++head, x += a.d_head, y += a.d_head) {
      if (a.interleaved) {
        RotateNeighbours(x, cos, sin, a.rotary_dim, y);
      } else {
        RotateHalves(x, cos, sin, a.rotary_dim / 2, y);
      }
      if (x != y) {
        for (int64_t d = a.rotary_dim; d < a.d_head; ++d) y[d] = x[d];
      }
    }
  }
}

}  // namespace

void RotaryKernel(const RotaryArguments& arguments) {
  VisitActivation(arguments.dtype, [&](auto type) { Rotate<decltype(type)>(arguments); });
}

}  // namespace adder::cpu::ADDER_ISA
