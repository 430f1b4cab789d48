// rms_norm of few rows, as in generation.
#pragma once

#include "adder/backend/cuda/runtime.cuh"
#include "adder/ops/rms_norm/rms_norm_cuda.h"

namespace adder::cuda {

// Whether the kernel takes these arguments. four: four channels of everything can be read at once.
bool TakesFewNormRows(const Context& context, const RmsNormArguments& a, bool four);
void RmsNormFewRows(Context& context, const RmsNormArguments& a);

}  // namespace adder::cuda
