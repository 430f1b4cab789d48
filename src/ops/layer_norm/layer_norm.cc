// layer_norm: argument checks, and the choice of the backend by the device.
#include "adder/ops/layer_norm/layer_norm.h"

#include <fmt/format.h>

#include <cmath>

#include "adder/ops/argument_check.h"
#include "adder/ops/layer_norm/layer_norm_backends.h"

namespace adder {
namespace {

constexpr const char* kOp = "layer_norm";
constexpr const char* kBackwardOp = "layer_norm backward";

void CheckEps(const ArgumentCheck& check, float eps) {
  if (!(eps >= 0) || !std::isfinite(eps)) {
    check.Fail(fmt::format("eps is {}, expected a number ≥ 0", eps));
  }
}

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
  CheckEps(check, inputs.eps);
  check.Rows(outputs.y, "y", activations, shape);
  check.OptionalRows(outputs.residual_out, "residual_out", {statistics}, shape);
  check.ApartOrSame(outputs.y, "y", inputs.x, "x");
  check.ApartOrSame(outputs.residual_out, "residual_out", inputs.residual, "residual");
}

void CheckLayerNormBackward(const Tensor& r, const Tensor& weight, float eps, const Tensor& dy,
                            const Tensor& d_residual_out, const LayerNormGradients& gradients,
                            std::initializer_list<DType> activations, DType statistics) {
  const ArgumentCheck check(kBackwardOp, r.device());
  check.Rank(r, "r", 2);
  const Shape& shape = r.shape();
  check.Rows(r, "r", {statistics}, shape);
  check.Dense(weight, "weight", {statistics}, {shape[1]});
  CheckEps(check, eps);
  check.Rows(dy, "dy", activations, shape);
  check.OptionalRows(d_residual_out, "d_residual_out", {statistics}, shape);
  check.OptionalRows(gradients.dr, "dr", {statistics}, shape);
  check.OptionalRows(gradients.dx, "dx", activations, shape);
  check.OptionalDense(gradients.dweight, "dweight", {statistics}, {shape[1]});
  check.OptionalDense(gradients.dbias, "dbias", {statistics}, {shape[1]});
  check.ApartOrSame(gradients.dr, "dr", d_residual_out, "d_residual_out");
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
