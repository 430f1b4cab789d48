// What the dispatch, the reference and the backends of softmax_cross_entropy share: the argument
// checks and one function per backend. Not for callers of the operator.
#pragma once

#include <initializer_list>

#include "adder/ops/softmax_cross_entropy/softmax_cross_entropy.h"

namespace adder {

// Throw kInvalidArgument unless all tensors agree. `activations`, `weights`: dtypes that hidden and
// W may have; `operands`: dtypes that both may have; `sums`: the dtype of losses, biases and
// gradients of parameters.
void CheckSoftmaxCrossEntropy(const SoftmaxCrossEntropyInputs& inputs, const Tensor& loss,
                              std::initializer_list<DType> activations,
                              std::initializer_list<DType> weights, DType sums);
void CheckSoftmaxCrossEntropyBackward(const SoftmaxCrossEntropyInputs& inputs, const Tensor& d_loss,
                                      const SoftmaxCrossEntropyGradients& gradients,
                                      std::initializer_list<DType> operands, DType sums);
// Throws kInvalidArgument unless every target, in host memory, is in the vocabulary or
// kIgnoreTarget.
void CheckTargets(const Tensor& targets, int64_t vocab);

namespace cpu {
void SoftmaxCrossEntropy(const SoftmaxCrossEntropyInputs& inputs, const Tensor& loss);
void SoftmaxCrossEntropyBackward(const SoftmaxCrossEntropyInputs& inputs, const Tensor& d_loss,
                                 const SoftmaxCrossEntropyGradients& gradients);
}  // namespace cpu

namespace cuda {
void SoftmaxCrossEntropy(const SoftmaxCrossEntropyInputs& inputs, const Tensor& loss);
void SoftmaxCrossEntropyBackward(const SoftmaxCrossEntropyInputs& inputs, const Tensor& d_loss,
                                 const SoftmaxCrossEntropyGradients& gradients);
}  // namespace cuda

}  // namespace adder
