// simd.h's functions over arrays.
#include "adder/backend/cpu/simd.h"
#include "adder/backend/cpu/vector_math.h"

namespace adder::cpu::ADDER_ISA {
namespace {

template <class Function>
ADDER_SIMD void Map(const VectorMathArguments& a, Function function) {
  int64_t i = 0;
  // Four vectors at a time: each is a long chain of dependent instructions.
  for (; i + 4 * kLanes <= a.count; i += 4 * kLanes) {
    F32 v[4];
    for (int k = 0; k < 4; ++k) v[k] = Load(a.x + i + k * kLanes);
    for (int k = 0; k < 4; ++k) v[k] = function(v[k]);
    for (int k = 0; k < 4; ++k) Store(v[k], a.y + i + k * kLanes);
  }
  for (; i + kLanes <= a.count; i += kLanes) Store(function(Load(a.x + i)), a.y + i);
  if (i < a.count) {
    StorePartial(function(LoadPartial(a.x + i, a.count - i)), a.y + i, a.count - i);
  }
}

template <class From, class To>
void Convert(const From* from, To* to, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) Store(Load(from + i), to + i);
  if (i < count) StorePartial(LoadPartial(from + i, count - i), to + i, count - i);
}

template <class From>
void ConvertFrom(const VectorConvertArguments& a) {
  const auto* from = static_cast<const From*>(a.from);
  switch (a.to_dtype) {
    case DType::kF32:
      return Convert(from, static_cast<float*>(a.to), a.count);
    case DType::kBF16:
      return Convert(from, static_cast<BFloat16*>(a.to), a.count);
    case DType::kF16:
      return Convert(from, static_cast<Half*>(a.to), a.count);
    default:
      return;
  }
}

}  // namespace

void VectorMath(const VectorMathArguments& a) {
  switch (a.function) {
    case VectorFunction::kExp:
      return Map(
          a, [](F32 x) __attribute__((always_inline)) { return Exp(x); });
    case VectorFunction::kExp2:
      return Map(
          a, [](F32 x) __attribute__((always_inline)) { return Exp2(x); });
    case VectorFunction::kLog:
      return Map(
          a, [](F32 x) __attribute__((always_inline)) { return Log(x); });
    case VectorFunction::kLog1p:
      return Map(
          a, [](F32 x) __attribute__((always_inline)) { return Log1p(x); });
    case VectorFunction::kSoftplus:
      return Map(
          a, [](F32 x) __attribute__((always_inline)) { return Softplus(x); });
    case VectorFunction::kSigmoid:
      return Map(
          a, [](F32 x) __attribute__((always_inline)) { return Sigmoid(x); });
    case VectorFunction::kSilu:
      return Map(
          a, [](F32 x) __attribute__((always_inline)) { return Silu(x); });
    case VectorFunction::kSqrt:
      return Map(
          a, [](F32 x) __attribute__((always_inline)) { return Sqrt(x); });
    case VectorFunction::kRsqrt:
      return Map(
          a, [](F32 x) __attribute__((always_inline)) { return Rsqrt(x); });
    case VectorFunction::kRound:
      return Map(
          a, [](F32 x) __attribute__((always_inline)) { return Round(x); });
    case VectorFunction::kSinQuarterTurns:
      return Map(
          a, [](F32 x) __attribute__((always_inline)) { return SinCosQuarterTurns(x).sin; });
    case VectorFunction::kCosQuarterTurns:
      return Map(
          a, [](F32 x) __attribute__((always_inline)) { return SinCosQuarterTurns(x).cos; });
  }
}

void VectorConvert(const VectorConvertArguments& a) {
  switch (a.from_dtype) {
    case DType::kF32:
      return ConvertFrom<float>(a);
    case DType::kBF16:
      return ConvertFrom<BFloat16>(a);
    case DType::kF16:
      return ConvertFrom<Half>(a);
    default:
      return;
  }
}

}  // namespace adder::cpu::ADDER_ISA
