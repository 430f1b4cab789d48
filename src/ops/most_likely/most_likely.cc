// most_likely: argument checks, the CPU, and the choice of the backend by the logits' device.
#include "adder/ops/most_likely/most_likely.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <limits>

#include "adder/backend/cpu/parallel.h"
#include "adder/ops/argument_check.h"
#include "adder/ops/most_likely/most_likely_backends.h"

namespace adder {

// One pass over the logits, several at a time; then a second one over the block of the best.
int32_t MostLikely(std::span<const float> logits) {
  constexpr size_t kLanes = 16;
  constexpr size_t kBlock = 16 * kLanes;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  float best = -kInfinity;
  size_t best_block = logits.size();
  bool valid = true;
  for (size_t begin = 0; begin < logits.size(); begin += kBlock) {
    const std::span<const float> block =
        logits.subspan(begin, std::min(kBlock, logits.size() - begin));
    std::array<float, kLanes> most;
    most.fill(-kInfinity);
    std::array<int32_t, kLanes> invalid = {};
    size_t i = 0;
    for (; i + kLanes <= block.size(); i += kLanes) {
      for (size_t lane = 0; lane < kLanes; ++lane) {
        const float logit = block[i + lane];
        most[lane] = logit > most[lane] ? logit : most[lane];
        invalid[lane] |= logit < kInfinity ? 0 : 1;  // NaN, too
      }
    }
    for (size_t lane = 0; i < block.size(); ++i, ++lane) {
      most[lane] = std::max(most[lane], block[i]);
      invalid[lane] |= block[i] < kInfinity ? 0 : 1;
    }
    const float most_of_block = *std::max_element(most.begin(), most.end());
    if (most_of_block > best) {
      best = most_of_block;
      best_block = begin;
    }
    valid = valid && std::ranges::all_of(invalid, [](int32_t flag) { return flag == 0; });
  }
  if (!valid || best_block == logits.size()) return -1;
  return static_cast<int32_t>(
      std::find(logits.begin() + static_cast<std::ptrdiff_t>(best_block), logits.end(), best) -
      logits.begin());
}

void MostLikely(const Tensor& logits, const Tensor& tokens) {
  const ArgumentCheck check("most_likely", logits.device());
  check.Rank(logits, "logits", 2);
  check.Rows(logits, "logits", {DType::kF32}, logits.shape());
  check.That(logits.dim(1) <= std::numeric_limits<int32_t>::max(), "there are too many tokens");
  check.Dense(tokens, "tokens", {DType::kI32}, {logits.dim(0)});
  if (logits.device().type == DeviceType::kCuda) return cuda::MostLikely(logits, tokens);
  if (logits.device().type != DeviceType::kCpu) ThrowNoBackend("most_likely", logits.device());
  const auto vocab = static_cast<size_t>(logits.dim(1));
  const int64_t grain =
      std::max<int64_t>(1, cpu::kElementsPerThread / std::max<int64_t>(1, logits.dim(1)));
  cpu::ParallelFor(logits.dim(0), grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      tokens.data<int32_t>()[r] = MostLikely({static_cast<const float*>(logits.row(r)), vocab});
    }
  });
}

}  // namespace adder
