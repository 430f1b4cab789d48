// gated_rms_norm: argument checks, and the choice of the backend by the device.
#include "adder/ops/gated_rms_norm/gated_rms_norm.h"

#include <fmt/format.h>

#include <algorithm>

#include "adder/ops/argument_check.h"
#include "adder/ops/gated_rms_norm/gated_rms_norm_backends.h"

namespace adder {
namespace {

constexpr const char* kOp = "gated_rms_norm";
constexpr const char* kBackwardOp = "gated_rms_norm backward";

int64_t CheckInputs(const ArgumentCheck& check, const GatedRmsNormInputs& inputs,
                    std::initializer_list<DType> activations, DType statistics) {
  check.Rank(inputs.x, "x", 2);
  const Shape& shape = inputs.x.shape();
  check.Rows(inputs.x, "x", activations, shape);
  check.Rows(inputs.z, "z", {inputs.x.dtype()}, shape);
  check.Dense(inputs.weight, "weight", {statistics}, {shape[1]});
  check.Epsilon(inputs.eps);
  const int64_t group_size = inputs.group_size == 0 ? shape[1] : inputs.group_size;
  if (group_size < 0 || (group_size == 0 && shape[1] > 0) ||
      (group_size > 0 && shape[1] % group_size != 0)) {
    check.Fail(fmt::format("a group has {} channels, expected a divisor of the {} channels",
                           group_size, shape[1]));
  }
  return std::max<int64_t>(1, group_size);
}

}  // namespace

int64_t CheckGatedRmsNorm(const GatedRmsNormInputs& inputs, const Tensor& y,
                          std::initializer_list<DType> activations, DType statistics) {
  const ArgumentCheck check(kOp, inputs.x.device());
  const int64_t group_size = CheckInputs(check, inputs, activations, statistics);
  check.Rows(y, "y", activations, inputs.x.shape());
  check.ApartOrSame(y, "y", inputs.x, "x");
  return group_size;
}

int64_t CheckGatedRmsNormBackward(const GatedRmsNormInputs& inputs, const Tensor& dy,
                                  const GatedRmsNormGradients& gradients,
                                  std::initializer_list<DType> activations, DType statistics) {
  const ArgumentCheck check(kBackwardOp, inputs.x.device());
  const int64_t group_size = CheckInputs(check, inputs, activations, statistics);
  const Shape& shape = inputs.x.shape();
  check.Rows(dy, "dy", activations, shape);
  check.OptionalRows(gradients.dx, "dx", {inputs.x.dtype()}, shape);
  check.OptionalRows(gradients.dz, "dz", {inputs.x.dtype()}, shape);
  check.OptionalDense(gradients.dweight, "dweight", {statistics}, {shape[1]});
  const auto apart_from_what_is_read = [&](const Tensor& gradient, const char* name) {
    check.Apart(gradient, name, inputs.x, "x");
    check.Apart(gradient, name, inputs.z, "z");
    check.Apart(gradient, name, inputs.weight, "weight");
    check.Apart(gradient, name, dy, "dy");
  };
  apart_from_what_is_read(gradients.dx, "dx");
  apart_from_what_is_read(gradients.dz, "dz");
  apart_from_what_is_read(gradients.dweight, "dweight");
  return group_size;
}

void GatedRmsNorm(const GatedRmsNormInputs& inputs, const Tensor& y) {
  const int64_t group_size =
      CheckGatedRmsNorm(inputs, y, {DType::kF32, DType::kBF16, DType::kF16}, DType::kF32);
  if (inputs.x.device().type == DeviceType::kCuda) {
    return cuda::GatedRmsNorm(inputs, group_size, y);
  }
  cpu::GatedRmsNorm(inputs, group_size, y);
}

void GatedRmsNormBackward(const GatedRmsNormInputs& inputs, const Tensor& dy,
                          const GatedRmsNormGradients& gradients) {
  const int64_t group_size = CheckGatedRmsNormBackward(
      inputs, dy, gradients, {DType::kF32, DType::kBF16, DType::kF16}, DType::kF32);
  if (inputs.x.device().type == DeviceType::kCuda) {
    return cuda::GatedRmsNormBackward(inputs, group_size, dy, gradients);
  }
  cpu::GatedRmsNormBackward(inputs, group_size, dy, gradients);
}

}  // namespace adder
