// most_likely on CUDA: a block for each row. Memory-bound.
#include <cmath>
#include <cstdint>

#include "adder/backend/cuda/runtime.cuh"
#include "adder/ops/most_likely/most_likely_cuda.h"

namespace adder::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarp = 32;
constexpr int kWarps = kThreads / kWarp;
constexpr int32_t kNone = INT32_MAX;

// The larger logit, of equal ones the first.
__device__ void Better(float logit, int32_t token, float* best, int32_t* best_token) {
  if (logit > *best || (logit == *best && token < *best_token)) {
    *best = logit;
    *best_token = token;
  }
}

// Of the warp, in every lane.
__device__ void BestOfWarp(float* best, int32_t* token) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    const float other = __shfl_xor_sync(0xffffffff, *best, distance);
    const int32_t other_token = __shfl_xor_sync(0xffffffff, *token, distance);
    Better(other, other_token, best, token);
  }
}

__global__ void __launch_bounds__(kThreads)
    MostLikelyKernel(const float* logits, int64_t stride, int64_t vocab, int32_t* tokens) {
  __shared__ float bests[kWarps];
  __shared__ int32_t best_tokens[kWarps];
  const float* row = logits + static_cast<int64_t>(blockIdx.x) * stride;
  float best = -INFINITY;
  int32_t token = kNone;
  bool valid = true;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < vocab; i += kThreads) {
    const float logit = row[i];
    valid = valid && logit < INFINITY;  // NaN is not, either
    if (logit > best) {
      best = logit;
      token = static_cast<int32_t>(i);
    }
  }
  valid = __syncthreads_and(valid) != 0;
  BestOfWarp(&best, &token);
  const unsigned warp = threadIdx.x / kWarp;
  const unsigned lane = threadIdx.x % kWarp;
  if (lane == 0) {
    bests[warp] = best;
    best_tokens[warp] = token;
  }
  __syncthreads();
  if (warp != 0) return;
  best = bests[lane];
  token = best_tokens[lane];
  BestOfWarp(&best, &token);
  if (lane == 0) tokens[blockIdx.x] = valid && token != kNone ? token : -1;
}
static_assert(kWarps == kWarp, "one warp takes the bests of all");

}  // namespace

void MostLikely(const MostLikelyArguments& a) {
  if (a.rows == 0) return;
  Context& context = ContextOf(a.device);
  const ProfilerRange range("most_likely");
  MostLikelyKernel<<<static_cast<unsigned>(a.rows), kThreads, 0, context.stream()>>>(
      static_cast<const float*>(a.logits.data), a.logits.stride, a.vocab, a.tokens);
  CheckLaunch("most_likely");
}

}  // namespace adder::cuda
