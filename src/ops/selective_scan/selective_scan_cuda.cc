// selective_scan on a CUDA device: hands the tensors to the module.
#include "adder/backend/cuda/module.h"
#include "adder/ops/cuda_operators.h"
#include "adder/ops/selective_scan/selective_scan_backends.h"

namespace adder::cuda {
namespace {

SelectiveScanArguments ArgumentsOf(const SelectiveScanShape& shape,
                                   const SelectiveScanInputs& inputs) {
  return {.device = inputs.x.device().index,
          .offsets = inputs.layout.offsets().data(),
          .sequences = shape.sequences,
          .rows = shape.rows,
          .channels = shape.channels,
          .states = shape.states,
          .is_complex = shape.is_complex,
          .groups = shape.groups,
          .x = RowsOf(inputs.x),
          .dt = RowsOf(inputs.dt),
          .z = RowsOf(inputs.z),
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

void SelectiveScan(const SelectiveScanShape& shape, const SelectiveScanInputs& inputs,
                   const SelectiveScanOutputs& outputs) {
  SelectiveScanArguments arguments = ArgumentsOf(shape, inputs);
  arguments.y = RowsOf(outputs.y);
  arguments.h0 = FloatsOf(inputs.h0);
  arguments.hT = FloatsOf(outputs.hT);
  arguments.chunk_states = FloatsOf(outputs.chunk_states);
  GetModule().operators().selective_scan(arguments);
}

void SelectiveScanBackward(const SelectiveScanShape& shape, const SelectiveScanInputs& inputs,
                           const Tensor& chunk_states, const Tensor& dy, const Tensor& dhT,
                           const SelectiveScanGradients& gradients) {
  if (shape.channels == 0) {  // sums over no channels
    for (const Tensor* sum : {&gradients.dB, &gradients.dC, &gradients.d_interval}) {
      if (*sum) sum->SetZero();
    }
    return;
  }
  GetModule().operators().selective_scan_backward({.forward = ArgumentsOf(shape, inputs),
                                                   .chunk_states = FloatsOf(chunk_states),
                                                   .dhT = FloatsOf(dhT),
                                                   .dy = RowsOf(dy),
                                                   .dx = RowsOf(gradients.dx),
                                                   .ddt = RowsOf(gradients.ddt),
                                                   .dz = RowsOf(gradients.dz),
                                                   .dB = RowsOf(gradients.dB),
                                                   .dC = RowsOf(gradients.dC),
                                                   .dA = FloatsOf(gradients.dA),
                                                   .dD = FloatsOf(gradients.dD),
                                                   .d_dt_bias = FloatsOf(gradients.d_dt_bias),
                                                   .d_interval = FloatsOf(gradients.d_interval),
                                                   .dh0 = FloatsOf(gradients.dh0)});
}

}  // namespace adder::cuda
