// The block's forward, and what a SelectionTrace shows of its scan.
#include "adder/models/mamba_block.h"

#include <cmath>

#include "adder/backend/cpu/parallel.h"

namespace adder {
namespace {

// Appends a layer to the trace: the step dt' = softplus(dt + dt_bias), and the mean over the
// states of exp(dt'·A).
void TraceSelection(const Tensor& dt_any, const Tensor& dt_bias, const Tensor& A,
                    SelectionTrace* trace) {
  const Tensor dt = dt_any.To(DType::kF32);
  const int64_t rows = dt.dim(0);
  const int64_t D = A.dim(0);
  const int64_t N = A.dim(1);
  const Tensor step = Tensor::Empty({rows, D}, DType::kF32);
  const Tensor decay = Tensor::Empty({rows, D}, DType::kF32);
  cpu::ParallelFor(rows, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t d = 0; d < D; ++d) {
        const float v = dt.data<float>()[t * dt.stride(0) + d] + dt_bias.data<float>()[d];
        const float softplus = v > 20.0f ? v : std::log1p(std::exp(v));
        float sum = 0;
        for (int64_t n = 0; n < N; ++n) sum += std::exp(softplus * A.data<float>()[d * N + n]);
        step.data<float>()[t * D + d] = softplus;
        decay.data<float>()[t * D + d] = sum / static_cast<float>(N);
      }
    }
  });
  trace->step.push_back(step);
  trace->decay.push_back(decay);
}

}  // namespace

Variable MambaBlock::Forward(Tape* tape, const Variable& x, const SequenceLayout& layout,
                             Variable* residual, Variable* window, Variable* h, MemoryUpdate update,
                             SelectionTrace* trace) const {
  const Variable vz =
      Linear(tape, RmsNorm(tape, x, *residual, *norm, norm_eps, compute_dtype, residual),
             *in_proj_weight, in_proj_bias);
  const Variable v = CausalConv1d(tape, vz.Columns(0, d_inner), *conv_weight, conv_bias, layout,
                                  ConvActivation::kSilu, window, update);
  const Variable selection = Linear(tape, v, *x_proj_weight);
  // The bias goes to the scan, which adds it in f32.
  const Variable dt = Linear(tape, selection.Columns(0, dt_rank), *dt_proj_weight);
  if (trace != nullptr) TraceSelection(dt.value(), dt_proj_bias->compute, A_log->compute, trace);
  const Variable y = SelectiveScan(tape,
                                   {.x = v,
                                    .dt = dt,
                                    .B = selection.Columns(dt_rank, d_state),
                                    .C = selection.Columns(dt_rank + d_state, d_state),
                                    .z = vz.Columns(d_inner, d_inner)},
                                   {.A_log = A_log, .D = D, .dt_bias = dt_proj_bias}, layout,
                                   /*groups=*/1, h, update);
  return Linear(tape, y, *out_proj_weight, out_proj_bias);
}

}  // namespace adder
