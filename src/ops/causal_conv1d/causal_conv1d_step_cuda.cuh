// causal_conv1d of sequences of one row each, as in generation.
#pragma once

#include "adder/backend/cuda/runtime.cuh"
#include "adder/ops/causal_conv1d/causal_conv1d_cuda.h"

namespace adder::cuda {

bool IsConvStep(const CausalConv1dArguments& a);
// vectors: four channels of x, y and the windows can be read at once.
void CausalConv1dStep(Context& context, const CausalConv1dArguments& a, bool vectors);

}  // namespace adder::cuda
