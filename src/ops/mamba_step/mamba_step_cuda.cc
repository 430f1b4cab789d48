// mamba_step on a CUDA device: hands the tensors to the module.
#include "adder/backend/cuda/module.h"
#include "adder/ops/cuda_operators.h"
#include "adder/ops/mamba_step/mamba_step_backends.h"

namespace adder::cuda {
namespace {

MambaStepProjection ProjectionOf(const Tensor& W, const Tensor& bias) {
  return {.W = RowsOf(W),
          .W_row_bytes = DTypeBytes(W.dtype(), W.stride(0)),
          .N = W.dim(0),
          .K = W.dim(1),
          .bias = FloatsOf(bias)};
}

}  // namespace

bool MambaStep(const MambaStepInputs& inputs, const MambaStepWeights& weights,
               const MambaStepMemory& memory, const MambaStepOutputs& outputs) {
  if (inputs.x.dim(0) != 1 || weights.selection_eps) return false;
  return GetModule().operators().mamba_step(
      {.device = inputs.x.device().index,
       .d_model = inputs.x.dim(1),
       .d_inner = weights.A.dim(0),
       .d_state = weights.A.dim(1),
       .dt_rank = weights.dt_proj.dim(1),
       .d_conv = static_cast<int>(weights.conv.dim(1)),
       .dtype = outputs.y.dtype(),
       .x = RowsOf(inputs.x),
       .residual = RowsOf(inputs.residual),
       .residual_out = RowsOf(outputs.residual_out),
       .y = RowsOf(outputs.y),
       .in_proj = ProjectionOf(weights.in_proj, weights.in_proj_bias),
       .x_proj = ProjectionOf(weights.x_proj, {}),
       .dt_proj = ProjectionOf(weights.dt_proj, {}),
       .out_proj = ProjectionOf(weights.out_proj, weights.out_proj_bias),
       .norm = FloatsOf(weights.norm),
       .norm_eps = weights.norm_eps,
       .conv = FloatsOf(weights.conv),
       .conv_bias = FloatsOf(weights.conv_bias),
       .dt_bias = FloatsOf(weights.dt_bias),
       .A = FloatsOf(weights.A),
       .D = FloatsOf(weights.D),
       .window = FloatsOf(memory.window),
       .h = FloatsOf(memory.h)});
}

}  // namespace adder::cuda
