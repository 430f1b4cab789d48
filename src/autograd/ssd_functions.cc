// The recorded state space dual.
#include <string>

#include "adder/autograd/functions.h"
#include "adder/autograd/recording.h"
#include "adder/ops/elementwise/elementwise.h"
#include "adder/ops/ssd/ssd.h"

namespace adder {

using recording::CheckRank;
using recording::Compute;
using recording::Grad;
using recording::GradientOf;
using recording::NewMemory;
using recording::Records;
using recording::Value;

Variable Ssd(Tape* tape, const SsdVariables& variables, const SsdParameters& parameters,
             const SequenceLayout& layout, const SsdOptions& options, Variable* h,
             MemoryUpdate update) {
  CheckRank(variables.x, 2, "ssd: x");
  CheckRank(variables.B, 2, "ssd: B");
  const SsdInputs inputs{.x = variables.x.value(),
                         .dt = variables.dt.value(),
                         .A = Compute(parameters.A_log),
                         .B = variables.B.value(),
                         .C = variables.C.value(),
                         .D = Compute(parameters.D),
                         .dt_bias = Compute(parameters.dt_bias),
                         .interval = {},
                         .h0 = Value(h),
                         .layout = layout,
                         .head_dim = options.head_dim,
                         .groups = options.groups,
                         .dt_min = options.dt_min,
                         .dt_max = options.dt_max};
  if (inputs.head_dim < 1 || inputs.groups < 1) {
    throw Error(ErrorCode::kInvalidArgument, "ssd: heads of " + std::to_string(inputs.head_dim) +
                                                 " channels in " + std::to_string(inputs.groups) +
                                                 " groups, expected at least 1 of each");
  }
  const bool records = Records(tape, variables.x, variables.dt, variables.B, variables.C,
                               parameters.A_log, parameters.D, parameters.dt_bias, h);
  const auto states = [&](int64_t count) {
    return Shape({count, inputs.x.dim(1) / inputs.head_dim, inputs.head_dim,
                  inputs.B.dim(1) / inputs.groups});
  };
  SsdOutputs outputs{
      .y = Tensor::Empty(inputs.x.shape(), inputs.x.dtype(), inputs.x.device()),
      .hT = NewMemory(tape, h, update, states(layout.sequences()), inputs.x.device()),
      .chunk_states = {}};
  if (records) {
    outputs.chunk_states = Tensor::Empty(states(SsdChunks(layout)), DType::kF32, inputs.x.device());
  }
  Ssd(inputs, outputs);
  Variable result(outputs.y, records);
  const Gradient dh0 = GradientOf(h);
  if (h != nullptr) *h = Variable(outputs.hT, records);
  if (!records) return result;

  tape->Record([inputs, chunk_states = outputs.chunk_states, dx = variables.x.gradient(),
                ddt = variables.dt.gradient(), dB = variables.B.gradient(),
                dC = variables.C.gradient(), dA_log = Grad(parameters.A_log),
                dD = Grad(parameters.D), d_dt_bias = Grad(parameters.dt_bias), dh0,
                dy = result.gradient(), dhT = GradientOf(h)] {
    Tensor seed = dy.value();
    const Tensor state_seed = dhT.value();
    if (!seed.defined() && !state_seed.defined()) return;
    if (!seed.defined()) {
      seed = Tensor::Zeros(inputs.x.shape(), inputs.x.dtype(), inputs.x.device());
    }
    const Contribution to_x(dx);
    const Contribution to_dt(ddt);
    const Contribution to_B(dB);
    const Contribution to_C(dC);
    const Contribution to_h0(dh0);
    Tensor dA;
    if (dA_log.defined()) dA = Tensor::Zeros(inputs.A.shape(), DType::kF32, inputs.A.device());
    SsdBackward(inputs, chunk_states, seed, state_seed,
                {.dx = to_x.target(),
                 .ddt = to_dt.target(),
                 .dA = dA,
                 .dB = to_B.target(),
                 .dC = to_C.target(),
                 .dD = dD,
                 .d_dt_bias = d_dt_bias,
                 .d_interval = {},
                 .dh0 = to_h0.target()});
    for (const Contribution* each : {&to_x, &to_dt, &to_B, &to_C, &to_h0}) each->Add();
    if (dA.defined()) AddProduct(dA_log, dA, inputs.A);
  });
  return result;
}

}  // namespace adder
