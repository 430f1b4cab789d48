// sample: argument checks, the CPU, and the choice of the backend by the logits' device.
#include "adder/ops/sample/sample.h"

#include <fmt/core.h>

#include <cstddef>
#include <limits>

#include "adder/backend/cpu/parallel.h"
#include "adder/ops/argument_check.h"
#include "adder/ops/most_likely/most_likely.h"
#include "adder/ops/sample/sample_backends.h"

namespace adder {
namespace {

int32_t SampleRow(std::span<const float> logits, const RowSampling& row) {
  const int32_t likeliest = MostLikely(logits);
  if (likeliest < 0 || IsMostLikely(row.options)) return likeliest;
  return SampleToken(logits, row.options, row.recent, row.uniform);
}

}  // namespace

bool IsMostLikely(const SamplingOptions& options) {
  return options.temperature == 0.0 && options.repetition_penalty == 1.0;
}

void Sample(const Tensor& logits, std::span<const RowSampling> rows, const Tensor& tokens) {
  const ArgumentCheck check("sample", logits.device());
  check.Rank(logits, "logits", 2);
  check.Rows(logits, "logits", {DType::kF32}, logits.shape());
  check.That(logits.dim(1) <= std::numeric_limits<int32_t>::max(), "there are too many tokens");
  check.Dense(tokens, "tokens", {DType::kI32}, {logits.dim(0)});
  if (static_cast<int64_t>(rows.size()) != logits.dim(0)) {
    check.Fail(
        fmt::format("there are {} rows of logits and options for {}", logits.dim(0), rows.size()));
  }
  for (const RowSampling& row : rows) {
    CheckSamplingOptions(row.options);
    check.That(row.uniform >= 0.0 && row.uniform < 1.0, "a uniform number is outside [0, 1)");
  }
  if (logits.device().type == DeviceType::kCuda) return cuda::Sample(logits, rows, tokens);
  if (logits.device().type != DeviceType::kCpu) ThrowNoBackend("sample", logits.device());
  const auto vocab = static_cast<size_t>(logits.dim(1));
  cpu::ParallelFor(logits.dim(0), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      tokens.data<int32_t>()[r] = SampleRow({static_cast<const float*>(logits.row(r)), vocab},
                                            rows[static_cast<size_t>(r)]);
    }
  });
}

}  // namespace adder
