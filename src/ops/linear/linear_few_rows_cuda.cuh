// linear of few rows, as in generation: W is read once, at the speed of memory.
#pragma once

#include "adder/backend/cuda/runtime.cuh"
#include "adder/ops/linear/linear_cuda.h"

namespace adder::cuda {

// Whether the kernels take these arguments: few rows, and W's rows in pieces of 16 bytes.
bool TakesFewRows(const LinearArguments& a);
void LinearFewRows(Context& context, const LinearArguments& a);

// The same for W of q8_0, q4_0 or q4_k.
bool TakesQuantizedRows(const LinearArguments& a);
void LinearQuantizedRows(Context& context, const LinearArguments& a);

}  // namespace adder::cuda
