// most_likely on a CUDA device: hands the tensors to the module.
#include "adder/backend/cuda/module.h"
#include "adder/ops/cuda_operators.h"
#include "adder/ops/most_likely/most_likely_backends.h"

namespace adder::cuda {

void MostLikely(const Tensor& logits, const Tensor& tokens) {
  GetModule().operators().most_likely({.device = logits.device().index,
                                       .rows = logits.dim(0),
                                       .vocab = logits.dim(1),
                                       .logits = RowsOf(logits),
                                       .tokens = tokens.data<int32_t>()});
}

}  // namespace adder::cuda
