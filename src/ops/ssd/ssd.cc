// ssd: argument checks, and the choice of the backend by x's device.
#include "adder/ops/ssd/ssd.h"

#include <fmt/format.h>

#include "adder/ops/argument_check.h"
#include "adder/ops/ssd/ssd_backends.h"

namespace adder {
namespace {

constexpr const char* kOp = "ssd";
constexpr const char* kBackwardOp = "ssd backward";

SsdShape CheckInputs(const ArgumentCheck& check, const SsdInputs& inputs,
                     std::initializer_list<DType> activations, DType parameters) {
  check.Rank(inputs.x, "x", 2);
  check.Rank(inputs.B, "B", 2);
  if (inputs.head_dim < 1 || inputs.x.dim(1) % inputs.head_dim != 0) {
    check.Fail(fmt::format("a head has {} channels, expected a divisor of the {} channels",
                           inputs.head_dim, inputs.x.dim(1)));
  }
  SsdShape shape = {.rows = inputs.layout.rows(),
                    .sequences = inputs.layout.sequences(),
                    .heads = inputs.x.dim(1) / inputs.head_dim,
                    .head_dim = inputs.head_dim,
                    .groups = inputs.groups,
                    .states = 0};
  if (shape.groups < 1 || shape.heads % shape.groups != 0) {
    check.Fail(fmt::format("there are {} groups, expected a divisor of the {} heads", shape.groups,
                           shape.heads));
  }
  if (inputs.B.dim(1) < shape.groups || inputs.B.dim(1) % shape.groups != 0) {
    check.Fail(fmt::format("B is {}, expected a multiple of the {} groups as columns",
                           inputs.B.ToString(), shape.groups));
  }
  shape.states = inputs.B.dim(1) / shape.groups;
  if (inputs.x.dim(0) != shape.rows) {
    check.Fail(fmt::format("the layout has {} rows, x has {}", shape.rows, inputs.x.dim(0)));
  }
  if (!(inputs.dt_min >= 0) || !(inputs.dt_max >= inputs.dt_min)) {
    check.Fail(fmt::format("dt is limited to {} to {}, expected numbers ≥ 0 in order",
                           inputs.dt_min, inputs.dt_max));
  }
  const Shape projection = {shape.rows, shape.projection()};
  check.Rows(inputs.x, "x", activations, {shape.rows, shape.channels()});
  check.Rows(inputs.dt, "dt", {inputs.x.dtype()}, {shape.rows, shape.heads});
  check.Rows(inputs.B, "B", {inputs.x.dtype()}, projection);
  check.Rows(inputs.C, "C", {inputs.x.dtype()}, projection);
  check.Dense(inputs.A, "A", {parameters}, {shape.heads});
  check.OptionalDense(inputs.D, "D", {parameters}, {shape.heads});
  check.OptionalDense(inputs.dt_bias, "dt_bias", {parameters}, {shape.heads});
  check.OptionalDense(inputs.interval, "interval", {parameters}, {shape.rows});
  check.OptionalDense(inputs.h0, "h0", {parameters}, shape.StateShape(shape.sequences));
  check.AlignedRows({{inputs.h0, "h0"}}, shape.states);
  return shape;
}

}  // namespace

SsdShape CheckSsd(const SsdInputs& inputs, const SsdOutputs& outputs,
                  std::initializer_list<DType> activations, DType parameters) {
  const ArgumentCheck check(kOp, inputs.x.device());
  const SsdShape shape = CheckInputs(check, inputs, activations, parameters);
  check.Rows(outputs.y, "y", {inputs.x.dtype()}, inputs.x.shape());
  check.OptionalDense(outputs.hT, "hT", {parameters}, shape.StateShape(shape.sequences));
  check.OptionalDense(outputs.chunk_states, "chunk_states", {parameters},
                      shape.StateShape(SsdChunks(inputs.layout)));
  check.AlignedRows({{outputs.hT, "hT"}, {outputs.chunk_states, "chunk_states"}}, shape.states);
  check.AllApart({{outputs.y, "y"}, {outputs.hT, "hT"}, {outputs.chunk_states, "chunk_states"}},
                 {{inputs.x, "x"},
                  {inputs.dt, "dt"},
                  {inputs.A, "A"},
                  {inputs.B, "B"},
                  {inputs.C, "C"},
                  {inputs.D, "D"},
                  {inputs.dt_bias, "dt_bias"},
                  {inputs.interval, "interval"}});
  check.Apart(outputs.y, "y", inputs.h0, "h0");
  check.Apart(outputs.chunk_states, "chunk_states", inputs.h0, "h0");
  check.ApartOrSame(outputs.hT, "hT", inputs.h0, "h0");
  return shape;
}

SsdShape CheckSsdBackward(const SsdInputs& inputs, const Tensor& dy, const Tensor& dhT,
                          const SsdGradients& gradients, std::initializer_list<DType> activations,
                          DType parameters) {
  const ArgumentCheck check(kBackwardOp, inputs.x.device());
  const SsdShape shape = CheckInputs(check, inputs, activations, parameters);
  const DType activation = inputs.x.dtype();
  check.Rows(dy, "dy", {activation}, inputs.x.shape());
  check.OptionalDense(dhT, "dhT", {parameters}, shape.StateShape(shape.sequences));
  check.OptionalRows(gradients.dx, "dx", {activation}, inputs.x.shape());
  check.OptionalRows(gradients.ddt, "ddt", {activation}, inputs.dt.shape());
  check.OptionalRows(gradients.dB, "dB", {activation}, inputs.B.shape());
  check.OptionalRows(gradients.dC, "dC", {activation}, inputs.C.shape());
  check.OptionalDense(gradients.dA, "dA", {parameters}, {shape.heads});
  check.OptionalDense(gradients.dD, "dD", {parameters}, {shape.heads});
  check.OptionalDense(gradients.d_dt_bias, "d_dt_bias", {parameters}, {shape.heads});
  check.OptionalDense(gradients.d_interval, "d_interval", {parameters}, {shape.rows});
  check.OptionalDense(gradients.dh0, "dh0", {parameters}, shape.StateShape(shape.sequences));
  check.AlignedRows({{dhT, "dhT"}, {gradients.dh0, "dh0"}}, shape.states);
  check.AllApart({{gradients.dx, "dx"},
                  {gradients.ddt, "ddt"},
                  {gradients.dA, "dA"},
                  {gradients.dB, "dB"},
                  {gradients.dC, "dC"},
                  {gradients.dD, "dD"},
                  {gradients.d_dt_bias, "d_dt_bias"},
                  {gradients.d_interval, "d_interval"},
                  {gradients.dh0, "dh0"}},
                 {{inputs.x, "x"},
                  {inputs.dt, "dt"},
                  {inputs.A, "A"},
                  {inputs.B, "B"},
                  {inputs.C, "C"},
                  {inputs.D, "D"},
                  {inputs.dt_bias, "dt_bias"},
                  {inputs.interval, "interval"},
                  {inputs.h0, "h0"},
                  {dy, "dy"},
                  {dhT, "dhT"}});
  return shape;
}

int64_t SsdChunks(const SequenceLayout& layout) {
  int64_t chunks = 0;
  for (int64_t s = 0; s < layout.sequences(); ++s) {
    chunks += (layout.length(s) + kSsdChunkRows - 1) / kSsdChunkRows;
  }
  return chunks;
}

void Ssd(const SsdInputs& inputs, const SsdOutputs& outputs) {
  const SsdShape shape =
      CheckSsd(inputs, outputs, {DType::kF32, DType::kBF16, DType::kF16}, DType::kF32);
  if (inputs.x.device().type == DeviceType::kCuda) return cuda::Ssd(shape, inputs, outputs);
  cpu::Ssd(shape, inputs, outputs);
}

void SsdBackward(const SsdInputs& inputs, const Tensor& chunk_states, const Tensor& dy,
                 const Tensor& dhT, const SsdGradients& gradients) {
  const SsdShape shape = CheckSsdBackward(inputs, dy, dhT, gradients,
                                          {DType::kF32, DType::kBF16, DType::kF16}, DType::kF32);
  ArgumentCheck(kBackwardOp, inputs.x.device())
      .Dense(chunk_states, "chunk_states", {DType::kF32},
             shape.StateShape(SsdChunks(inputs.layout)));
  if (inputs.x.device().type == DeviceType::kCuda) {
    return cuda::SsdBackward(shape, inputs, chunk_states, dy, dhT, gradients);
  }
  cpu::SsdBackward(shape, inputs, chunk_states, dy, dhT, gradients);
}

}  // namespace adder
