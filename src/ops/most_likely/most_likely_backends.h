// What the dispatch of most_likely calls on a CUDA device. Not for callers of the operator.
#pragma once

#include "adder/core/tensor.h"

namespace adder::cuda {

// Arguments are checked already.
void MostLikely(const Tensor& logits, const Tensor& tokens);

}  // namespace adder::cuda
