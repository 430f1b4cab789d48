// mamba_step: a whole Mamba block for sequences of one row each: what generation does in every
// layer for every token (Gu & Dao 2023, arXiv 2312.00752, figure 3; models/mamba_block.h).
//
//     r       = x + residual;  u = rms_norm(r)
//     v, z    = split(in_proj · u)
//     v       = silu(conv1d(v))                  by the window, which moves on by a row
//     δ, B, C = split(x_proj · v)                each divided by its root mean square on request
//     dt      = dt_proj · δ
//     y       = selective_scan(v, dt, A, B, C, D, dt_bias) · silu(z)     from h, which moves on
//     y       = out_proj · y
//
// The operators that this is made of say what each line means and how its sums are formed; between
// them values are rounded to the activations' dtype, y's. What they do one by one for any number of
// sequences, a CUDA device does in four kernels for one: it waits for weights and for
// kernels to begin, not for arithmetic.
#pragma once

#include <cstdint>
#include <optional>

#include "adder/core/tensor.h"

namespace adder {

// Projections have any dtype that linear takes; everything else is f32 and dense.
struct MambaStepWeights {
  Tensor norm;           // [d_model]
  Tensor in_proj;        // [2·d_inner, d_model]
  Tensor in_proj_bias;   // [2·d_inner], or not given
  Tensor conv;           // [d_inner, d_conv]
  Tensor conv_bias;      // [d_inner], or not given
  Tensor x_proj;         // [dt_rank + 2·d_state, d_inner]
  Tensor dt_proj;        // [d_inner, dt_rank]
  Tensor dt_bias;        // [d_inner]
  Tensor A;              // [d_inner, d_state]
  Tensor D;              // [d_inner]
  Tensor out_proj;       // [d_model, d_inner]
  Tensor out_proj_bias;  // [d_model], or not given
  float norm_eps = 1e-5f;
  std::optional<float> selection_eps;  // of the norms of δ, B and C; none: they are not normed
};

struct MambaStepInputs {
  Tensor x;         // [sequences, d_model]: f32, bf16 or f16
  Tensor residual;  // f32 [sequences, d_model], or not given: 0
};

// Dense f32; overwritten with what is remembered after the row.
struct MambaStepMemory {
  Tensor window;  // [sequences, d_conv-1, d_inner]
  Tensor h;       // [sequences, d_inner, d_state]
};

struct MambaStepOutputs {
  Tensor y;             // [sequences, d_model]: f32, bf16 or f16, the activations' dtype
  Tensor residual_out;  // f32 [sequences, d_model]: r
};

// No output or memory may share memory with another tensor. Throws kInvalidArgument when shapes or
// dtypes disagree or memory is shared, kUnsupported for a device without this operator.
void MambaStep(const MambaStepInputs& inputs, const MambaStepWeights& weights,
               const MambaStepMemory& memory, const MambaStepOutputs& outputs);

namespace reference {
// All in f64, the tensors too.
void MambaStep(const MambaStepInputs& inputs, const MambaStepWeights& weights,
               const MambaStepMemory& memory, const MambaStepOutputs& outputs);
}  // namespace reference

}  // namespace adder
