// rms_norm on a CUDA device: hands the tensors to the module.
#include "adder/backend/cuda/module.h"
#include "adder/ops/cuda_operators.h"
#include "adder/ops/rms_norm/rms_norm_backends.h"

namespace adder::cuda {

void RmsNorm(const RmsNormInputs& inputs, const RmsNormOutputs& outputs) {
  GetModule().operators().rms_norm({.device = inputs.x.device().index,
                                    .rows = inputs.x.dim(0),
                                    .channels = inputs.x.dim(1),
                                    .x = RowsOf(inputs.x),
                                    .residual = RowsOf(inputs.residual),
                                    .y = RowsOf(outputs.y),
                                    .residual_out = RowsOf(outputs.residual_out),
                                    .weight = FloatsOf(inputs.weight),
                                    .eps = inputs.eps});
}

void RmsNormBackward(const Tensor& r, const Tensor& weight, float eps, const Tensor& dy,
                     const Tensor& d_residual_out, const RmsNormGradients& gradients) {
  GetModule().operators().rms_norm_backward({.device = r.device().index,
                                             .rows = r.dim(0),
                                             .channels = r.dim(1),
                                             .r = RowsOf(r),
                                             .dy = RowsOf(dy),
                                             .d_residual_out = RowsOf(d_residual_out),
                                             .dr = RowsOf(gradients.dr),
                                             .dx = RowsOf(gradients.dx),
                                             .weight = FloatsOf(weight),
                                             .eps = eps,
                                             .dweight = FloatsOf(gradients.dweight)});
}

}  // namespace adder::cuda
