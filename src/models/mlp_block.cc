// The forwards of blocks with an MLP.
#include "adder/models/mlp_block.h"

namespace adder {

GatedMlpBlock::GatedMlpBlock(ParameterList& list, const std::string& prefix,
                             const ModelConfig& config, DType compute_dtype)
    : d_intermediate_(config.d_intermediate), compute_dtype_(compute_dtype) {
  const int64_t d_model = config.d_model;
  if (config.architecture == Architecture::kLlama) {
    norm_ = Norm::Make(list, prefix + ".post_attention_layernorm", config);
    gate_ = list.Weight(prefix + ".mlp.gate_proj.weight", d_intermediate_, d_model);
    up_ = list.Weight(prefix + ".mlp.up_proj.weight", d_intermediate_, d_model);
    down_ = list.Weight(prefix + ".mlp.down_proj.weight", d_model, d_intermediate_);
  } else {
    norm_ = Norm::Make(list, prefix + ".norm2", config);
    up_gate_ = list.Weight(prefix + ".mlp.fc1.weight", 2 * d_intermediate_, d_model);
    down_ = list.Weight(prefix + ".mlp.fc2.weight", d_model, d_intermediate_);
  }
}

Variable GatedMlpBlock::Forward(const BlockContext& context, const Variable& x, Variable* residual,
                                std::span<Variable> /*memory*/) const {
  Tape* const tape = context.tape;
  const Variable u = norm_.Apply(tape, x, *residual, compute_dtype_, residual);
  Variable up, gate;
  if (up_gate_ != nullptr) {
    const Variable both = Linear(tape, u, *up_gate_);
    up = both.Columns(0, d_intermediate_);
    gate = both.Columns(d_intermediate_, d_intermediate_);
  } else {
    up = Linear(tape, u, *up_);
    gate = Linear(tape, u, *gate_);
  }
  return Linear(tape, SwiGlu(tape, gate, up), *down_);
}

GptNeoXBlock::GptNeoXBlock(ParameterList& list, const std::string& prefix,
                           const ModelConfig& config, DType compute_dtype)
    : attention_norm_(Norm::Make(list, prefix + ".input_layernorm", config)),
      mlp_norm_(Norm::Make(list, prefix + ".post_attention_layernorm", config)),
      attention_(list, prefix + ".attention", AttentionMixer::Names::kGptNeoX, config,
                 compute_dtype),
      up_weight_(
          list.Weight(prefix + ".mlp.dense_h_to_4h.weight", config.d_intermediate, config.d_model)),
      up_bias_(list.Small(prefix + ".mlp.dense_h_to_4h.bias", {config.d_intermediate})),
      down_weight_(
          list.Weight(prefix + ".mlp.dense_4h_to_h.weight", config.d_model, config.d_intermediate)),
      down_bias_(list.Small(prefix + ".mlp.dense_4h_to_h.bias", {config.d_model})),
      parallel_(config.use_parallel_residual),
      compute_dtype_(compute_dtype) {}

Variable GptNeoXBlock::Forward(const BlockContext& context, const Variable& x, Variable* residual,
                               std::span<Variable> memory) const {
  Tape* const tape = context.tape;
  const Variable attended = attention_.Forward(
      context, attention_norm_.Apply(tape, x, *residual, compute_dtype_, residual), memory);
  const Variable u = parallel_
                         ? mlp_norm_.Apply(tape, *residual, Variable(), compute_dtype_)
                         : mlp_norm_.Apply(tape, attended, *residual, compute_dtype_, residual);
  const Variable added =
      Linear(tape, Activate(tape, Linear(tape, u, *up_weight_, up_bias_), Activation::kGelu),
             *down_weight_, down_bias_);
  return parallel_ ? Add(tape, attended, added) : added;
}

}  // namespace adder
