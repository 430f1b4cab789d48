// most_likely on CUDA: a block for each row. Memory-bound.
#include "adder/backend/cuda/launch.cuh"
#include "adder/ops/most_likely/best_logit.cuh"
#include "adder/ops/most_likely/most_likely_cuda.h"

namespace adder::cuda {
namespace {

constexpr int kThreads = 1024;

__global__ void __launch_bounds__(kThreads)
    MostLikelyKernel(const float* logits, int64_t stride, int64_t vocab, int32_t* tokens) {
  const float* row = logits + static_cast<int64_t>(blockIdx.x) * stride;
  LetNextKernelBegin();
  WaitForKernelsBefore();
  const BestLogit best = BestOfRow<kThreads>(row, vocab);
  if (threadIdx.x == 0) tokens[blockIdx.x] = best.token;
}

}  // namespace

void MostLikely(const MostLikelyArguments& a) {
  if (a.rows == 0) return;
  Context& context = ContextOf(a.device);
  const ProfilerRange range("most_likely");
  LaunchOverlapped(
      context, {.name = "most_likely", .grid = static_cast<unsigned>(a.rows), .block = kThreads},
      MostLikelyKernel, static_cast<const float*>(a.logits.data), a.logits.stride, a.vocab,
      a.tokens);
}

}  // namespace adder::cuda
