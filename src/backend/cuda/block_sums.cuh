// Sums over blocks whose number of threads, whole warps, is known at run time only: what the norms
// share that give each thread of a block a piece of a row.
#pragma once

#include "adder/backend/cuda/numbers.cuh"

namespace adder::cuda {

// The sum over the block's threads, at most kMostThreads, in all of them, always in the same order.
template <int kMostThreads, class T>
__device__ inline T SumOfBlock(T value) {
  __shared__ T sums[kMostThreads / 32];
  value = WarpSum(value);
  __syncthreads();  // those of the call before have been read
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  value = 0;
  for (unsigned i = 0; i < blockDim.x / 32; ++i) value += sums[i];
  return value;
}

// Two such sums for one row after the other, at one barrier each: those of a row are read while
// those of the next are written elsewhere.
template <int kMostThreads>
__device__ inline float2 SumsOfRow(float2 value, int64_t row) {
  __shared__ float2 sums[2][kMostThreads / 32];
  float2(&row_sums)[kMostThreads / 32] = sums[row % 2];
  value = {WarpSum(value.x), WarpSum(value.y)};
  if (threadIdx.x % 32 == 0) row_sums[threadIdx.x / 32] = value;
  __syncthreads();
  value = {0, 0};
  for (unsigned i = 0; i < blockDim.x / 32; ++i) {
    const float2 each = row_sums[i];
    value.x += each.x;
    value.y += each.y;
  }
  return value;
}

}  // namespace adder::cuda
