// Sums over the rows of a matrix, in a fixed order: the last step of every parameter's gradient.
#pragma once

#include "adder/backend/cuda/runtime.cuh"

namespace adder::cuda {

// sums[c] += Σ_r partial[r · stride + c]
void AddColumnSums(Context& context, const float* partial, int64_t rows, int64_t stride,
                   int64_t columns, float* sums);

}  // namespace adder::cuda
