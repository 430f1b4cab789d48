// The best of a row of logits: what greedy and other sampling begin with.
#pragma once

#include <cmath>
#include <cstdint>

#include "adder/backend/cuda/numbers.cuh"

namespace adder::cuda {

struct BestLogit {
  float logit;
  int32_t token;  // the first of equals; -1: there is none, or a logit is NaN or +∞
};

// Of one row, found by a whole block of kThreads threads, in all of them.
template <int kThreads>
__device__ BestLogit BestOfRow(const float* row, int64_t vocab) {
  constexpr int kWarp = 32;
  constexpr int kWarps = kThreads / kWarp;
  static_assert(kWarps == kWarp, "one warp takes the bests of all");
  constexpr int kAhead = 7;  // the usual 50 000 logits in two rounds
  constexpr int32_t kNone = INT32_MAX;
  __shared__ float bests[kWarps];
  __shared__ int32_t best_tokens[kWarps];

  const auto better = [](float logit, int32_t token, BestLogit* best) {
    if (logit > best->logit || (logit == best->logit && token < best->token)) {
      *best = {logit, token};
    }
  };
  const auto best_of_warp = [&](BestLogit* best) {
#pragma unroll
    for (int distance = kWarp / 2; distance > 0; distance /= 2) {
      const float logit = __shfl_xor_sync(0xffffffff, best->logit, distance);
      const int32_t token = __shfl_xor_sync(0xffffffff, best->token, distance);
      better(logit, token, best);
    }
  };

  BestLogit best = {-INFINITY, kNone};
  bool valid = true;
  const auto visit = [&](float logit, int64_t i) {
    valid = valid && logit < INFINITY;  // NaN is not, either
    if (logit > best.logit) best = {logit, static_cast<int32_t>(i)};
  };
  // In fours where they lie so, many of them under way at a time.
  const int64_t fours = reinterpret_cast<uintptr_t>(row) % 16 == 0 ? vocab / 4 : 0;
  for (int64_t i = threadIdx.x; i < fours; i += kAhead * kThreads) {
    uint4 bits[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (i + j * kThreads < fours) bits[j] = LoadBits<4>(row + (i + j * kThreads) * 4);
    }
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (i + j * kThreads >= fours) continue;
      float four[4];
      Unpack<float, 4>(bits[j], four);
#pragma unroll
      for (int k = 0; k < 4; ++k) visit(four[k], (i + j * kThreads) * 4 + k);
    }
  }
  for (int64_t i = fours * 4 + threadIdx.x; i < vocab; i += kThreads) visit(row[i], i);
  valid = __syncthreads_and(valid) != 0;  // also: those of the call before have been read
  best_of_warp(&best);
  const unsigned warp = threadIdx.x / kWarp;
  const unsigned lane = threadIdx.x % kWarp;
  if (lane == 0) {
    bests[warp] = best.logit;
    best_tokens[warp] = best.token;
  }
  __syncthreads();
  best = {bests[lane], best_tokens[lane]};
  best_of_warp(&best);
  if (!valid || best.token == kNone) best.token = -1;
  return best;
}

}  // namespace adder::cuda
