// Loops over a row of elements in vectors, for kernels that go over rows: loads and stores that
// stop at the row's end, and sums that stay accurate however long it is. As simd.h, for *_kernel.cc
// only.
#pragma once

#include "adder/backend/cpu/simd.h"

namespace adder::cpu::ADDER_ISA {

// n < kLanes elements, or a whole vector where n is kLanes.
template <class T>
ADDER_SIMD F32 LoadLanes(const T* from, int64_t n) {
  return n == kLanes ? Load(from) : LoadPartial(from, n);
}
template <class T>
ADDER_SIMD void StoreLanes(F32 value, T* to, int64_t n) {
  if (n == kLanes) {
    Store(value, to);
  } else {
    StorePartial(value, to, n);
  }
}

// Calls step(element, n, sum) for each vector of [begin, end), n its elements and `sum` one of four
// accumulators in turn, so that additions do not wait for each other.
template <class Step>
ADDER_SIMD void ForEachVector(int64_t begin, int64_t end, const Step& step) {
  int64_t d = begin;
  for (; d + 4 * kLanes <= end; d += 4 * kLanes) {
    step(d, int64_t{kLanes}, 0);
    step(d + kLanes, int64_t{kLanes}, 1);
    step(d + 2 * kLanes, int64_t{kLanes}, 2);
    step(d + 3 * kLanes, int64_t{kLanes}, 3);
  }
  for (; d + kLanes <= end; d += kLanes) step(d, int64_t{kLanes}, 0);
  if (d < end) step(d, end - d, 1);
}

// Sums are kept in f32 vectors for this many elements, then in double, so that a long row loses
// nothing.
inline constexpr int64_t kSumBlock = 4096;

ADDER_SIMD int64_t SumBlockEnd(int64_t begin, int64_t end) {
  return begin + kSumBlock < end ? begin + kSumBlock : end;
}

// The sum of all lanes of the four accumulators.
ADDER_SIMD double Total(const F32 (&sums)[4]) {
  return static_cast<double>(ReduceSum((sums[0] + sums[1]) + (sums[2] + sums[3])));
}

}  // namespace adder::cpu::ADDER_ISA
