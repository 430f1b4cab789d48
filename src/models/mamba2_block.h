// One Mamba-2 block (arXiv 2405.21060, section 7.1), pre-norm, on a residual stream in f32.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "adder/models/block.h"

namespace adder {

//     r        = residual + x;  u = Norm(r)
//     z, w, dt = split(in_proj · u)
//     v, B, C  = split(silu(conv1d(w)))
//     y        = Ssd(v, dt + dt_bias, A, B, C, D)
//     x        = out_proj · GatedRmsNorm(y · silu(z))
class Mamba2Block : public Block {
 public:
  // Adds its parameters under "PREFIX.norm" and "PREFIX.mixer".
  Mamba2Block(ParameterList& list, const std::string& prefix, const ModelConfig& config,
              DType compute_dtype);

  // "conv" [d_conv-1, d_inner + 2·n_groups·d_state] and "ssm" [heads, head_dim, d_state].
  std::vector<MemoryPart> memory() const override;
  Variable Forward(const BlockContext& context, const Variable& x, Variable* residual,
                   std::span<Variable> memory) const override;

 private:
  // From the first projection's result to the last one's input.
  Variable Select(const BlockContext& context, const Variable& zwdt,
                  std::span<Variable> memory) const;

  Norm norm_;
  const Parameter* dt_bias_;
  const Parameter* A_log_;
  const Parameter* D_;
  const Parameter* conv_weight_;
  const Parameter* conv_bias_;  // may be null, as in_proj's and out_proj's
  const Parameter* in_proj_weight_;
  const Parameter* in_proj_bias_;
  const Parameter* gated_norm_weight_;
  const Parameter* out_proj_weight_;
  const Parameter* out_proj_bias_;
  ModelConfig config_;
  DType compute_dtype_;
};

}  // namespace adder
