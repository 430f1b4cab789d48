// The Mamba-2 block's forward.
#include "adder/models/mamba2_block.h"

namespace adder {
namespace {

// Channels of the convolution: x, B and C.
int64_t ConvChannels(const ModelConfig& c) { return c.d_inner + 2 * c.n_groups * c.d_state; }

}  // namespace

Mamba2Block::Mamba2Block(ParameterList& list, const std::string& prefix, const ModelConfig& config,
                         DType compute_dtype)
    : norm_(Norm::Make(list, prefix + ".norm", config)),
      config_(config),
      compute_dtype_(compute_dtype) {
  const ModelConfig& c = config;
  const std::string mixer = prefix + ".mixer.";
  const int64_t projected = c.d_inner + ConvChannels(c) + c.n_ssm_head();
  dt_bias_ = list.Small(mixer + "dt_bias", {c.n_ssm_head()});
  A_log_ = list.Small(mixer + "A_log", {c.n_ssm_head()});
  D_ = list.Small(mixer + "D", {c.n_ssm_head()});
  conv_weight_ = list.Convolution(mixer + "conv1d.weight", ConvChannels(c), c.d_conv);
  conv_bias_ = list.BiasIf(c.use_conv_bias, mixer + "conv1d.bias", ConvChannels(c));
  in_proj_weight_ = list.Weight(mixer + "in_proj.weight", projected, c.d_model);
  in_proj_bias_ = list.BiasIf(c.use_bias, mixer + "in_proj.bias", projected);
  gated_norm_weight_ = list.Small(mixer + "norm.weight", {c.d_inner});
  out_proj_weight_ = list.Weight(mixer + "out_proj.weight", c.d_model, c.d_inner);
  out_proj_bias_ = list.BiasIf(c.use_bias, mixer + "out_proj.bias", c.d_model);
}

std::vector<Block::MemoryPart> Mamba2Block::memory() const {
  return {{.name = "conv", .dims = {config_.d_conv - 1, ConvChannels(config_)}},
          {.name = "ssm", .dims = {config_.n_ssm_head(), config_.head_dim, config_.d_state}}};
}

Variable Mamba2Block::Forward(const BlockContext& context, const Variable& x, Variable* residual,
                              std::span<Variable> memory) const {
  const Variable zwdt =
      Project(context, norm_, x, residual, compute_dtype_, *in_proj_weight_, in_proj_bias_);
  const Variable y =
      Mix(context, zwdt, memory,
          [this](const BlockContext& inner, const Variable& projected, std::span<Variable> parts) {
            return Select(inner, projected, parts);
          });
  return Linear(context.tape, y, *out_proj_weight_, out_proj_bias_);
}

Variable Mamba2Block::Select(const BlockContext& context, const Variable& zwdt,
                             std::span<Variable> memory) const {
  const ModelConfig& c = config_;
  Tape* const tape = context.tape;
  Variable* const window = memory.empty() ? nullptr : &memory[0];
  Variable* const h = memory.empty() ? nullptr : &memory[1];
  const int64_t channels = ConvChannels(c);
  const int64_t projection = c.n_groups * c.d_state;
  const Variable vBC =
      CausalConv1d(tape, zwdt.Columns(c.d_inner, channels), *conv_weight_, conv_bias_,
                   context.layout, ConvActivation::kSilu, window, context.update);
  const Variable dt = zwdt.Columns(c.d_inner + channels, c.n_ssm_head());
  if (context.trace != nullptr) {
    context.trace->Append(dt.value(), dt_bias_->compute, A_log_->compute, c.dt_limit_min,
                          c.dt_limit_max);
  }
  const Variable y = Ssd(tape,
                         {.x = vBC.Columns(0, c.d_inner),
                          .dt = dt,
                          .B = vBC.Columns(c.d_inner, projection),
                          .C = vBC.Columns(c.d_inner + projection, projection)},
                         {.A_log = A_log_, .D = D_, .dt_bias = dt_bias_}, context.layout,
                         {.head_dim = c.head_dim,
                          .groups = c.n_groups,
                          .dt_min = c.dt_limit_min,
                          .dt_max = c.dt_limit_max},
                         h, context.update);
  return GatedRmsNorm(tape, y, zwdt.Columns(0, c.d_inner), *gated_norm_weight_, c.norm_eps,
                      c.d_inner / c.norm_groups);
}

}  // namespace adder
