// causal_conv1d: argument checks, and the choice of the backend by x's device.
#include "adder/ops/causal_conv1d/causal_conv1d.h"

#include <fmt/format.h>

#include "adder/ops/argument_check.h"
#include "adder/ops/causal_conv1d/causal_conv1d_backends.h"

namespace adder {
namespace {

constexpr const char* kOp = "causal_conv1d";
constexpr const char* kBackwardOp = "causal_conv1d backward";

void CheckInputs(const ArgumentCheck& check, const CausalConv1dInputs& inputs,
                 std::initializer_list<DType> activations, DType parameters) {
  check.Rank(inputs.x, "x", 2);
  check.Rank(inputs.weight, "weight", 2);
  const int64_t rows = inputs.x.dim(0);
  const int64_t channels = inputs.x.dim(1);
  const int64_t width = inputs.weight.dim(1);
  if (width < kMinConvWidth || width > kMaxConvWidth) {
    check.Fail(
        fmt::format("the width is {}, expected {} to {}", width, kMinConvWidth, kMaxConvWidth));
  }
  if (inputs.layout.rows() != rows) {
    check.Fail(fmt::format("the layout has {} rows, x has {}", inputs.layout.rows(), rows));
  }
  check.Rows(inputs.x, "x", activations, {rows, channels});
  check.Dense(inputs.weight, "weight", {parameters}, {channels, width});
  check.OptionalDense(inputs.bias, "bias", {parameters}, {channels});
  check.OptionalRows(inputs.initial_window, "initial_window", {parameters},
                     {inputs.layout.sequences(), width - 1, channels});
}

Shape WindowShape(const CausalConv1dInputs& inputs) {
  return {inputs.layout.sequences(), inputs.weight.dim(1) - 1, inputs.x.dim(1)};
}

}  // namespace

void CheckCausalConv1d(const CausalConv1dInputs& inputs, const CausalConv1dOutputs& outputs,
                       std::initializer_list<DType> activations, DType parameters) {
  const ArgumentCheck check(kOp, inputs.x.device());
  CheckInputs(check, inputs, activations, parameters);
  check.Rows(outputs.y, "y", {inputs.x.dtype()}, inputs.x.shape());
  check.OptionalRows(outputs.final_window, "final_window", {parameters}, WindowShape(inputs));
  check.AllApart({{outputs.y, "y"}, {outputs.final_window, "final_window"}},
                 {{inputs.x, "x"}, {inputs.weight, "weight"}, {inputs.bias, "bias"}});
  check.Apart(outputs.y, "y", inputs.initial_window, "initial_window");
  check.ApartOrSame(outputs.final_window, "final_window", inputs.initial_window, "initial_window");
}

void CheckCausalConv1dBackward(const CausalConv1dInputs& inputs, const Tensor& dy,
                               const Tensor& d_final_window, const CausalConv1dGradients& gradients,
                               std::initializer_list<DType> activations, DType parameters) {
  const ArgumentCheck check(kBackwardOp, inputs.x.device());
  CheckInputs(check, inputs, activations, parameters);
  const Shape window = WindowShape(inputs);
  check.Rows(dy, "dy", {inputs.x.dtype()}, inputs.x.shape());
  check.OptionalRows(d_final_window, "d_final_window", {parameters}, window);
  check.OptionalRows(gradients.dx, "dx", {inputs.x.dtype()}, inputs.x.shape());
  check.OptionalDense(gradients.dweight, "dweight", {parameters}, inputs.weight.shape());
  check.OptionalDense(gradients.dbias, "dbias", {parameters}, {inputs.x.dim(1)});
  check.OptionalRows(gradients.d_initial_window, "d_initial_window", {parameters}, window);
  check.AllApart({{gradients.dx, "dx"},
                  {gradients.dweight, "dweight"},
                  {gradients.dbias, "dbias"},
                  {gradients.d_initial_window, "d_initial_window"}},
                 {{inputs.x, "x"},
                  {inputs.weight, "weight"},
                  {inputs.bias, "bias"},
                  {inputs.initial_window, "initial_window"},
                  {dy, "dy"},
                  {d_final_window, "d_final_window"}});
}

void CausalConv1d(const CausalConv1dInputs& inputs, const CausalConv1dOutputs& outputs) {
  CheckCausalConv1d(inputs, outputs, {DType::kF32, DType::kBF16, DType::kF16}, DType::kF32);
  if (inputs.x.device().type == DeviceType::kCuda) return cuda::CausalConv1d(inputs, outputs);
  cpu::CausalConv1d(inputs, outputs);
}

void CausalConv1dBackward(const CausalConv1dInputs& inputs, const Tensor& dy,
                          const Tensor& d_final_window, const CausalConv1dGradients& gradients) {
  CheckCausalConv1dBackward(inputs, dy, d_final_window, gradients,
                            {DType::kF32, DType::kBF16, DType::kF16}, DType::kF32);
  if (inputs.x.device().type == DeviceType::kCuda)
    return cuda::CausalConv1dBackward(inputs, dy, d_final_window, gradients);
  cpu::CausalConv1dBackward(inputs, dy, d_final_window, gradients);
}

}  // namespace adder
