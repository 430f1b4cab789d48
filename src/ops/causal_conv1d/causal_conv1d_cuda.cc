// causal_conv1d on a CUDA device: hands the tensors to the module.
#include "adder/backend/cuda/module.h"
#include "adder/ops/causal_conv1d/causal_conv1d_backends.h"
#include "adder/ops/cuda_operators.h"

namespace adder::cuda {
namespace {

CausalConv1dArguments ArgumentsOf(const CausalConv1dInputs& inputs) {
  return {.device = inputs.x.device().index,
          .offsets = inputs.layout.offsets().data(),
          .sequences = inputs.layout.sequences(),
          .channels = inputs.x.dim(1),
          .width = inputs.weight.dim(1),
          .silu = inputs.activation == ConvActivation::kSilu,
          .x = RowsOf(inputs.x),
          .y = {},
          .weight = FloatsOf(inputs.weight),
          .bias = FloatsOf(inputs.bias),
          .initial_window = WindowOf(inputs.initial_window),
          .final_window = {}};
}

}  // namespace

void CausalConv1d(const CausalConv1dInputs& inputs, const CausalConv1dOutputs& outputs) {
  CausalConv1dArguments arguments = ArgumentsOf(inputs);
  arguments.y = RowsOf(outputs.y);
  arguments.final_window = WindowOf(outputs.final_window);
  GetModule().operators().causal_conv1d(arguments);
}

void CausalConv1dBackward(const CausalConv1dInputs& inputs, const Tensor& dy,
                          const Tensor& d_final_window, const CausalConv1dGradients& gradients) {
  GetModule().operators().causal_conv1d_backward(
      {.forward = ArgumentsOf(inputs),
       .dy = RowsOf(dy),
       .dx = RowsOf(gradients.dx),
       .dweight = FloatsOf(gradients.dweight),
       .dbias = FloatsOf(gradients.dbias),
       .d_final_window = WindowOf(d_final_window),
       .d_initial_window = WindowOf(gradients.d_initial_window)});
}

}  // namespace adder::cuda
