// adamw: argument checks, and the choice of the backend by the weight's device.
#include "adder/ops/adamw/adamw.h"

#include <fmt/format.h>

#include <cmath>
#include <iterator>
#include <utility>

#include "adder/ops/adamw/adamw_backends.h"
#include "adder/ops/argument_check.h"

namespace adder {
namespace {

constexpr const char* kOp = "adamw";
constexpr const char* kNormOp = "gradient norm";

void CheckOptions(const ArgumentCheck& check, const AdamWOptions& options) {
  const auto finite_from_zero = [&](double value, const char* name) {
    if (!(value >= 0) || !std::isfinite(value)) {
      check.Fail(fmt::format("{} is {}, expected a number ≥ 0", name, value));
    }
  };
  const auto below_one = [&](double value, const char* name) {
    if (!(value >= 0 && value < 1)) {
      check.Fail(fmt::format("{} is {}, expected 0 ≤ {} < 1", name, value, name));
    }
  };
  finite_from_zero(options.lr, "lr");
  below_one(options.beta1, "beta1");
  below_one(options.beta2, "beta2");
  finite_from_zero(options.eps, "eps");
  finite_from_zero(options.weight_decay, "weight_decay");
  if (!std::isfinite(options.gradient_scale)) {
    check.Fail(fmt::format("gradient_scale is {}, expected a number", options.gradient_scale));
  }
  if (options.step < 1) {
    check.Fail(fmt::format("step is {}, expected 1 for the first", options.step));
  }
}

}  // namespace

void CheckAdamW(const AdamWOptions& options, const Tensor& gradient, const Tensor& weight,
                const Tensor& m, const Tensor& v, const Tensor& compute_weight, DType dtype) {
  const ArgumentCheck check(kOp, weight.device());
  CheckOptions(check, options);
  check.Rank(weight, "weight", weight.rank());  // given
  const Shape& shape = weight.shape();
  check.Dense(weight, "weight", {dtype}, shape);
  check.Dense(gradient, "gradient", {dtype}, shape);
  check.Dense(m, "m", {dtype}, shape);
  check.Dense(v, "v", {dtype}, shape);
  check.OptionalDense(compute_weight, "compute_weight", {DType::kBF16, DType::kF16}, shape);
  const std::pair<const Tensor&, const char*> all[] = {
      {weight, "weight"}, {m, "m"}, {v, "v"}, {compute_weight, "compute_weight"}};
  for (size_t i = 0; i < std::size(all); ++i) {
    const auto& [tensor, name] = all[i];
    check.Apart(tensor, name, gradient, "gradient");
    for (size_t j = 0; j < i; ++j) check.Apart(tensor, name, all[j].first, all[j].second);
  }
}

void CheckGradientNorm(std::span<const Tensor> gradients, DType dtype) {
  for (const Tensor& gradient : gradients) {
    const ArgumentCheck check(kNormOp, gradients.front().device());
    check.Rank(gradient, "a gradient", gradient.rank());  // given
    check.Dense(gradient, "a gradient", {dtype}, gradient.shape());
  }
}

void AdamW(const AdamWOptions& options, const Tensor& gradient, const Tensor& weight,
           const Tensor& m, const Tensor& v, const Tensor& compute_weight) {
  CheckAdamW(options, gradient, weight, m, v, compute_weight, DType::kF32);
  if (weight.device().type != DeviceType::kCpu) ThrowNoBackend(kOp, weight.device());
  cpu::AdamW(options, gradient, weight, m, v, compute_weight);
}

double GradientNorm(std::span<const Tensor> gradients) {
  CheckGradientNorm(gradients, DType::kF32);
  for (const Tensor& gradient : gradients) {
    if (gradient.device().type != DeviceType::kCpu) ThrowNoBackend(kNormOp, gradient.device());
  }
  return cpu::GradientNorm(gradients);
}

}  // namespace adder
