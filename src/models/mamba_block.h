// One Mamba block (arXiv 2312.00752, figure 3), pre-norm, on a residual stream in f32.
#pragma once

#include <cstdint>

#include "adder/autograd/functions.h"
#include "adder/autograd/tape.h"
#include "adder/core/sequence_layout.h"
#include "adder/models/language_model.h"

namespace adder {

// The parameters a block reads, which the model owns, and its forward.
//
//     r      = residual + x;  u = RmsNorm(r)
//     v, z   = split(in_proj · u)
//     v      = silu(conv1d(v))
//     δ, B, C = split(x_proj · v);  dt = dt_proj · δ
//     y      = SelectiveScan(v, dt + dt_bias, A, B, C, D) · silu(z)
//     x      = out_proj · y
struct MambaBlock {
  const Parameter* norm = nullptr;
  const Parameter* A_log = nullptr;
  const Parameter* D = nullptr;
  const Parameter* conv_weight = nullptr;
  const Parameter* conv_bias = nullptr;  // may be null, as in_proj's and out_proj's
  const Parameter* in_proj_weight = nullptr;
  const Parameter* in_proj_bias = nullptr;
  const Parameter* x_proj_weight = nullptr;
  const Parameter* dt_proj_weight = nullptr;
  const Parameter* dt_proj_bias = nullptr;
  const Parameter* out_proj_weight = nullptr;
  const Parameter* out_proj_bias = nullptr;
  int64_t d_inner = 0;
  int64_t d_state = 0;
  int64_t dt_rank = 0;
  double norm_eps = 0;
  DType compute_dtype = DType::kF32;

  // x: [rows, d_model], what the block before (or the embedding) adds to the stream.
  // residual: f32 [rows, d_model], the stream without x, undefined at first; becomes r.
  // window, h: the memory (see functions.h), or null both. trace may be null.
  // Returns what this block adds to the stream, [rows, d_model] in the compute dtype.
  Variable Forward(Tape* tape, const Variable& x, const SequenceLayout& layout, Variable* residual,
                   Variable* window, Variable* h, MemoryUpdate update, SelectionTrace* trace) const;
};

}  // namespace adder
