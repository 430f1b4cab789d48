// selective_scan: argument checks, and the choice of the backend by x's device.
#include "adder/ops/selective_scan/selective_scan.h"

#include <fmt/format.h>

#include <utility>

#include "adder/ops/argument_check.h"
#include "adder/ops/selective_scan/selective_scan_backends.h"

namespace adder {
namespace {

constexpr const char* kOp = "selective_scan";
constexpr const char* kBackwardOp = "selective_scan backward";

SelectiveScanShape CheckInputs(const ArgumentCheck& check, const SelectiveScanInputs& inputs,
                               std::initializer_list<DType> activations, DType parameters) {
  check.Rank(inputs.x, "x", 2);
  check.That(inputs.A.defined(), "A is not given");
  const bool is_complex = inputs.A.rank() == 3 && inputs.A.dim(2) == 2;
  if (inputs.A.rank() != 2 && !is_complex) {
    check.Fail(fmt::format("A is {}, expected [D, N] or [D, N, 2]", inputs.A.ToString()));
  }
  check.That(inputs.B.defined(), "B is not given");
  const SelectiveScanShape shape = {.rows = inputs.layout.rows(),
                                    .sequences = inputs.layout.sequences(),
                                    .channels = inputs.x.dim(1),
                                    .states = inputs.A.dim(1),
                                    .is_complex = is_complex,
                                    .groups = inputs.groups};
  check.That(shape.states >= 1, "A has no states, expected N to be at least 1");
  if (shape.groups < 1 || shape.channels % shape.groups != 0) {
    check.Fail(fmt::format("there are {} groups, expected a divisor of the {} channels",
                           shape.groups, shape.channels));
  }
  if (inputs.x.dim(0) != shape.rows) {
    check.Fail(fmt::format("the layout has {} rows, x has {}", shape.rows, inputs.x.dim(0)));
  }
  CheckedProduct(shape.groups, CheckedProduct(2, shape.states, "selective_scan: B's columns"),
                 "selective_scan: B's columns");

  const Shape activation = {shape.rows, shape.channels};
  const Shape projection = {shape.rows, shape.projection()};
  check.Rows(inputs.x, "x", activations, activation);
  check.Rows(inputs.dt, "dt", {inputs.x.dtype()}, activation);
  check.OptionalRows(inputs.z, "z", {inputs.x.dtype()}, activation);
  check.Rows(inputs.B, "B", activations, projection);
  check.Rows(inputs.C, "C", {inputs.B.dtype()}, projection);
  check.Dense(inputs.A, "A", {parameters}, shape.StateShape());
  check.OptionalDense(inputs.D, "D", {parameters}, {shape.channels});
  check.OptionalDense(inputs.dt_bias, "dt_bias", {parameters}, {shape.channels});
  check.OptionalDense(inputs.interval, "interval", {parameters}, {shape.rows});
  check.OptionalDense(inputs.h0, "h0", {parameters}, shape.StateShape(shape.sequences));
  check.AlignedRows({{inputs.A, "A"}, {inputs.h0, "h0"}}, shape.components());
  return shape;
}

}  // namespace

SelectiveScanShape CheckSelectiveScan(const SelectiveScanInputs& inputs,
                                      const SelectiveScanOutputs& outputs,
                                      std::initializer_list<DType> activations, DType parameters) {
  const ArgumentCheck check(kOp, inputs.x.device());
  const SelectiveScanShape shape = CheckInputs(check, inputs, activations, parameters);
  check.Rows(outputs.y, "y", {inputs.x.dtype()}, inputs.x.shape());
  check.OptionalDense(outputs.hT, "hT", {parameters}, shape.StateShape(shape.sequences));
  check.OptionalDense(outputs.chunk_states, "chunk_states", {parameters},
                      shape.StateShape(ScanChunks(inputs.layout)));
  check.AlignedRows({{outputs.hT, "hT"}, {outputs.chunk_states, "chunk_states"}},
                    shape.components());
  check.AllApart({{outputs.y, "y"}, {outputs.hT, "hT"}, {outputs.chunk_states, "chunk_states"}},
                 {{inputs.x, "x"},
                  {inputs.dt, "dt"},
                  {inputs.A, "A"},
                  {inputs.B, "B"},
                  {inputs.C, "C"},
                  {inputs.D, "D"},
                  {inputs.dt_bias, "dt_bias"},
                  {inputs.z, "z"},
                  {inputs.interval, "interval"}});
  check.Apart(outputs.y, "y", inputs.h0, "h0");
  check.Apart(outputs.chunk_states, "chunk_states", inputs.h0, "h0");
  check.ApartOrSame(outputs.hT, "hT", inputs.h0, "h0");
  return shape;
}

SelectiveScanShape CheckSelectiveScanBackward(const SelectiveScanInputs& inputs, const Tensor& dy,
                                              const Tensor& dhT,
                                              const SelectiveScanGradients& gradients,
                                              std::initializer_list<DType> activations,
                                              DType parameters) {
  const ArgumentCheck check(kBackwardOp, inputs.x.device());
  const SelectiveScanShape shape = CheckInputs(check, inputs, activations, parameters);
  const DType activation = inputs.x.dtype();
  const DType projection = inputs.B.dtype();
  const Shape states = shape.StateShape(shape.sequences);
  check.Rows(dy, "dy", {activation}, inputs.x.shape());
  check.OptionalDense(dhT, "dhT", {parameters}, states);
  check.OptionalRows(gradients.dx, "dx", {activation}, inputs.x.shape());
  check.OptionalRows(gradients.ddt, "ddt", {activation}, inputs.x.shape());
  check.OptionalRows(gradients.dz, "dz", {activation}, inputs.x.shape());
  check.OptionalRows(gradients.dB, "dB", {projection}, inputs.B.shape());
  check.OptionalRows(gradients.dC, "dC", {projection}, inputs.C.shape());
  check.OptionalDense(gradients.dA, "dA", {parameters}, shape.StateShape());
  check.OptionalDense(gradients.dD, "dD", {parameters}, {shape.channels});
  check.OptionalDense(gradients.d_dt_bias, "d_dt_bias", {parameters}, {shape.channels});
  check.OptionalDense(gradients.d_interval, "d_interval", {parameters}, {shape.rows});
  check.OptionalDense(gradients.dh0, "dh0", {parameters}, states);
  check.That(!gradients.dz || inputs.z.defined(), "dz is asked for, but z is not given");
  check.AlignedRows({{dhT, "dhT"}, {gradients.dA, "dA"}, {gradients.dh0, "dh0"}},
                    shape.components());
  const ArgumentCheck::Named rows[] = {
      {inputs.x, "x"}, {inputs.dt, "dt"}, {inputs.z, "z"}, {dy, "dy"}};
  for (const auto& [gradient, name] : std::initializer_list<ArgumentCheck::Named>{
           {gradients.dx, "dx"}, {gradients.ddt, "ddt"}, {gradients.dz, "dz"}}) {
    for (const auto& [input, input_name] : rows) {
      check.ApartOrSame(gradient, name, input, input_name);
    }
  }
  const std::initializer_list<ArgumentCheck::Named> others = {{gradients.dB, "dB"},
                                                              {gradients.dC, "dC"},
                                                              {gradients.dA, "dA"},
                                                              {gradients.dD, "dD"},
                                                              {gradients.d_dt_bias, "d_dt_bias"},
                                                              {gradients.d_interval, "d_interval"},
                                                              {gradients.dh0, "dh0"}};
  for (const auto& [gradient, name] : others) {
    for (const auto& [input, input_name] : rows) check.Apart(gradient, name, input, input_name);
  }
  check.AllApart({{gradients.dx, "dx"},
                  {gradients.ddt, "ddt"},
                  {gradients.dz, "dz"},
                  {gradients.dB, "dB"},
                  {gradients.dC, "dC"},
                  {gradients.dA, "dA"},
                  {gradients.dD, "dD"},
                  {gradients.d_dt_bias, "d_dt_bias"},
                  {gradients.d_interval, "d_interval"},
                  {gradients.dh0, "dh0"}},
                 {{inputs.B, "B"},
                  {inputs.C, "C"},
                  {inputs.A, "A"},
                  {inputs.D, "D"},
                  {inputs.dt_bias, "dt_bias"},
                  {inputs.interval, "interval"},
                  {inputs.h0, "h0"}});
  check.ApartOrSame(gradients.dh0, "dh0", dhT, "dhT");
  return shape;
}

int64_t ScanChunks(const SequenceLayout& layout) {
  int64_t chunks = 0;
  for (int64_t s = 0; s < layout.sequences(); ++s) {
    chunks += (layout.length(s) + kScanChunkRows - 1) / kScanChunkRows;
  }
  return chunks;
}

void SelectiveScan(const SelectiveScanInputs& inputs, const SelectiveScanOutputs& outputs) {
  const SelectiveScanShape shape =
      CheckSelectiveScan(inputs, outputs, {DType::kF32, DType::kBF16, DType::kF16}, DType::kF32);
  if (inputs.x.device().type == DeviceType::kCuda)
    return cuda::SelectiveScan(shape, inputs, outputs);
  cpu::SelectiveScan(shape, inputs, outputs);
}

void SelectiveScanBackward(const SelectiveScanInputs& inputs, const Tensor& chunk_states,
                           const Tensor& dy, const Tensor& dhT,
                           const SelectiveScanGradients& gradients) {
  const SelectiveScanShape shape = CheckSelectiveScanBackward(
      inputs, dy, dhT, gradients, {DType::kF32, DType::kBF16, DType::kF16}, DType::kF32);
  const ArgumentCheck check(kBackwardOp, inputs.x.device());
  check.Dense(chunk_states, "chunk_states", {DType::kF32},
              shape.StateShape(ScanChunks(inputs.layout)));
  check.AlignedRows({{chunk_states, "chunk_states"}}, shape.components());
  if (inputs.x.device().type == DeviceType::kCuda) {
    return cuda::SelectiveScanBackward(shape, inputs, chunk_states, dy, dhT, gradients);
  }
  cpu::SelectiveScanBackward(shape, inputs, chunk_states, dy, dhT, gradients);
}

}  // namespace adder
