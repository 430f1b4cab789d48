// How linear's kernels end: sums of lanes, a bias, and y's dtype. For *_kernel.cc files only.
#pragma once

#include "adder/backend/cpu/simd.h"
#include "adder/ops/linear/linear_kernel.h"

namespace adder::cpu::ADDER_ISA {

// Adds each kStride-th lane's neighbours up to the next to it.
template <int kStride>
ADDER_SIMD F32 SumNeighbours(F32 v) {
  if constexpr (kStride == 1) {
    return v;
  } else {
    return SumNeighbours<kStride / 2>(v + InterleaveOdd<kStride / 2>(v, v));
  }
}
// The sum of each of kCount vectors' lanes, sum i in lane i · kLanes / kCount; v is overwritten.
// The order of the additions does not depend on kCount.
template <int kCount>
ADDER_SIMD F32 SumOfEach(F32* v) {
  return SumNeighbours<kLanes / kCount>(FoldSums<kCount>(v));
}

// y[i · stride] = the sum in lane i · kStep, for i < count.
template <int kStep, class Y>
ADDER_SIMD void StoreLanes(F32 sums, int64_t count, Y* y, int64_t stride) {
  Y values[kLanes];
  Store(sums, values);
  for (int64_t i = 0; i < count; ++i) y[i * stride] = values[i * kStep];
}
template <int kStep>
ADDER_SIMD void StoreResults(const LinearArguments& a, F32 sums, int64_t count, int64_t at,
                             int64_t stride) {
  switch (a.y_dtype) {
    case DType::kBF16:
      return StoreLanes<kStep>(sums, count, static_cast<BFloat16*>(a.y) + at, stride);
    case DType::kF16:
      return StoreLanes<kStep>(sums, count, static_cast<Half*>(a.y) + at, stride);
    default:
      return StoreLanes<kStep>(sums, count, static_cast<float*>(a.y) + at, stride);
  }
}

// The results of one row of x for kOutputs outputs, from the sums of each in a vector of its own.
template <int kOutputs>
ADDER_SIMD void StoreRow(const LinearArguments& a, F32* sums, int64_t row, int64_t output) {
  constexpr int kLane = kLanes / kOutputs;
  F32 bias = Zero();
  for (int j = 0; j < kOutputs && a.bias != nullptr; ++j) bias[j * kLane] = a.bias[output + j];
  StoreResults<kLane>(a, SumOfEach<kOutputs>(sums) + bias, kOutputs, row * a.y_stride + output, 1);
}

}  // namespace adder::cpu::ADDER_ISA
