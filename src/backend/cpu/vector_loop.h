// Loops over a row of elements in vectors, for kernels that go over rows, and sums that stay
// accurate however long the row and whatever the size of its elements. As simd.h, for *_kernel.cc
// only.
#pragma once

#include "adder/backend/cpu/simd.h"

namespace adder::cpu::ADDER_ISA {

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

// The power of two by which the elements of a row must be scaled for the mean of their squares plus
// eps to keep its digits in f32, given the sum of the squares as they are: 1 but where that has
// overflowed, or where it is so small, with no eps to outweigh it, that squares were lost.
ADDER_SIMD float ScaleOfSquares(double sum_of_squares, int64_t count, float eps) {
  if (sum_of_squares == __builtin_inf()) return 0x1p-80f;
  // What was lost of each square, 2⁻¹²⁶ at most, is past the 24th digit of a mean from here on.
  const double mean = sum_of_squares / static_cast<double>(count) + static_cast<double>(eps);
  return mean < 0x1p-100 ? 0x1p80f : 1.0f;
}

}  // namespace adder::cpu::ADDER_ISA
