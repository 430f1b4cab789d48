// rms_norm: root-mean-square normalisation with the residual addition fused (Zhang & Sennrich 2019;
// the pre-norm of every Mamba block, residual stream in f32).
//
//     r = x + residual           (residual optional: r = x)
//     y = r / sqrt(mean_d(r²) + eps) · weight
#pragma once

#include "adder/core/tensor.h"

namespace adder {

struct RmsNormInputs {
  Tensor x;         // [rows, D]: f32, bf16 or f16 (the reference: f64)
  Tensor residual;  // [rows, D] f32, or not given
  Tensor weight;    // [D] f32, or not given: ones
  float eps = 1e-5f;
};

struct RmsNormOutputs {
  Tensor y;             // [rows, D]: f32, bf16 or f16; may alias x
  Tensor residual_out;  // [rows, D] f32: r, or not given; may alias residual
};

// Those left undefined are not computed. dweight is added to.
struct RmsNormGradients {
  Tensor dr = {};       // [rows, D] f32: the gradient of r, which is that of x and of residual. It
                        // may alias d_residual_out.
  Tensor dx = {};       // [rows, D], x's dtype: dr once more, converted
  Tensor dweight = {};  // [D] f32
};

// Throw kInvalidArgument when shapes or dtypes disagree, kUnsupported for a device without this
// operator.
void RmsNorm(const RmsNormInputs& inputs, const RmsNormOutputs& outputs);
// r: [rows, D] f32, the forward's residual_out. dy: [rows, D], y's dtype. d_residual_out: [rows, D]
// f32, or not given: 0.
void RmsNormBackward(const Tensor& r, const Tensor& weight, float eps, const Tensor& dy,
                     const Tensor& d_residual_out, const RmsNormGradients& gradients);

namespace reference {
void RmsNorm(const RmsNormInputs& inputs, const RmsNormOutputs& outputs);
void RmsNormBackward(const Tensor& r, const Tensor& weight, float eps, const Tensor& dy,
                     const Tensor& d_residual_out, const RmsNormGradients& gradients);
}  // namespace reference

}  // namespace adder
