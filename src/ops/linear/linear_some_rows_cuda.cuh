// linear of the rows of a batch that decodes, 5 to 256 of 16 bits: W is read once, near the speed
// of memory.
#pragma once

#include "adder/backend/cuda/runtime.cuh"
#include "adder/ops/linear/linear_cuda.h"

namespace adder::cuda {

// Whether the kernels take these arguments on this device.
bool TakesSomeRows(const Context& context, const LinearArguments& a);
void LinearSomeRows(Context& context, const LinearArguments& a);

}  // namespace adder::cuda
