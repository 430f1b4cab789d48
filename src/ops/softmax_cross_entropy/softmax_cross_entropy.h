// softmax_cross_entropy: the language-model head and its loss in one operator, so that the logits
// [rows, vocab] are never stored whole.
//
//     logits[t] = W · hidden[t] (+ bias)
//     loss[t] = log Σ_v exp(logits[t,v]) - logits[t, targets[t]]   (0 where it is kIgnoreTarget)
//
// in nats. Work goes in blocks of rows. The backward recomputes each block's logits and their
// softmax: log Σ exp, were it kept, would be rounded to f32, and where all logits are large that
// rounding is a large factor in every probability. Who knows the weight of each row's loss before
// the loss itself, as in training, asks the backward for both and needs no forward.
#pragma once

#include <cstdint>

#include "adder/core/target.h"
#include "adder/core/tensor.h"

namespace adder {

// Rows of matrices (hidden, W, d_hidden, dW) may be further apart than their length; all else is
// dense.
struct SoftmaxCrossEntropyInputs {
  Tensor hidden = {};   // [rows, K]: f32, bf16 or f16 (the reference: f64)
  Tensor W = {};        // [vocab, K], any of these dtypes or quantized; backwards hidden's dtype
  Tensor bias = {};     // f32 [vocab], or not given
  Tensor targets = {};  // i32 [rows], each in [0, vocab) or kIgnoreTarget
};

// Those left undefined are not computed. dW and dbias are f32 and added to. None may share memory
// with what is read, which is checked.
struct SoftmaxCrossEntropyGradients {
  Tensor d_hidden = {};  // [rows, K], hidden's dtype, overwritten
  Tensor dW = {};        // [vocab, K]
  Tensor dbias = {};     // [vocab]
  Tensor loss = {};      // f32 [rows], overwritten: the same as SoftmaxCrossEntropy's
};

// Throw kInvalidArgument when shapes or dtypes disagree or a target is out of range (on CUDA
// such a row counts as one without target, and the error is thrown where the host next waits for
// the device), kUnsupported for a device without this operator. loss: f32 [rows].
void SoftmaxCrossEntropy(const SoftmaxCrossEntropyInputs& inputs, const Tensor& loss);
// d_loss: f32 [rows]. Rows whose target is kIgnoreTarget get no gradient.
void SoftmaxCrossEntropyBackward(const SoftmaxCrossEntropyInputs& inputs, const Tensor& d_loss,
                                 const SoftmaxCrossEntropyGradients& gradients);

namespace reference {
void SoftmaxCrossEntropy(const SoftmaxCrossEntropyInputs& inputs, const Tensor& loss);
void SoftmaxCrossEntropyBackward(const SoftmaxCrossEntropyInputs& inputs, const Tensor& d_loss,
                                 const SoftmaxCrossEntropyGradients& gradients);
}  // namespace reference

}  // namespace adder
