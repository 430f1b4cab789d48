// The Mamba block's forward.
#include "adder/models/mamba_block.h"

#include <algorithm>
#include <optional>

#include "adder/ops/mamba_step/mamba_step.h"

namespace adder {
namespace {

Tensor Compute(const Parameter* parameter) {
  return parameter == nullptr ? Tensor() : parameter->compute;
}

}  // namespace

MambaBlock::MambaBlock(ParameterList& list, const std::string& prefix, const ModelConfig& config,
                       DType compute_dtype)
    : norm_(Norm::Make(list, prefix + ".norm", config)),
      d_inner_(config.d_inner),
      d_state_(config.d_state),
      d_conv_(config.d_conv),
      dt_rank_(config.dt_rank),
      normalizes_selection_(config.architecture == Architecture::kFalconMamba),
      mixer_norm_eps_(config.mixer_norm_eps),
      compute_dtype_(compute_dtype) {
  const std::string mixer = prefix + ".mixer.";
  A_log_ = list.Small(mixer + "A_log", {d_inner_, d_state_});
  D_ = list.Small(mixer + "D", {d_inner_});
  conv_weight_ = list.Convolution(mixer + "conv1d.weight", d_inner_, d_conv_);
  conv_bias_ = list.BiasIf(config.use_conv_bias, mixer + "conv1d.bias", d_inner_);
  in_proj_weight_ = list.Weight(mixer + "in_proj.weight", 2 * d_inner_, config.d_model);
  in_proj_bias_ = list.BiasIf(config.use_bias, mixer + "in_proj.bias", 2 * d_inner_);
  x_proj_weight_ = list.Weight(mixer + "x_proj.weight", dt_rank_ + 2 * d_state_, d_inner_);
  dt_proj_weight_ = list.Weight(mixer + "dt_proj.weight", d_inner_, dt_rank_);
  dt_proj_bias_ = list.Small(mixer + "dt_proj.bias", {d_inner_});
  out_proj_weight_ = list.Weight(mixer + "out_proj.weight", config.d_model, d_inner_);
  out_proj_bias_ = list.BiasIf(config.use_bias, mixer + "out_proj.bias", config.d_model);
}

std::vector<Block::MemoryPart> MambaBlock::memory() const {
  return {{.name = "conv", .dims = {d_conv_ - 1, d_inner_}},
          {.name = "ssm", .dims = {d_inner_, d_state_}}};
}

Variable MambaBlock::Forward(const BlockContext& context, const Variable& x, Variable* residual,
                             std::span<Variable> memory) const {
  if (IsStep(context, memory)) return Step(x, residual, memory);
  const Variable vz =
      Project(context, norm_, x, residual, compute_dtype_, *in_proj_weight_, in_proj_bias_);
  const Variable y =
      Mix(context, vz, memory,
          [this](const BlockContext& inner, const Variable& projected, std::span<Variable> parts) {
            return Select(inner, projected, parts);
          });
  return Linear(context.tape, y, *out_proj_weight_, out_proj_bias_);
}

bool MambaBlock::IsStep(const BlockContext& context, std::span<const Variable> memory) const {
  return context.tape == nullptr && context.trace == nullptr &&
         context.update == MemoryUpdate::kOverwrite && norm_.bias == nullptr &&
         context.layout == SequenceLayout::Uniform(context.layout.sequences(), 1) &&
         !memory.empty() && std::all_of(memory.begin(), memory.end(), [](const Variable& part) {
           return part.defined();
         });
}

Variable MambaBlock::Step(const Variable& x, Variable* residual,
                          std::span<const Variable> memory) const {
  const Tensor& stream = x.value();
  const MambaStepOutputs outputs = {
      .y = Tensor::Empty(stream.shape(), compute_dtype_, stream.device()),
      .residual_out = Tensor::Empty(stream.shape(), DType::kF32, stream.device())};
  MambaStep(
      {.x = stream, .residual = residual->value()},
      {.norm = norm_.weight->compute,
       .in_proj = in_proj_weight_->compute,
       .in_proj_bias = Compute(in_proj_bias_),
       .conv = conv_weight_->compute.Reshape({d_inner_, d_conv_}),
       .conv_bias = Compute(conv_bias_),
       .x_proj = x_proj_weight_->compute,
       .dt_proj = dt_proj_weight_->compute,
       .dt_bias = dt_proj_bias_->compute,
       .A = A_log_->compute,
       .D = D_->compute,
       .out_proj = out_proj_weight_->compute,
       .out_proj_bias = Compute(out_proj_bias_),
       .norm_eps = static_cast<float>(norm_.eps),
       .selection_eps = normalizes_selection_ ? std::optional(static_cast<float>(mixer_norm_eps_))
                                              : std::nullopt},
      {.window = memory[0].value(), .h = memory[1].value()}, outputs);
  *residual = Variable(outputs.residual_out);
  return Variable(outputs.y);
}

Variable MambaBlock::Select(const BlockContext& context, const Variable& vz,
                            std::span<Variable> memory) const {
  Tape* const tape = context.tape;
  Variable* const window = memory.empty() ? nullptr : &memory[0];
  Variable* const h = memory.empty() ? nullptr : &memory[1];
  const Variable v = CausalConv1d(tape, vz.Columns(0, d_inner_), *conv_weight_, conv_bias_,
                                  context.layout, ConvActivation::kSilu, window, context.update);
  const Variable selection = Linear(tape, v, *x_proj_weight_);
  const auto part = [&](int64_t begin, int64_t count) {
    const Variable columns = selection.Columns(begin, count);
    return normalizes_selection_ ? RmsNorm(tape, columns, mixer_norm_eps_, compute_dtype_)
                                 : columns;
  };
  // The bias goes to the scan, which adds it in f32.
  const Variable dt = Linear(tape, part(0, dt_rank_), *dt_proj_weight_);
  if (context.trace != nullptr) {
    context.trace->Append(dt.value(), dt_proj_bias_->compute, A_log_->compute);
  }
  return SelectiveScan(tape,
                       {.x = v,
                        .dt = dt,
                        .B = part(dt_rank_, d_state_),
                        .C = part(dt_rank_ + d_state_, d_state_),
                        .z = vz.Columns(d_inner_, d_inner_)},
                       {.A_log = A_log_, .D = D_, .dt_bias = dt_proj_bias_}, context.layout,
                       /*groups=*/1, h, context.update);
}

}  // namespace adder
