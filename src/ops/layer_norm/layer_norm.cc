// layer_norm: argument checks, and the choice of the backend by the device.
#include "adder/ops/layer_norm/layer_norm.h"

#include "adder/ops/argument_check.h"
#include "adder/ops/layer_norm/layer_norm_backends.h"

namespace adder {
namespace {

constexpr const char* kOp = "layer_norm";
constexpr const char* kBackwardOp = "layer_norm backward";

}  // namespace

void CheckLayerNorm(const LayerNormInputs& inputs, const LayerNormOutputs& outputs,
                    std::initializer_list<DType> activations, DType statistics) {
  const ArgumentCheck check(kOp, inputs.x.device());
  check.Rank(inputs.x, "x", 2);
  const Shape& shape = inputs.x.shape();
  check.Rows(inputs.x, "x", activations, shape);
  check.OptionalRows(inputs.residual, "residual", {statistics}, shape);
  check.Dense(inputs.weight, "weight", {statistics}, {shape[1]});
  check.OptionalDense(inputs.bias, "bias", {statistics}, {shape[1]});
  check.Epsilon(inputs.eps);
  check.Rows(outputs.y, "y", activations, shape);
  check.OptionalRows(outputs.residual_out, "residual_out", {statistics}, shape);
  check.ApartOrSame(outputs.y, "y", inputs.x, "x");
  check.ApartOrSame(outputs.residual_out, "residual_out", inputs.residual, "residual");
  check.Apart(outputs.y, "y", inputs.residual, "residual");
  check.Apart(outputs.y, "y", inputs.weight, "weight");
  check.Apart(outputs.y, "y", inputs.bias, "bias");
  check.Apart(outputs.residual_out, "residual_out", inputs.x, "x");
  check.Apart(outputs.residual_out, "residual_out", inputs.weight, "weight");
  check.Apart(outputs.residual_out, "residual_out", inputs.bias, "bias");
  check.Apart(outputs.residual_out, "residual_out", outputs.y, "y");
}

void CheckLayerNormBackward(const Tensor& r, const Tensor& weight, float eps, const Tensor& dy,
                            const Tensor& d_residual_out, const LayerNormGradients& gradients,
                            std::initializer_list<DType> activations, DType statistics) {
  const ArgumentCheck check(kBackwardOp, r.device());
  check.Rank(r, "r", 2);
  const Shape& shape = r.shape();
  check.Rows(r, "r", {statistics}, shape);
  check.Dense(weight, "weight", {statistics}, {shape[1]});
  check.Epsilon(eps);
  check.Rows(dy, "dy", activations, shape);
  check.OptionalRows(d_residual_out, "d_residual_out", {statistics}, shape);
  check.OptionalRows(gradients.dr, "dr", {statistics}, shape);
  check.OptionalRows(gradients.dx, "dx", activations, shape);
  check.OptionalDense(gradients.dweight, "dweight", {statistics}, {shape[1]});
  check.OptionalDense(gradients.dbias, "dbias", {statistics}, {shape[1]});
  check.ApartOrSame(gradients.dr, "dr", d_residual_out, "d_residual_out");
  check.Apart(gradients.dx, "dx", d_residual_out, "d_residual_out");
  check.Apart(gradients.dx, "dx", gradients.dr, "dr");
  const auto apart_from_what_is_read = [&](const Tensor& gradient, const char* name) {
    check.Apart(gradient, name, r, "r");
    check.Apart(gradient, name, weight, "weight");
    check.Apart(gradient, name, dy, "dy");
  };
  apart_from_what_is_read(gradients.dr, "dr");
  apart_from_what_is_read(gradients.dx, "dx");
  apart_from_what_is_read(gradients.dweight, "dweight");
  apart_from_what_is_read(gradients.dbias, "dbias");
}

void LayerNorm(const LayerNormInputs& inputs, const LayerNormOutputs& outputs) {
  CheckLayerNorm(inputs, outputs, {DType::kF32, DType::kBF16, DType::kF16}, DType::kF32);
  if (inputs.x.device().type == DeviceType::kCuda) return cuda::LayerNorm(inputs, outputs);
  cpu::LayerNorm(inputs, outputs);
}

void LayerNormBackward(const Tensor& r, const Tensor& weight, float eps, const Tensor& dy,
                       const Tensor& d_residual_out, const LayerNormGradients& gradients) {
  CheckLayerNormBackward(r, weight, eps, dy, d_residual_out, gradients,
                         {DType::kF32, DType::kBF16, DType::kF16}, DType::kF32);
  if (r.device().type == DeviceType::kCuda) {
    return cuda::LayerNormBackward(r, weight, eps, dy, d_residual_out, gradients);
  }
  cpu::LayerNormBackward(r, weight, eps, dy, d_residual_out, gradients);
}

}  // namespace adder
