// ssd on a CUDA device: hands the tensors to the module.
#include "adder/backend/cuda/module.h"
#include "adder/ops/cuda_operators.h"
#include "adder/ops/ssd/ssd_backends.h"

namespace adder::cuda {
namespace {

SsdArguments ArgumentsOf(const SsdShape& shape, const SsdInputs& inputs) {
  return {.device = inputs.x.device().index,
          .offsets = inputs.layout.offsets().data(),
          .sequences = shape.sequences,
          .rows = shape.rows,
          .heads = shape.heads,
          .head_dim = shape.head_dim,
          .groups = shape.groups,
          .states = shape.states,
          .dt_min = static_cast<float>(inputs.dt_min),
          .dt_max = static_cast<float>(inputs.dt_max),
          .x = RowsOf(inputs.x),
          .dt = RowsOf(inputs.dt),
          .B = RowsOf(inputs.B),
          .C = RowsOf(inputs.C),
          .y = {},
          .A = FloatsOf(inputs.A),
          .D = FloatsOf(inputs.D),
          .dt_bias = FloatsOf(inputs.dt_bias),
          .interval = FloatsOf(inputs.interval),
          .h0 = nullptr,
          .hT = nullptr,
          .chunk_states = nullptr};
}

}  // namespace

void Ssd(const SsdShape& shape, const SsdInputs& inputs, const SsdOutputs& outputs) {
  SsdArguments arguments = ArgumentsOf(shape, inputs);
  arguments.y = RowsOf(outputs.y);
  arguments.h0 = FloatsOf(inputs.h0);
  arguments.hT = FloatsOf(outputs.hT);
  arguments.chunk_states = FloatsOf(outputs.chunk_states);
  GetModule().operators().ssd(arguments);
}

void SsdBackward(const SsdShape& shape, const SsdInputs& inputs, const Tensor& chunk_states,
                 const Tensor& dy, const Tensor& dhT, const SsdGradients& gradients) {
  if (shape.heads == 0) {  // sums over no heads
    for (const Tensor* sum : {&gradients.dB, &gradients.dC, &gradients.d_interval}) {
      if (*sum) sum->SetZero();
    }
    return;
  }
  GetModule().operators().ssd_backward({.forward = ArgumentsOf(shape, inputs),
                                        .chunk_states = FloatsOf(chunk_states),
                                        .dhT = FloatsOf(dhT),
                                        .dy = RowsOf(dy),
                                        .dx = RowsOf(gradients.dx),
                                        .ddt = RowsOf(gradients.ddt),
                                        .dB = RowsOf(gradients.dB),
                                        .dC = RowsOf(gradients.dC),
                                        .dA = FloatsOf(gradients.dA),
                                        .dD = FloatsOf(gradients.dD),
                                        .d_dt_bias = FloatsOf(gradients.d_dt_bias),
                                        .d_interval = FloatsOf(gradients.d_interval),
                                        .dh0 = FloatsOf(gradients.dh0)});
}

}  // namespace adder::cuda
