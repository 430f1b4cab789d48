// layer_norm on a CUDA device: hands the tensors to the module.
#include "adder/backend/cuda/module.h"
#include "adder/ops/cuda_operators.h"
#include "adder/ops/layer_norm/layer_norm_backends.h"

namespace adder::cuda {

void LayerNorm(const LayerNormInputs& inputs, const LayerNormOutputs& outputs) {
  GetModule().operators().layer_norm({.device = inputs.x.device().index,
                                      .rows = inputs.x.dim(0),
                                      .channels = inputs.x.dim(1),
                                      .x = RowsOf(inputs.x),
                                      .residual = RowsOf(inputs.residual),
                                      .y = RowsOf(outputs.y),
                                      .residual_out = RowsOf(outputs.residual_out),
                                      .weight = FloatsOf(inputs.weight),
                                      .bias = FloatsOf(inputs.bias),
                                      .eps = inputs.eps});
}

void LayerNormBackward(const Tensor& r, const Tensor& weight, float eps, const Tensor& dy,
                       const Tensor& d_residual_out, const LayerNormGradients& gradients) {
  GetModule().operators().layer_norm_backward({.device = r.device().index,
                                               .rows = r.dim(0),
                                               .channels = r.dim(1),
                                               .r = RowsOf(r),
                                               .dy = RowsOf(dy),
                                               .d_residual_out = RowsOf(d_residual_out),
                                               .dr = RowsOf(gradients.dr),
                                               .dx = RowsOf(gradients.dx),
                                               .weight = FloatsOf(weight),
                                               .eps = eps,
                                               .dweight = FloatsOf(gradients.dweight),
                                               .dbias = FloatsOf(gradients.dbias)});
}

}  // namespace adder::cuda
