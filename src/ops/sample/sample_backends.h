// What the dispatch of sample calls on a CUDA device. Not for callers of the operator.
#pragma once

#include <span>

#include "adder/core/tensor.h"
#include "adder/ops/sample/sample.h"

namespace adder {

// Whether a token is the likeliest one whatever was drawn before.
bool IsMostLikely(const SamplingOptions& options);

namespace cuda {

// Arguments are checked already.
void Sample(const Tensor& logits, std::span<const RowSampling> rows, const Tensor& tokens);

}  // namespace cuda
}  // namespace adder
