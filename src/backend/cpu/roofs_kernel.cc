// Loops that do one thing as fast as the machine can.
#include "adder/backend/cpu/roofs_kernel.h"

#include "adder/backend/cpu/simd.h"

namespace adder::cpu::ADDER_ISA {
namespace {

// Chains of dependent operations in flight: enough for two units of latency 5.
constexpr int kRoofChains = 12;

template <class Step>
ADDER_SIMD void Chains(const ArithmeticRoofArguments& a, int64_t operations_a_step, Step step) {
  F32 sums[kRoofChains];
  for (int c = 0; c < kRoofChains; ++c) sums[c] = Set(static_cast<float>(c));
  for (int64_t i = 0; i < a.steps; ++i) {
    for (int c = 0; c < kRoofChains; ++c) sums[c] = step(sums[c]);
  }
  F32 sum = Zero();
  for (int c = 0; c < kRoofChains; ++c) sum += sums[c];
  *a.sink = ReduceSum(sum);
  *a.operations =
      static_cast<double>(a.steps) * kRoofChains * static_cast<double>(operations_a_step);
}

}  // namespace

void ArithmeticRoofKernel(const ArithmeticRoofArguments& a) {
  if (a.bf16) {
    const U32 factor = SetU32(0x3f003f00u);  // pairs of 0.5
    Chains(
        a, int64_t{4} * kLanes, [=](F32 sum) __attribute__((always_inline)) {
          return DotPairs(factor, factor, sum);
        });
  } else {
    const F32 factor = Set(0.5f);
    Chains(
        a, int64_t{2} * kLanes, [=](F32 sum) __attribute__((always_inline)) {
          return MulAdd(sum, factor, factor);
        });
  }
}

void ReadRoofKernel(const ReadRoofArguments& a) {
  constexpr int kUnroll = 8;
  constexpr int64_t kAhead = 4096;  // elements to fetch ahead; past the end it does no harm
  F32 sums[kUnroll] = {};
  int64_t i = 0;
  for (; i + kUnroll * kLanes <= a.count; i += kUnroll * kLanes) {
    for (int u = 0; u < kUnroll; ++u) {
      sums[u] += Load(a.x + i + u * kLanes);
      __builtin_prefetch(a.x + i + u * kLanes + kAhead, 0, 2);
    }
  }
  for (int u = 1; u < kUnroll; ++u) sums[0] += sums[u];
  float sum = ReduceSum(sums[0]);
  for (; i < a.count; ++i) sum += a.x[i];
  *a.sink = sum;
}

void CopyRoofKernel(const CopyRoofArguments& a) {
  int64_t i = 0;
#if defined(__AVX512F__)
  for (; i + kLanes <= a.count; i += kLanes) {
    _mm512_stream_ps(a.y + i, _mm512_loadu_ps(a.x + i));
  }
  _mm_sfence();
#elif defined(__AVX2__)
  for (; i + kLanes <= a.count; i += kLanes) {
    _mm256_stream_ps(a.y + i, _mm256_loadu_ps(a.x + i));
  }
  _mm_sfence();
#else
  for (; i + kLanes <= a.count; i += kLanes) Store(Load(a.x + i), a.y + i);
#endif
  for (; i < a.count; ++i) a.y[i] = a.x[i];
}

}  // namespace adder::cpu::ADDER_ISA
