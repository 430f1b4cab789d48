// sample on a CUDA device: packs the rows' options and recent tokens into one piece, copies it to
// the device and hands it to the module.
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <vector>

#include "adder/backend/cuda/module.h"
#include "adder/ops/cuda_operators.h"
#include "adder/ops/most_likely/most_likely.h"
#include "adder/ops/sample/sample_backends.h"

namespace adder::cuda {

void Sample(const Tensor& logits, std::span<const RowSampling> rows, const Tensor& tokens) {
  if (std::all_of(rows.begin(), rows.end(),
                  [](const RowSampling& row) { return IsMostLikely(row.options); })) {
    return MostLikely(logits, tokens);
  }
  const int64_t vocab = logits.dim(1);
  std::vector<SampleRow> options;
  std::vector<int32_t> recent;
  for (const RowSampling& row : rows) {
    const SamplingOptions& chosen = row.options;
    const bool penalised = chosen.repetition_penalty != 1.0;
    const size_t window =
        penalised ? std::min(row.recent.size(), static_cast<size_t>(chosen.repetition_window)) : 0;
    options.push_back({.temperature = chosen.temperature,
                       .top_p = chosen.top_p,
                       .min_p = chosen.min_p,
                       .repetition_penalty = chosen.repetition_penalty,
                       .uniform = row.uniform,
                       .top_k = chosen.top_k == 0 ? vocab : std::min(chosen.top_k, vocab),
                       .recent_begin = static_cast<int64_t>(recent.size()),
                       .recent_count = static_cast<int64_t>(window)});
    const std::span<const int32_t> last = row.recent.last(window);
    recent.insert(recent.end(), last.begin(), last.end());
  }
  const size_t options_bytes = options.size() * sizeof(SampleRow);
  const size_t recent_bytes = recent.size() * sizeof(int32_t);
  const Tensor packed =
      Tensor::Empty({static_cast<int64_t>(options_bytes + recent_bytes)}, DType::kU8);
  auto* const bytes = static_cast<std::byte*>(packed.raw());
  std::memcpy(bytes, options.data(), options_bytes);
  if (recent_bytes > 0) std::memcpy(bytes + options_bytes, recent.data(), recent_bytes);
  const Tensor there = packed.To(logits.device());
  const auto* const data = static_cast<const std::byte*>(there.raw());
  const Tensor scores =
      recent.empty() ? Tensor() : Tensor::Empty(logits.shape(), DType::kF32, logits.device());
  GetModule().operators().sample({.device = logits.device().index,
                                  .rows = logits.dim(0),
                                  .vocab = vocab,
                                  .logits = RowsOf(logits),
                                  .options = reinterpret_cast<const SampleRow*>(data),
                                  .recent = reinterpret_cast<const int32_t*>(data + options_bytes),
                                  .scores = FloatsOf(scores),
                                  .tokens = tokens.data<int32_t>()});
}

}  // namespace adder::cuda
