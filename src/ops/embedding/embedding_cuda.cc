// embedding on a CUDA device: hands the tensors to the module.
#include "adder/backend/cuda/module.h"
#include "adder/ops/cuda_operators.h"
#include "adder/ops/embedding/embedding_backends.h"

namespace adder::cuda {

void Embedding(const Tensor& tokens, const Tensor& W, const Tensor& y) {
  GetModule().operators().embedding({.device = W.device().index,
                                     .rows = tokens.dim(0),
                                     .channels = W.dim(1),
                                     .vocab = W.dim(0),
                                     .tokens = tokens.data<int32_t>(),
                                     .W = RowsOf(W),
                                     .W_row_bytes = DTypeBytes(W.dtype(), W.stride(0)),
                                     .y = RowsOf(y)});
}

void EmbeddingBackward(const Tensor& tokens, const Tensor& dy, const Tensor& dW) {
  GetModule().operators().embedding_backward({.device = dW.device().index,
                                              .rows = tokens.dim(0),
                                              .channels = dW.dim(1),
                                              .vocab = dW.dim(0),
                                              .tokens = tokens.data<int32_t>(),
                                              .dy = RowsOf(dy),
                                              .dW = dW.data<float>(),
                                              .dW_stride = dW.stride(0)});
}

}  // namespace adder::cuda
