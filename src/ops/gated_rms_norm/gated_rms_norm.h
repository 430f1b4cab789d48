// gated_rms_norm: root-mean-square normalisation of groups of channels, with a SiLU gate before or
// after it (Dao & Gu 2024, arXiv 2405.21060, section 7.2: the norm before a Mamba-2 block's output
// projection).
//
//     gate first:  u = x · silu(z),  y = u / sqrt(mean_group(u²) + eps) · weight
//     norm first:  y = x / sqrt(mean_group(x²) + eps) · weight · silu(z)
//
// A group is group_size consecutive channels; the published Mamba-2 checkpoints gate first.
#pragma once

#include <cstdint>

#include "adder/core/tensor.h"

namespace adder {

struct GatedRmsNormInputs {
  Tensor x;       // [rows, D]: f32, bf16 or f16 (the reference: f64)
  Tensor z;       // [rows, D], x's dtype
  Tensor weight;  // [D] f32
  float eps = 1e-5f;
  int64_t group_size = 0;  // divides D; 0: one group of all channels
  bool norm_before_gate = false;
};

// Those left undefined are not computed. dweight is added to, the others are overwritten.
struct GatedRmsNormGradients {
  Tensor dx = {};       // [rows, D], x's dtype
  Tensor dz = {};       // [rows, D], x's dtype
  Tensor dweight = {};  // [D] f32
};

// y: [rows, D], f32, bf16 or f16; it may alias x. Throw kInvalidArgument when shapes or dtypes
// disagree, kUnsupported for a device without this operator.
void GatedRmsNorm(const GatedRmsNormInputs& inputs, const Tensor& y);
// dy: [rows, D], y's dtype. No gradient may share memory with an input or dy, which is checked.
void GatedRmsNormBackward(const GatedRmsNormInputs& inputs, const Tensor& dy,
                          const GatedRmsNormGradients& gradients);

namespace reference {
void GatedRmsNorm(const GatedRmsNormInputs& inputs, const Tensor& y);
void GatedRmsNormBackward(const GatedRmsNormInputs& inputs, const Tensor& dy,
                          const GatedRmsNormGradients& gradients);
}  // namespace reference

}  // namespace adder
