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
constexpr const char* kClippedOp = "clipped adamw";
constexpr const char* kNormOp = "gradient norm";
constexpr const char* kZeroOp = "set zero";
constexpr const char* kRoundOp = "rounded copy";

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

// All are given, dense, of the dtype, on one device.
void CheckFloats(const char* op, const char* name, std::span<const Tensor> tensors, DType dtype) {
  for (const Tensor& tensor : tensors) {
    const ArgumentCheck check(op, tensors.front().device());
    check.Rank(tensor, name, tensor.rank());  // given
    check.Dense(tensor, name, {dtype}, tensor.shape());
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
  CheckFloats(kNormOp, "a gradient", gradients, dtype);
}

namespace {

void CheckAll(const AdamWOptions& options, std::span<const AdamWTensors> tensors, Device device) {
  for (const AdamWTensors& t : tensors) {
    CheckAdamW(OptionsOf(options, t), t.gradient, t.weight, t.m, t.v, t.compute_weight,
               DType::kF32);
    ArgumentCheck(kOp, device).That(t.weight.device() == device, "weights are on several devices");
  }
}

}  // namespace

void AdamW(const AdamWOptions& options, const Tensor& gradient, const Tensor& weight,
           const Tensor& m, const Tensor& v, const Tensor& compute_weight) {
  CheckAdamW(options, gradient, weight, m, v, compute_weight, DType::kF32);
  if (weight.device().type == DeviceType::kCuda) {
    const AdamWTensors tensors = {gradient, weight, m, v, compute_weight, 1, options.weight_decay};
    return cuda::AdamWAll(options, {&tensors, 1});
  }
  cpu::AdamW(options, gradient, weight, m, v, compute_weight);
}

void AdamWAll(const AdamWOptions& options, std::span<const AdamWTensors> tensors) {
  if (tensors.empty()) return;
  CheckAll(options, tensors, tensors.front().weight.device());
  if (tensors.front().weight.device().type == DeviceType::kCuda) {
    return cuda::AdamWAll(options, tensors);
  }
  for (const AdamWTensors& t : tensors) {
    cpu::AdamW(OptionsOf(options, t), t.gradient, t.weight, t.m, t.v, t.compute_weight);
  }
}

void ClippedAdamW(const AdamWOptions& options, double clip, const Tensor& losses,
                  std::span<const AdamWTensors> tensors, const Tensor& scalars,
                  const Tensor& result) {
  const Device device = losses.device();
  const ArgumentCheck check(kClippedOp, device);
  check.That(clip >= 0, fmt::format("clip is {}, expected a number ≥ 0", clip));
  check.Rank(losses, "losses", 1);
  check.Dense(losses, "losses", {DType::kF32}, losses.shape());
  check.Dense(scalars, "scalars", {DType::kF64}, {AdamWScalar::kCount});
  check.Dense(result, "result", {DType::kF64}, {2});
  CheckAll(options, tensors, device);
  if (device.type == DeviceType::kCuda) {
    return cuda::ClippedAdamW(options, clip, losses, tensors, scalars, result);
  }
  cpu::ClippedAdamW(options, clip, losses, tensors, scalars, result);
}

Tensor AdamWScalars(const AdamWOptions& options) {
  CheckOptions(ArgumentCheck(kOp, {}), options);
  const auto step = static_cast<double>(options.step);
  const Tensor scalars = Tensor::Empty({AdamWScalar::kCount}, DType::kF64);
  auto* values = scalars.data<double>();
  values[AdamWScalar::kRate] = options.lr;
  values[AdamWScalar::kStep] = step;
  values[AdamWScalar::kFirstCorrection] = 1 / (1 - std::pow(options.beta1, step));
  values[AdamWScalar::kSecondCorrection] = 1 / (1 - std::pow(options.beta2, step));
  return scalars;
}

double GradientNorm(std::span<const Tensor> gradients) {
  CheckGradientNorm(gradients, DType::kF32);
  if (!gradients.empty() && gradients.front().device().type == DeviceType::kCuda) {
    return cuda::GradientNorm(gradients);
  }
  return cpu::GradientNorm(gradients);
}

void SetZeroAll(std::span<const Tensor> tensors) {
  CheckFloats(kZeroOp, "a tensor", tensors, DType::kF32);
  if (!tensors.empty() && tensors.front().device().type == DeviceType::kCuda) {
    return cuda::SetZeroAll(tensors);
  }
  for (const Tensor& tensor : tensors) tensor.SetZero();
}

void RoundAll(std::span<const RoundedCopy> copies) {
  for (const auto& [from, to] : copies) {
    const ArgumentCheck check(kRoundOp, copies.front().from.device());
    check.Rank(from, "from", from.rank());  // given
    check.Dense(from, "from", {DType::kF32}, from.shape());
    check.Rank(to, "to", to.rank());
    check.Dense(to, "to", {DType::kBF16, DType::kF16}, from.shape());
    check.Apart(to, "to", from, "from");
  }
  if (!copies.empty() && copies.front().from.device().type == DeviceType::kCuda) {
    return cuda::RoundAll(copies);
  }
  for (const auto& [from, to] : copies) to.CopyFrom(from);
}

}  // namespace adder
