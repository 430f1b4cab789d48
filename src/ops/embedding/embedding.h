// embedding: y[t] = W[tokens[t]], the look-up of a token's vector.
#pragma once

#include "adder/core/tensor.h"

namespace adder {

// tokens: i32 [rows], each in [0, vocab); W: [vocab, D], f32, bf16, f16 (the reference: f64) or
// quantized; y: [rows, D], f32 or, unless that is quantized, W's dtype. Rows of W and y may be
// further apart than their length; y must not share memory with W, which is checked. Throws
// kInvalidArgument when shapes or dtypes disagree, memory is shared or a token is outside the
// vocabulary, kUnsupported for a device without this operator. All tensors are on one device; on a
// CUDA device the host cannot look at tokens: one outside the vocabulary gives a row of zeros,
// backwards it is left out, and the error is thrown by the next call that waits for the device.
void Embedding(const Tensor& tokens, const Tensor& W, const Tensor& y);
// dy: [rows, D], y's dtype. dW: f32 [vocab, D], added to; rows with equal tokens are added in row
// order, so that the result does not depend on the number of threads. Rows and memory as above: dW
// is apart from dy.
void EmbeddingBackward(const Tensor& tokens, const Tensor& dy, const Tensor& dW);

namespace reference {
void Embedding(const Tensor& tokens, const Tensor& W, const Tensor& y);
void EmbeddingBackward(const Tensor& tokens, const Tensor& dy, const Tensor& dW);
}  // namespace reference

}  // namespace adder
