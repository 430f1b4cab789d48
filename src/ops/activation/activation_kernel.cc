// activation: one loop over rows and vectors, with the function in it.
#include "adder/ops/activation/activation_kernel.h"

#include "adder/backend/cpu/vector_loop.h"

namespace adder::cpu::ADDER_ISA {
namespace {

// Φ(x), the normal distribution, and φ(x), its density. The lower tail is the density times a
// polynomial in 1 / (1 + 0.4·|x|/√2), fitted to relative 1.3e-8; the upper one is what is left
// of 1.
struct Normal {
  F32 distribution, density;
};
ADDER_SIMD Normal NormalOf(F32 x) {
  const F32 size = Abs(x);
  const F32 t = 1.0f / MulAdd(size, Set(0.28284273f), Set(1.0f));
  F32 p = MulAdd(t, Set(-0x1.aa6c0ep-7f), Set(0x1.6e3dd2p-4f));
  p = MulAdd(t, p, Set(-0x1.d11b7ap-3f));
  p = MulAdd(t, p, Set(0x1.f47182p-3f));
  p = MulAdd(t, p, Set(-0x1.e3d4acp-4f));
  p = MulAdd(t, p, Set(0x1.f92ecep-4f));
  p = MulAdd(t, p, Set(0x1.1b377cp-4f));
  p = MulAdd(t, p, Set(0x1.b47578p-4f));
  p = MulAdd(t, p, Set(0x1.cd22a8p-4f));
  p = MulAdd(t, p, Set(0x1.ce39e0p-4f));
  const F32 e = Exp(size * size * -0.5f);
  const F32 tail = e * t * p;
  return {Select(x < Zero(), tail, 1.0f - tail), e * 0.398942280f};
}

ADDER_SIMD F32 Gelu(F32 x) { return x * NormalOf(x).distribution; }
ADDER_SIMD F32 GeluSlope(F32 x) {
  const Normal normal = NormalOf(x);
  return MulAdd(x, normal.density, normal.distribution);
}

// (1 + tanh(u)) / 2 is sigmoid(2u).
constexpr float kTwoRootTwoOverPi = 1.59576912f;
ADDER_SIMD F32 TanhArgument(F32 x) {
  return x * MulAdd(x * x, Set(0.044715f * kTwoRootTwoOverPi), Set(kTwoRootTwoOverPi));
}
ADDER_SIMD F32 GeluTanh(F32 x) { return x * Sigmoid(TanhArgument(x)); }
ADDER_SIMD F32 GeluTanhSlope(F32 x) {
  const F32 sigmoid = Sigmoid(TanhArgument(x));
  const F32 slope = MulAdd(x * x, Set(3 * 0.044715f * kTwoRootTwoOverPi), Set(kTwoRootTwoOverPi));
  // Far out x · slope is infinite where the factor is 0.
  const F32 bent = x * slope * sigmoid * (1.0f - sigmoid);
  return sigmoid + Select(Abs(x) < Set(16.0f), bent, Zero() * x);
}

template <class T>
ADDER_SIMD T* Row(const ElementwiseMatrix& matrix, int64_t row) {
  return matrix.data != nullptr ? static_cast<T*>(matrix.data) + row * matrix.stride : nullptr;
}

// y = function(x)
template <class T, class Function>
void Map(const ElementwiseArguments& a, const Function& function) {
  for (int64_t t = 0; t < a.rows; ++t) {
    const T* x = Row<T>(a.in[0], t);
    T* y = Row<T>(a.out[0], t);
    ForEachVector(
        0, a.columns, [&](int64_t d, int64_t n, int) __attribute__((always_inline)) {
          StoreLanes(function(LoadLanes(x + d, n)), y + d, n);
        });
  }
}

// y = function(a, b)
template <class T, class Function>
void MapPairs(const ElementwiseArguments& a, const Function& function) {
  if (a.out[0].data == nullptr) return;
  for (int64_t t = 0; t < a.rows; ++t) {
    const T* first = Row<T>(a.in[0], t);
    const T* second = Row<T>(a.in[1], t);
    T* y = Row<T>(a.out[0], t);
    ForEachVector(
        0, a.columns, [&](int64_t d, int64_t n, int) __attribute__((always_inline)) {
          StoreLanes(function(LoadLanes(first + d, n), LoadLanes(second + d, n)), y + d, n);
        });
  }
}

template <class T>
void SwiGluBackward(const ElementwiseArguments& a) {
  for (int64_t t = 0; t < a.rows; ++t) {
    const T* gate = Row<T>(a.in[0], t);
    const T* up = Row<T>(a.in[1], t);
    const T* dy = Row<T>(a.in[2], t);
    T* dgate = Row<T>(a.out[0], t);
    T* dup = Row<T>(a.out[1], t);
    ForEachVector(
        0, a.columns, [&](int64_t d, int64_t n, int) __attribute__((always_inline)) {
          const ValueAndSlope silu = SiluWithSlope(LoadLanes(gate + d, n));
          const F32 gradient = LoadLanes(dy + d, n);
          const F32 to_gate = gradient * LoadLanes(up + d, n) * silu.slope;
          if (dgate != nullptr) StoreLanes(to_gate, dgate + d, n);
          if (dup != nullptr) StoreLanes(gradient * silu.value, dup + d, n);
        });
  }
}

template <class T>
void Run(const ElementwiseArguments& a) {
  switch (a.function) {
    case ElementwiseFunction::kGelu:
      return Map<T>(
          a, [](F32 x) __attribute__((always_inline)) { return Gelu(x); });
    case ElementwiseFunction::kGeluTanh:
      return Map<T>(
          a, [](F32 x) __attribute__((always_inline)) { return GeluTanh(x); });
    case ElementwiseFunction::kSilu:
      return Map<T>(
          a, [](F32 x) __attribute__((always_inline)) { return Silu(x); });
    case ElementwiseFunction::kGeluBackward:
      return MapPairs<T>(
          a, [](F32 x, F32 dy) __attribute__((always_inline)) { return dy * GeluSlope(x); });
    case ElementwiseFunction::kGeluTanhBackward:
      return MapPairs<T>(
          a, [](F32 x, F32 dy) __attribute__((always_inline)) { return dy * GeluTanhSlope(x); });
    case ElementwiseFunction::kSiluBackward:
      return MapPairs<T>(
          a,
          [](F32 x, F32 dy) __attribute__((always_inline)) { return dy * SiluWithSlope(x).slope; });
    case ElementwiseFunction::kSwiGlu:
      return MapPairs<T>(
          a, [](F32 gate, F32 up) __attribute__((always_inline)) { return Silu(gate) * up; });
    case ElementwiseFunction::kSwiGluBackward:
      return SwiGluBackward<T>(a);
    case ElementwiseFunction::kAdd:
      return MapPairs<T>(
          a, [](F32 x, F32 y) __attribute__((always_inline)) { return x + y; });
  }
}

}  // namespace

void ElementwiseKernel(const ElementwiseArguments& arguments) {
  VisitActivation(arguments.dtype, [&](auto type) { Run<decltype(type)>(arguments); });
}

}  // namespace adder::cpu::ADDER_ISA
