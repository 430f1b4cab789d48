// layer_norm: normalisation to mean 0 and variance 1 over the channels, with the residual addition
// fused (Ba, Kiros & Hinton 2016, arXiv 1607.06450, equation 4; the norm of GPT-NeoX's blocks).
//
//     r = x + residual           (residual optional: r = x)
//     y = (r - mean_d(r)) / sqrt(variance_d(r) + eps) · weight + bias
//
// The variance is that of the channels themselves, divided by D.
#pragma once

#include "adder/core/tensor.h"

namespace adder {

struct LayerNormInputs {
  Tensor x;         // [rows, D]: f32, bf16 or f16 (the reference: f64)
  Tensor residual;  // [rows, D] f32, or not given
  Tensor weight;    // [D] f32
  Tensor bias;      // [D] f32, or not given: 0
  float eps = 1e-5f;
};

struct LayerNormOutputs {
  Tensor y;             // [rows, D]: f32, bf16 or f16; may alias x
  Tensor residual_out;  // [rows, D] f32: r, or not given; may alias residual
};

// Those left undefined are not computed. dweight and dbias are added to.
struct LayerNormGradients {
  Tensor dr = {};       // [rows, D] f32: the gradient of r, which is that of x and of residual. It
                        // may alias d_residual_out.
  Tensor dx = {};       // [rows, D], x's dtype: dr once more, converted
  Tensor dweight = {};  // [D] f32
  Tensor dbias = {};    // [D] f32
};

// Throw kInvalidArgument when shapes or dtypes disagree, kUnsupported for a device without this
// operator.
void LayerNorm(const LayerNormInputs& inputs, const LayerNormOutputs& outputs);
// r: [rows, D] f32, the forward's residual_out. dy: [rows, D], y's dtype. d_residual_out: [rows, D]
// f32, or not given: 0.
void LayerNormBackward(const Tensor& r, const Tensor& weight, float eps, const Tensor& dy,
                       const Tensor& d_residual_out, const LayerNormGradients& gradients);

namespace reference {
void LayerNorm(const LayerNormInputs& inputs, const LayerNormOutputs& outputs);
void LayerNormBackward(const Tensor& r, const Tensor& weight, float eps, const Tensor& dy,
                       const Tensor& d_residual_out, const LayerNormGradients& gradients);
}  // namespace reference

}  // namespace adder
