// adamw: its definition, in double.
#include <cmath>

#include "adder/ops/adamw/adamw_backends.h"

namespace adder::reference {

void AdamW(const AdamWOptions& options, const Tensor& gradient, const Tensor& weight,
           const Tensor& m, const Tensor& v, const Tensor& compute_weight) {
  CheckAdamW(options, gradient, weight, m, v, compute_weight, DType::kF64);
  const auto step = static_cast<double>(options.step);
  const double correction1 = 1 - std::pow(options.beta1, step);
  const double correction2 = 1 - std::pow(options.beta2, step);
  for (int64_t i = 0; i < weight.elements(); ++i) {
    const double g = gradient.data<double>()[i] * options.gradient_scale;
    double& w = weight.data<double>()[i];
    double& mean = m.data<double>()[i];
    double& square = v.data<double>()[i];
    mean = options.beta1 * mean + (1 - options.beta1) * g;
    square = options.beta2 * square + (1 - options.beta2) * g * g;
    w -= options.lr * (options.weight_decay * w +
                       (mean / correction1) / (std::sqrt(square / correction2) + options.eps));
  }
  if (compute_weight) compute_weight.CopyFrom(weight);
}

double GradientNorm(std::span<const Tensor> gradients) {
  CheckGradientNorm(gradients, DType::kF64);
  double sum = 0;
  for (const Tensor& gradient : gradients) {
    for (int64_t i = 0; i < gradient.elements(); ++i) {
      sum += gradient.data<double>()[i] * gradient.data<double>()[i];
    }
  }
  return std::sqrt(sum);
}

}  // namespace adder::reference
