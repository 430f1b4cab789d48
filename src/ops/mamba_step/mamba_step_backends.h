// What the dispatch, the reference and the backends of mamba_step share. Not for callers of the
// operator.
#pragma once

#include <initializer_list>

#include "adder/core/sequence_layout.h"
#include "adder/ops/causal_conv1d/causal_conv1d.h"
#include "adder/ops/linear/linear.h"
#include "adder/ops/mamba_step/mamba_step.h"
#include "adder/ops/rms_norm/rms_norm.h"
#include "adder/ops/selective_scan/selective_scan.h"

namespace adder {

// Throws kInvalidArgument unless all tensors agree. `activations`: dtypes that x and y may have;
// `projections`: those of the projections' weights; `sums`: the dtype of everything else.
void CheckMambaStep(const MambaStepInputs& inputs, const MambaStepWeights& weights,
                    const MambaStepMemory& memory, const MambaStepOutputs& outputs,
                    std::initializer_list<DType> activations,
                    std::initializer_list<DType> projections, DType sums);

// The operators that the block is made of.
struct MambaStepParts {
  static void RmsNorm(const RmsNormInputs& inputs, const RmsNormOutputs& outputs) {
    adder::RmsNorm(inputs, outputs);
  }
  static void Linear(const Tensor& x, const Tensor& W, const Tensor& bias, const Tensor& y) {
    adder::Linear(x, W, bias, y);
  }
  static void CausalConv1d(const CausalConv1dInputs& inputs, const CausalConv1dOutputs& outputs) {
    adder::CausalConv1d(inputs, outputs);
  }
  static void SelectiveScan(const SelectiveScanInputs& inputs,
                            const SelectiveScanOutputs& outputs) {
    adder::SelectiveScan(inputs, outputs);
  }
};

// The block's operators one by one. Operators: MambaStepParts, or what has the same functions.
template <class Operators>
void MambaStepByParts(const MambaStepInputs& inputs, const MambaStepWeights& weights,
                      const MambaStepMemory& memory, const MambaStepOutputs& outputs) {
  const int64_t sequences = inputs.x.dim(0);
  const int64_t d_inner = weights.A.dim(0);
  const int64_t d_state = weights.A.dim(1);
  const int64_t dt_rank = weights.dt_proj.dim(1);
  const SequenceLayout layout = SequenceLayout::Uniform(sequences, 1);
  const auto rows = [&](int64_t columns) {
    return Tensor::Empty({sequences, columns}, outputs.y.dtype(), outputs.y.device());
  };

  const Tensor u = rows(inputs.x.dim(1));
  Operators::RmsNorm(
      {.x = inputs.x, .residual = inputs.residual, .weight = weights.norm, .eps = weights.norm_eps},
      {.y = u, .residual_out = outputs.residual_out});
  const Tensor vz = rows(2 * d_inner);
  Operators::Linear(u, weights.in_proj, weights.in_proj_bias, vz);
  const Tensor v = rows(d_inner);
  Operators::CausalConv1d({.x = vz.Columns(0, d_inner),
                           .weight = weights.conv,
                           .bias = weights.conv_bias,
                           .initial_window = memory.window,
                           .layout = layout,
                           .activation = ConvActivation::kSilu},
                          {.y = v, .final_window = memory.window});
  const Tensor selection = rows(dt_rank + 2 * d_state);
  Operators::Linear(v, weights.x_proj, {}, selection);
  const auto part = [&](int64_t begin, int64_t count) {
    const Tensor columns = selection.Columns(begin, count);
    if (weights.selection_eps) {
      Operators::RmsNorm(
          {.x = columns, .residual = {}, .weight = {}, .eps = *weights.selection_eps},
          {.y = columns, .residual_out = {}});
    }
    return columns;
  };
  const Tensor dt = rows(d_inner);
  Operators::Linear(part(0, dt_rank), weights.dt_proj, {}, dt);
  const Tensor y = rows(d_inner);
  Operators::SelectiveScan({.x = v,
                            .dt = dt,
                            .A = weights.A,
                            .B = part(dt_rank, d_state),
                            .C = part(dt_rank + d_state, d_state),
                            .D = weights.D,
                            .dt_bias = weights.dt_bias,
                            .z = vz.Columns(d_inner, d_inner),
                            .interval = {},
                            .h0 = memory.h,
                            .layout = layout,
                            .groups = 1},
                           {.y = y, .hT = memory.h, .chunk_states = {}});
  Operators::Linear(y, weights.out_proj, weights.out_proj_bias, outputs.y);
}

namespace cuda {

// The same in few kernels, for one sequence, d_state 16, d_conv of at most 4 and projections
// whose rows lie aligned. Returns whether it took these arguments; if not, nothing was done.
bool MambaStep(const MambaStepInputs& inputs, const MambaStepWeights& weights,
               const MambaStepMemory& memory, const MambaStepOutputs& outputs);

}  // namespace cuda
}  // namespace adder
