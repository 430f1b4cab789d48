// gated_rms_norm on a CUDA device: hands the tensors to the module.
#include "adder/backend/cuda/module.h"
#include "adder/ops/cuda_operators.h"
#include "adder/ops/gated_rms_norm/gated_rms_norm_backends.h"

namespace adder::cuda {
namespace {

GatedRmsNormArguments Arguments(const GatedRmsNormInputs& inputs, int64_t group_size,
                                const Tensor& y) {
  return {.device = inputs.x.device().index,
          .rows = inputs.x.dim(0),
          .channels = inputs.x.dim(1),
          .group_size = group_size,
          .x = RowsOf(inputs.x),
          .z = RowsOf(inputs.z),
          .y = RowsOf(y),
          .weight = FloatsOf(inputs.weight),
          .eps = inputs.eps,
          .norm_before_gate = inputs.norm_before_gate};
}

}  // namespace

void GatedRmsNorm(const GatedRmsNormInputs& inputs, int64_t group_size, const Tensor& y) {
  GetModule().operators().gated_rms_norm(Arguments(inputs, group_size, y));
}

void GatedRmsNormBackward(const GatedRmsNormInputs& inputs, int64_t group_size, const Tensor& dy,
                          const GatedRmsNormGradients& gradients) {
  GetModule().operators().gated_rms_norm_backward({.forward = Arguments(inputs, group_size, {}),
                                                   .dy = RowsOf(dy),
                                                   .dx = RowsOf(gradients.dx),
                                                   .dz = RowsOf(gradients.dz),
                                                   .dweight = FloatsOf(gradients.dweight)});
}

}  // namespace adder::cuda
