// The key and value cache on a CUDA device: hands the tensors to the module.
#include "adder/backend/cuda/module.h"
#include "adder/ops/attention/key_value_cache.h"
#include "adder/ops/attention/key_value_cache_backends.h"
#include "adder/ops/cuda_operators.h"

namespace adder::cuda {

void CopyRowSpans(const Tensor& from, const Tensor& to, std::span<const RowSpan> spans) {
  GetModule().operators().copy_row_spans({.device = to.device().index,
                                          .columns = to.dim(1),
                                          .from = RowsOf(from),
                                          .to = RowsOf(to),
                                          .spans = spans.data(),
                                          .count = static_cast<int64_t>(spans.size())});
}

void AppendRows(const Tensor& rows, const Tensor& lengths, const Tensor& cache) {
  GetModule().operators().append_rows({.device = cache.device().index,
                                       .sequences = cache.dim(0),
                                       .capacity = cache.dim(1),
                                       .columns = cache.dim(2),
                                       .rows = RowsOf(rows),
                                       .cache = RowsOf(CacheRows(cache)),
                                       .lengths = lengths.data<int64_t>()});
}

}  // namespace adder::cuda
