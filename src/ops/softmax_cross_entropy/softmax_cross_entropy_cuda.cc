// softmax_cross_entropy on a CUDA device: hands the tensors to the module.
#include "adder/backend/cuda/module.h"
#include "adder/ops/cuda_operators.h"
#include "adder/ops/softmax_cross_entropy/softmax_cross_entropy_backends.h"

namespace adder::cuda {
namespace {

SoftmaxCrossEntropyArguments Arguments(const SoftmaxCrossEntropyInputs& inputs,
                                       const Tensor& loss) {
  return {.device = inputs.hidden.device().index,
          .rows = inputs.hidden.dim(0),
          .vocab = inputs.W.dim(0),
          .K = inputs.W.dim(1),
          .hidden = RowsOf(inputs.hidden),
          .W = RowsOf(inputs.W),
          .W_row_bytes = DTypeBytes(inputs.W.dtype(), inputs.W.stride(0)),
          .bias = FloatsOf(inputs.bias),
          .targets = inputs.targets.data<int32_t>(),
          .loss = FloatsOf(loss)};
}

}  // namespace

void SoftmaxCrossEntropy(const SoftmaxCrossEntropyInputs& inputs, const Tensor& loss) {
  GetModule().operators().softmax_cross_entropy(Arguments(inputs, loss));
}

void SoftmaxCrossEntropyBackward(const SoftmaxCrossEntropyInputs& inputs, const Tensor& d_loss,
                                 const SoftmaxCrossEntropyGradients& gradients) {
  GetModule().operators().softmax_cross_entropy_backward(
      {.forward = Arguments(inputs, gradients.loss),
       .d_loss = FloatsOf(d_loss),
       .d_hidden = RowsOf(gradients.d_hidden),
       .dW = RowsOf(gradients.dW),
       .dbias = FloatsOf(gradients.dbias)});
}

}  // namespace adder::cuda
