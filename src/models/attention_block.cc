// Attention between its projections.
#include "adder/models/attention_block.h"

#include <cmath>

namespace adder {

AttentionMixer::AttentionMixer(ParameterList& list, const std::string& prefix, Names names,
                               const ModelConfig& config, DType compute_dtype)
    : config_(config.attention), compute_dtype_(compute_dtype) {
  const AttentionConfig& a = config_;
  const int64_t d_model = config.d_model;
  const int64_t sizes[] = {a.n_head * a.d_head, a.n_kv_head * a.d_head, a.n_kv_head * a.d_head};
  const int64_t total = sizes[0] + sizes[1] + sizes[2];
  std::string out = "o_proj";
  if (names == Names::kLlama) {
    const char* const projections[] = {"q_proj", "k_proj", "v_proj"};
    for (int i = 0; i < 3; ++i) {
      const std::string name = prefix + "." + projections[i];
      weights_[i] = list.Weight(name + ".weight", sizes[i], d_model);
      biases_[i] = list.BiasIf(a.use_qkv_bias, name + ".bias", sizes[i]);
    }
  } else {
    const bool neox = names == Names::kGptNeoX;
    const std::string name = prefix + (neox ? ".query_key_value" : ".Wqkv");
    qkv_weight_ = list.Weight(name + ".weight", total, d_model);
    qkv_bias_ = list.BiasIf(a.use_qkv_bias, name + ".bias", total);
    out = neox ? "dense" : "out_proj";
  }
  if (a.d_conv > 0) {
    conv_weight_ = list.Convolution(prefix + ".conv1d.weight", total, a.d_conv);
    conv_bias_ = list.Small(prefix + ".conv1d.bias", {total});
  }
  out_weight_ = list.Weight(prefix + "." + out + ".weight", d_model, sizes[0]);
  out_bias_ = list.BiasIf(a.use_out_bias, prefix + "." + out + ".bias", d_model);
}

std::vector<Block::MemoryPart> AttentionMixer::memory() const {
  const AttentionConfig& a = config_;
  const std::vector<int64_t> dims = {a.n_kv_head * a.d_head};
  std::vector<Block::MemoryPart> parts = {
      {.name = "keys", .dims = dims, .grows = true, .dtype = compute_dtype_},
      {.name = "values", .dims = dims, .grows = true, .dtype = compute_dtype_}};
  if (a.d_conv > 0) {
    parts.push_back(
        {.name = "conv", .dims = {a.d_conv - 1, (a.n_head + 2 * a.n_kv_head) * a.d_head}});
  }
  return parts;
}

Variable AttentionMixer::Forward(const BlockContext& context, const Variable& u,
                                 std::span<Variable> memory) const {
  const AttentionConfig& a = config_;
  Tape* const tape = context.tape;
  const int64_t q_size = a.n_head * a.d_head;
  const int64_t kv_size = a.n_kv_head * a.d_head;
  Variable q, k, v;
  if (qkv_weight_ != nullptr) {
    Variable qkv = Linear(tape, u, *qkv_weight_, qkv_bias_);
    if (conv_weight_ != nullptr) {
      qkv =
          CausalConv1d(tape, qkv, *conv_weight_, conv_bias_, context.layout, ConvActivation::kNone,
                       memory.empty() ? nullptr : &memory[2], context.update);
    }
    q = qkv.Columns(0, q_size);
    k = qkv.Columns(q_size, kv_size);
    v = qkv.Columns(q_size + kv_size, kv_size);
  } else {
    q = Linear(tape, u, *weights_[0], biases_[0]);
    k = Linear(tape, u, *weights_[1], biases_[1]);
    v = Linear(tape, u, *weights_[2], biases_[2]);
  }
  if (a.rotary_dim > 0) {
    const auto rotate = [&](const Variable& x) {
      return Rotary(tape, x, context.row_positions, a.d_head, a.rotary_dim, a.rope_theta,
                    a.rotary_interleaved);
    };
    q = rotate(q);
    k = rotate(k);
  }
  AttentionMemory cache;
  if (!memory.empty()) {
    cache = {.keys = &memory[0],
             .values = &memory[1],
             .lengths = context.positions,
             .device_lengths = {}};
    // Where every sequence has one row, the rows' positions are the sequences' lengths.
    if (tape == nullptr &&
        context.layout == SequenceLayout::Uniform(context.layout.sequences(), 1)) {
      cache.device_lengths = context.row_positions;
    }
  }
  const Variable y = Attention(tape, q, k, v, context.layout, a.n_head, a.n_kv_head,
                               1.0 / std::sqrt(static_cast<double>(a.d_head)),
                               memory.empty() ? nullptr : &cache, context.update);
  return Linear(tape, y, *out_weight_, out_bias_);
}

AttentionBlock::AttentionBlock(ParameterList& list, const std::string& prefix,
                               const ModelConfig& config, DType compute_dtype)
    : norm_(Norm::Make(
          list,
          prefix + (config.architecture == Architecture::kLlama ? ".input_layernorm" : ".norm"),
          config)),
      mixer_(list, prefix + (config.architecture == Architecture::kLlama ? ".self_attn" : ".mixer"),
             config.architecture == Architecture::kLlama ? AttentionMixer::Names::kLlama
                                                         : AttentionMixer::Names::kStateSpaces,
             config, compute_dtype),
      compute_dtype_(compute_dtype) {}

Variable AttentionBlock::Forward(const BlockContext& context, const Variable& x, Variable* residual,
                                 std::span<Variable> memory) const {
  const Variable u = norm_.Apply(context.tape, x, *residual, compute_dtype_, residual);
  return mixer_.Forward(context, u, memory);
}

}  // namespace adder
