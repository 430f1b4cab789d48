// The blocks that mix channels: a gated MLP, and GPT-NeoX's layer, whose MLP stands beside its
// attention.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "adder/models/attention_block.h"
#include "adder/models/block.h"

namespace adder {

//     r = residual + x;  x = down · (silu(gate · Norm(r)) · up · Norm(r))
class GatedMlpBlock : public Block {
 public:
  // Adds its parameters under "PREFIX.post_attention_layernorm" and "PREFIX.mlp" (Llama:
  // gate_proj, up_proj, down_proj), or "PREFIX.norm2" and "PREFIX.mlp" (state-spaces: fc1, whose
  // first half is up and second gate, and fc2).
  GatedMlpBlock(ParameterList& list, const std::string& prefix, const ModelConfig& config,
                DType compute_dtype);

  Variable Forward(const BlockContext& context, const Variable& x, Variable* residual,
                   std::span<Variable> memory) const override;

 private:
  Norm norm_;
  const Parameter* up_gate_ = nullptr;  // both, or null and one each:
  const Parameter* up_ = nullptr;
  const Parameter* gate_ = nullptr;
  const Parameter* down_ = nullptr;
  int64_t d_intermediate_;
  DType compute_dtype_;
};

// arXiv 2204.06745, section 2.1: with the parallel residual
//     r = residual + x;  x = Attention(Norm1(r)) + MLP(Norm2(r)),   MLP(u) = W2 · gelu(W1 · u)
// and without it, attention first and the MLP on r + Attention(Norm1(r)).
class GptNeoXBlock : public Block {
 public:
  GptNeoXBlock(ParameterList& list, const std::string& prefix, const ModelConfig& config,
               DType compute_dtype);

  std::vector<MemoryPart> memory() const override { return attention_.memory(); }
  Variable Forward(const BlockContext& context, const Variable& x, Variable* residual,
                   std::span<Variable> memory) const override;

 private:
  Norm attention_norm_;
  Norm mlp_norm_;
  AttentionMixer attention_;
  const Parameter* up_weight_;
  const Parameter* up_bias_;
  const Parameter* down_weight_;
  const Parameter* down_bias_;
  bool parallel_;
  DType compute_dtype_;
};

}  // namespace adder
