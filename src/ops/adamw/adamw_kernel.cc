// adamw: one pass over weight, gradient and both moments; and the sum of a gradient's squares.
#include "adder/ops/adamw/adamw_kernel.h"

#include "adder/backend/cpu/simd.h"

namespace adder::cpu::ADDER_ISA {
namespace {

constexpr float kMostGradient = 0x1p63f;

// Updates the moments in place and returns the new weight.
ADDER_SIMD F32 Step(const AdamWArguments& a, F32 gradient, F32 weight, F32& m, F32& v) {
  const F32 scaled = gradient * a.gradient_scale;
  // A finite gradient's square stays finite; NaN and infinity go through.
  const F32 g = Select(Abs(scaled) < Set(__builtin_inff()),
                       Max(Set(-kMostGradient), Min(Set(kMostGradient), scaled)), scaled);
  m = MulAdd(Set(a.beta1), m, a.one_minus_beta1 * g);
  v = MulAdd(Set(a.beta2), v, a.one_minus_beta2 * g * g);
  const F32 update = a.rate * m / (Sqrt(v * a.second_correction) + a.eps);
  return weight - MulAdd(Set(a.decay), weight, update);
}

template <class Copy>
void Update(const AdamWArguments& a) {
  Copy* copy = static_cast<Copy*>(a.compute_weight);
  int64_t i = 0;
  for (; i + kLanes <= a.elements; i += kLanes) {
    F32 m = Load(a.m + i);
    F32 v = Load(a.v + i);
    const F32 weight = Step(a, Load(a.gradient + i), Load(a.weight + i), m, v);
    Store(m, a.m + i);
    Store(v, a.v + i);
    Store(weight, a.weight + i);
    if (copy != nullptr) Store(weight, copy + i);
  }
  const int64_t rest = a.elements - i;
  if (rest == 0) return;
  F32 m = LoadPartial(a.m + i, rest);
  F32 v = LoadPartial(a.v + i, rest);
  const F32 weight =
      Step(a, LoadPartial(a.gradient + i, rest), LoadPartial(a.weight + i, rest), m, v);
  StorePartial(m, a.m + i, rest);
  StorePartial(v, a.v + i, rest);
  StorePartial(weight, a.weight + i, rest);
  if (copy != nullptr) StorePartial(weight, copy + i, rest);
}

// The same lanes with every instruction set. The square of an f32 is exact in double, so that fused
// instructions make no difference either.
typedef float Floats __attribute__((vector_size(32)));
typedef double Doubles __attribute__((vector_size(64)));
constexpr int kDoubles = 8;
constexpr int kSums = 4;

}  // namespace

void AdamWKernel(const AdamWArguments& arguments) {
  if (arguments.compute_dtype == DType::kF16) return Update<Half>(arguments);
  return Update<BFloat16>(arguments);
}

void SumOfSquaresKernel(const SumOfSquaresArguments& arguments) {
  Doubles sums[kSums] = {};
  int64_t i = 0;
  for (; i + kSums * kDoubles <= arguments.elements; i += kSums * kDoubles) {
    for (int j = 0; j < kSums; ++j) {
      Floats floats;
      __builtin_memcpy(&floats, arguments.values + i + j * kDoubles, sizeof(floats));
      const Doubles values = __builtin_convertvector(floats, Doubles);
      sums[j] += values * values;
    }
  }
  const Doubles lanes = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  double sum = 0;
  for (int lane = 0; lane < kDoubles; ++lane) sum += lanes[lane];
  for (; i < arguments.elements; ++i) {
    const double value = static_cast<double>(arguments.values[i]);
    sum += value * value;
  }
  *arguments.sum = sum;
}

}  // namespace adder::cpu::ADDER_ISA
