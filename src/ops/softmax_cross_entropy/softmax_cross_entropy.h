// softmax_cross_entropy: the language-model head and its loss in one operator, so that the logits
// [rows, vocab] are never stored whole.
//
//     logits[t] = W · hidden[t] (+ bias)
//     log_sum_exp[t] = log Σ_v exp(logits[t,v])
//     loss[t] = log_sum_exp[t] - logits[t, targets[t]]      (0 where targets[t] is kIgnoreTarget)
//
// in nats. Work goes in blocks of rows; the backward recomputes each block's logits.
#pragma once

#include <cstdint>

#include "adder/core/target.h"
#include "adder/core/tensor.h"

namespace adder {

struct SoftmaxCrossEntropyInputs {
  Tensor hidden = {};   // [rows, K]: f32, bf16 or f16 (the reference: f64)
  Tensor W = {};        // [vocab, K], any of these dtypes or quantized; backwards hidden's dtype
  Tensor bias = {};     // f32 [vocab], or not given
  Tensor targets = {};  // i32 [rows], each in [0, vocab) or kIgnoreTarget
};

struct SoftmaxCrossEntropyOutputs {
  Tensor loss = {};         // f32 [rows]
  Tensor log_sum_exp = {};  // f32 [rows], or not given; what the backward needs
};

// Those left undefined are not computed. dW and dbias are f32 and added to.
struct SoftmaxCrossEntropyGradients {
  Tensor d_hidden = {};  // [rows, K], hidden's dtype, overwritten
  Tensor dW = {};        // [vocab, K]
  Tensor dbias = {};     // [vocab]
};

// Throw kInvalidArgument when shapes or dtypes disagree or a target is out of range, kUnsupported
// for a device without this operator.
void SoftmaxCrossEntropy(const SoftmaxCrossEntropyInputs& inputs,
                         const SoftmaxCrossEntropyOutputs& outputs);
// d_loss: f32 [rows]. Rows whose target is kIgnoreTarget get no gradient.
void SoftmaxCrossEntropyBackward(const SoftmaxCrossEntropyInputs& inputs, const Tensor& log_sum_exp,
                                 const Tensor& d_loss,
                                 const SoftmaxCrossEntropyGradients& gradients);

namespace reference {
void SoftmaxCrossEntropy(const SoftmaxCrossEntropyInputs& inputs,
                         const SoftmaxCrossEntropyOutputs& outputs);
void SoftmaxCrossEntropyBackward(const SoftmaxCrossEntropyInputs& inputs, const Tensor& log_sum_exp,
                                 const Tensor& d_loss,
                                 const SoftmaxCrossEntropyGradients& gradients);
}  // namespace reference

}  // namespace adder
