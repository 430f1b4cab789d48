// One block of causal self-attention with rotary positions, pre-norm, on a residual stream in f32:
// a Llama layer's first half, and the attention layers of state-spaces' hybrids.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "adder/models/block.h"

namespace adder {

// Attention on normalised rows, without norm and residual: projections to queries, keys and values,
// an optional convolution over them, rotation, attention, output projection.
class AttentionMixer {
 public:
  // What the checkpoints of a family call the parameters.
  enum class Names {
    kLlama,        // q_proj, k_proj, v_proj, o_proj
    kGptNeoX,      // query_key_value, dense
    kStateSpaces,  // Wqkv, conv1d, out_proj
  };

  AttentionMixer(ParameterList& list, const std::string& prefix, Names names,
                 const ModelConfig& config, DType compute_dtype);

  // "keys" and "values", which grow, [capacity, n_kv_head · d_head] in the compute dtype; and
  // "conv" [d_conv-1, (n_head + 2·n_kv_head) · d_head] where there is a convolution.
  std::vector<Block::MemoryPart> memory() const;
  Variable Forward(const BlockContext& context, const Variable& u,
                   std::span<Variable> memory) const;

 private:
  AttentionConfig config_;
  DType compute_dtype_;
  // One projection to queries, keys and values side by side, or one for each.
  const Parameter* qkv_weight_ = nullptr;
  const Parameter* qkv_bias_ = nullptr;
  const Parameter* weights_[3] = {};
  const Parameter* biases_[3] = {};
  const Parameter* conv_weight_ = nullptr;
  const Parameter* conv_bias_ = nullptr;
  const Parameter* out_weight_ = nullptr;
  const Parameter* out_bias_ = nullptr;
};

//     r = residual + x;  x = Attention(Norm(r))
class AttentionBlock : public Block {
 public:
  // Adds its parameters under "PREFIX.input_layernorm" and "PREFIX.self_attn" (Llama), or
  // "PREFIX.norm" and "PREFIX.mixer" (state-spaces).
  AttentionBlock(ParameterList& list, const std::string& prefix, const ModelConfig& config,
                 DType compute_dtype);

  std::vector<MemoryPart> memory() const override { return mixer_.memory(); }
  Variable Forward(const BlockContext& context, const Variable& x, Variable* residual,
                   std::span<Variable> memory) const override;

 private:
  Norm norm_;
  AttentionMixer mixer_;
  DType compute_dtype_;
};

}  // namespace adder
