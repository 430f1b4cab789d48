// The norms of blocks, and recomputation within them.
#include "adder/models/block.h"

#include <algorithm>

namespace adder {

Norm Norm::Make(ParameterList& list, const std::string& prefix, const ModelConfig& config) {
  Norm norm;
  norm.weight = list.Small(prefix + ".weight", {config.d_model});
  norm.bias = list.BiasIf(!config.rms_norm, prefix + ".bias", config.d_model);
  norm.eps = config.norm_eps;
  return norm;
}

Variable Norm::Apply(Tape* tape, const Variable& x, const Variable& residual, DType y_dtype,
                     Variable* sum) const {
  if (bias != nullptr) return LayerNorm(tape, x, residual, *weight, bias, eps, y_dtype, sum);
  return RmsNorm(tape, x, residual, *weight, eps, y_dtype, sum);
}

Variable Project(const BlockContext& context, const Norm& norm, const Variable& x,
                 Variable* residual, DType dtype, const Parameter& weight, const Parameter* bias) {
  const Variable normed = norm.Apply(context.tape, x, *residual, dtype, residual);
  std::function<Tensor()> again;
  if (context.tape != nullptr && context.recompute == Recompute::kScan) {
    again = [norm, dtype, sum = residual->value()] {
      return norm.Apply(nullptr, Variable(sum), Variable(), dtype).value();
    };
  }
  return Linear(context.tape, normed, weight, bias, again);
}

Variable Mix(const BlockContext& context, const Variable& projected, std::span<Variable> memory,
             const Mixing& mixing) {
  if (context.tape == nullptr || context.recompute != Recompute::kScan) {
    return mixing(context, projected, memory);
  }
  const BlockFunction run = [mixing, layout = context.layout, trace = context.trace](
                                Tape* inner, const std::vector<Variable>& in) {
    const BlockContext again = {
        .tape = inner,
        .layout = layout,
        .positions = {},
        .row_positions = {},
        .update = MemoryUpdate::kReplace,
        .recompute = Recompute::kNone,
        .trace = inner == nullptr ? trace : nullptr};  // traced once, not when recomputed
    std::vector<Variable> out = in;
    out[0] = mixing(again, in[0], std::span(out).subspan(1));
    return out;
  };
  std::vector<Variable> in = {projected};
  in.insert(in.end(), memory.begin(), memory.end());
  const std::vector<Variable> out = Checkpoint(context.tape, run, in);
  std::copy(out.begin() + 1, out.end(), memory.begin());
  return out[0];
}

}  // namespace adder
