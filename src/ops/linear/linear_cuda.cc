// linear on a CUDA device: hands the tensors to the module.
#include "adder/backend/cuda/module.h"
#include "adder/ops/cuda_operators.h"
#include "adder/ops/linear/linear_backends.h"

namespace adder::cuda {

void Linear(const Tensor& x, const Tensor& W, const Tensor& bias, const Tensor& y) {
  GetModule().operators().linear({.device = x.device().index,
                                  .rows = x.dim(0),
                                  .N = W.dim(0),
                                  .K = W.dim(1),
                                  .x = RowsOf(x),
                                  .W = RowsOf(W),
                                  .W_row_bytes = DTypeBytes(W.dtype(), W.stride(0)),
                                  .bias = FloatsOf(bias),
                                  .y = RowsOf(y)});
}

void LinearBackward(const Tensor& x, const Tensor& W, const Tensor& dy,
                    const LinearGradients& gradients) {
  GetModule().operators().linear_backward({.device = x.device().index,
                                           .rows = x.dim(0),
                                           .N = W.dim(0),
                                           .K = W.dim(1),
                                           .x = RowsOf(x),
                                           .W = RowsOf(W),
                                           .dy = RowsOf(dy),
                                           .dx = RowsOf(gradients.dx),
                                           .accumulate_dx = gradients.accumulate_dx,
                                           .dW = RowsOf(gradients.dW),
                                           .dbias = FloatsOf(gradients.dbias)});
}

}  // namespace adder::cuda
