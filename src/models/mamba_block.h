// One Mamba block (arXiv 2312.00752, figure 3), pre-norm, on a residual stream in f32; also
// Falcon's (arXiv 2410.05355, section 2), which normalises dt, B and C.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "adder/models/block.h"

namespace adder {

//     r      = residual + x;  u = Norm(r)
//     v, z   = split(in_proj · u)
//     v      = silu(conv1d(v))
//     δ, B, C = split(x_proj · v)          (Falcon-Mamba: each divided by its root mean square)
//     dt     = dt_proj · δ
//     y      = SelectiveScan(v, dt + dt_bias, A, B, C, D) · silu(z)
//     x      = out_proj · y
class MambaBlock : public Block {
 public:
  // Adds its parameters under "PREFIX.norm" and "PREFIX.mixer".
  MambaBlock(ParameterList& list, const std::string& prefix, const ModelConfig& config,
             DType compute_dtype);

  // "conv" [d_conv-1, d_inner] and "ssm" [d_inner, d_state].
  std::vector<MemoryPart> memory() const override;
  Variable Forward(const BlockContext& context, const Variable& x, Variable* residual,
                   std::span<Variable> memory) const override;

 private:
  // Whether this is a step of generation, which mamba_step does as a whole.
  bool IsStep(const BlockContext& context, std::span<const Variable> memory) const;
  Variable Step(const Variable& x, Variable* residual, std::span<const Variable> memory) const;
  // From the first projection's result to the last one's input.
  Variable Select(const BlockContext& context, const Variable& vz,
                  std::span<Variable> memory) const;

  Norm norm_;
  const Parameter* A_log_;
  const Parameter* D_;
  const Parameter* conv_weight_;
  const Parameter* conv_bias_;  // may be null, as in_proj's and out_proj's
  const Parameter* in_proj_weight_;
  const Parameter* in_proj_bias_;
  const Parameter* x_proj_weight_;
  const Parameter* dt_proj_weight_;
  const Parameter* dt_proj_bias_;
  const Parameter* out_proj_weight_;
  const Parameter* out_proj_bias_;
  int64_t d_inner_;
  int64_t d_state_;
  int64_t d_conv_;
  int64_t dt_rank_;
  bool normalizes_selection_;
  double mixer_norm_eps_;
  DType compute_dtype_;
};

}  // namespace adder
