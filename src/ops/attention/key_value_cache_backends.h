// What the key and value cache calls on a CUDA device. Not for its callers.
#pragma once

#include <span>

#include "adder/core/tensor.h"
#include "adder/ops/attention/key_value_cache_cuda.h"

namespace adder::cuda {

// Matrices of as many columns, f32, bf16 or f16 each; rows are converted. One launch for all spans.
void CopyRowSpans(const Tensor& from, const Tensor& to, std::span<const RowSpan> spans);

// Row s becomes row lengths[s] of the cache's sequence s. Arguments are checked already.
void AppendRows(const Tensor& rows, const Tensor& lengths, const Tensor& cache);

}  // namespace adder::cuda
