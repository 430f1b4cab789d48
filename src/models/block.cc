// The norms of blocks.
#include "adder/models/block.h"

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

}  // namespace adder
