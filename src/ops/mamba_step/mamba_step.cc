// mamba_step: argument checks, and the choice between few kernels and the block's operators.
#include "adder/ops/mamba_step/mamba_step.h"

#include <fmt/format.h>

#include "adder/ops/argument_check.h"
#include "adder/ops/causal_conv1d/causal_conv1d_backends.h"
#include "adder/ops/mamba_step/mamba_step_backends.h"

namespace adder {
void CheckMambaStep(const MambaStepInputs& inputs, const MambaStepWeights& weights,
                    const MambaStepMemory& memory, const MambaStepOutputs& outputs,
                    std::initializer_list<DType> activations,
                    std::initializer_list<DType> projections, DType sums) {
  const ArgumentCheck check("mamba_step", inputs.x.device());
  check.Rank(inputs.x, "x", 2);
  check.Rank(weights.A, "A", 2);
  check.Rank(weights.conv, "conv", 2);
  check.Rank(weights.dt_proj, "dt_proj", 2);
  const int64_t sequences = inputs.x.dim(0);
  const int64_t d_model = inputs.x.dim(1);
  const int64_t d_inner = weights.A.dim(0);
  const int64_t d_state = weights.A.dim(1);
  const int64_t d_conv = weights.conv.dim(1);
  const int64_t dt_rank = weights.dt_proj.dim(1);

  if (d_conv < kMinConvWidth || d_conv > kMaxConvWidth) {
    check.Fail(
        fmt::format("d_conv is {}, expected {} to {}", d_conv, kMinConvWidth, kMaxConvWidth));
  }
  check.Epsilon(weights.norm_eps);
  if (weights.selection_eps) check.Epsilon(*weights.selection_eps);
  check.Rows(inputs.x, "x", activations, inputs.x.shape());
  check.OptionalRows(inputs.residual, "residual", {sums}, inputs.x.shape());
  check.Dense(weights.norm, "norm", {sums}, {d_model});
  check.Rows(weights.in_proj, "in_proj", projections, {2 * d_inner, d_model});
  check.OptionalDense(weights.in_proj_bias, "in_proj_bias", {sums}, {2 * d_inner});
  check.Dense(weights.conv, "conv", {sums}, {d_inner, d_conv});
  check.OptionalDense(weights.conv_bias, "conv_bias", {sums}, {d_inner});
  check.Rows(weights.x_proj, "x_proj", projections, {dt_rank + 2 * d_state, d_inner});
  check.Rows(weights.dt_proj, "dt_proj", projections, {d_inner, dt_rank});
  check.Dense(weights.dt_bias, "dt_bias", {sums}, {d_inner});
  check.Dense(weights.A, "A", {sums}, {d_inner, d_state});
  check.Dense(weights.D, "D", {sums}, {d_inner});
  check.Rows(weights.out_proj, "out_proj", projections, {d_model, d_inner});
  check.OptionalDense(weights.out_proj_bias, "out_proj_bias", {sums}, {d_model});
  check.Dense(memory.window, "window", {sums}, {sequences, d_conv - 1, d_inner});
  check.Dense(memory.h, "h", {sums}, {sequences, d_inner, d_state});
  check.Rows(outputs.y, "y", activations, inputs.x.shape());
  check.Rows(outputs.residual_out, "residual_out", {sums}, inputs.x.shape());

  check.AlignedRows({{weights.norm, "norm"}}, d_model);
  check.AlignedRows({{weights.A, "A"}, {memory.h, "h"}}, d_state);
  check.AllApart({{outputs.y, "y"},
                  {outputs.residual_out, "residual_out"},
                  {memory.window, "window"},
                  {memory.h, "h"}},
                 {{inputs.x, "x"},
                  {inputs.residual, "residual"},
                  {weights.norm, "norm"},
                  {weights.in_proj, "in_proj"},
                  {weights.in_proj_bias, "in_proj_bias"},
                  {weights.conv, "conv"},
                  {weights.conv_bias, "conv_bias"},
                  {weights.x_proj, "x_proj"},
                  {weights.dt_proj, "dt_proj"},
                  {weights.dt_bias, "dt_bias"},
                  {weights.A, "A"},
                  {weights.D, "D"},
                  {weights.out_proj, "out_proj"},
                  {weights.out_proj_bias, "out_proj_bias"}});
}

void MambaStep(const MambaStepInputs& inputs, const MambaStepWeights& weights,
               const MambaStepMemory& memory, const MambaStepOutputs& outputs) {
  CheckMambaStep(inputs, weights, memory, outputs, {DType::kF32, DType::kBF16, DType::kF16},
                 {DType::kF32, DType::kBF16, DType::kF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_K,
                  DType::kQ6_K},
                 DType::kF32);
  if (inputs.x.device().type == DeviceType::kCuda &&
      cuda::MambaStep(inputs, weights, memory, outputs)) {
    return;
  }
  MambaStepByParts<MambaStepParts>(inputs, weights, memory, outputs);
}

}  // namespace adder
