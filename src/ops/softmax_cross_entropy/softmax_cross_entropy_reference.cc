// softmax_cross_entropy's definition, in f64.
#include <algorithm>
#include <cmath>
#include <vector>

#include "adder/ops/softmax_cross_entropy/softmax_cross_entropy_backends.h"

namespace adder::reference {
namespace {

std::vector<double> LogitsOfRow(const SoftmaxCrossEntropyInputs& inputs, int64_t t) {
  const auto& [hidden, W, bias, targets] = inputs;
  std::vector<double> logits(static_cast<size_t>(W.dim(0)));
  for (int64_t v = 0; v < W.dim(0); ++v) {
    double sum = bias ? bias.data<double>()[v] : 0;
    for (int64_t k = 0; k < W.dim(1); ++k) {
      sum +=
          hidden.data<double>()[t * hidden.stride(0) + k] * W.data<double>()[v * W.stride(0) + k];
    }
    logits[static_cast<size_t>(v)] = sum;
  }
  return logits;
}

double LogSumExp(const std::vector<double>& values) {
  const double most = *std::max_element(values.begin(), values.end());
  double sum = 0;
  for (const double value : values) sum += std::exp(value - most);
  return most + std::log(sum);
}

}  // namespace

void SoftmaxCrossEntropy(const SoftmaxCrossEntropyInputs& inputs, const Tensor& loss) {
  CheckSoftmaxCrossEntropy(inputs, loss, {DType::kF64}, {DType::kF64}, DType::kF64);
  CheckTargets(inputs.targets, inputs.W.dim(0));
  for (int64_t t = 0; t < inputs.hidden.dim(0); ++t) {
    const std::vector<double> logits = LogitsOfRow(inputs, t);
    const int32_t target = inputs.targets.data<int32_t>()[t];
    loss.data<double>()[t] =
        target == kIgnoreTarget ? 0 : LogSumExp(logits) - logits[static_cast<size_t>(target)];
  }
}

void SoftmaxCrossEntropyBackward(const SoftmaxCrossEntropyInputs& inputs, const Tensor& d_loss,
                                 const SoftmaxCrossEntropyGradients& gradients) {
  CheckSoftmaxCrossEntropyBackward(inputs, d_loss, gradients, {DType::kF64}, DType::kF64);
  CheckTargets(inputs.targets, inputs.W.dim(0));
  const auto& [hidden, W, bias, targets] = inputs;
  const auto& [d_hidden, dW, dbias, loss] = gradients;
  if (d_hidden) d_hidden.SetZero();
  if (loss) loss.SetZero();
  for (int64_t t = 0; t < hidden.dim(0); ++t) {
    const int32_t target = targets.data<int32_t>()[t];
    if (target == kIgnoreTarget) continue;
    const std::vector<double> logits = LogitsOfRow(inputs, t);
    const double log_sum_exp = LogSumExp(logits);
    if (loss) loss.data<double>()[t] = log_sum_exp - logits[static_cast<size_t>(target)];
    for (int64_t v = 0; v < W.dim(0); ++v) {
      const double probability = std::exp(logits[static_cast<size_t>(v)] - log_sum_exp);
      const double d_logit = (probability - (v == target ? 1 : 0)) * d_loss.data<double>()[t];
      if (dbias) dbias.data<double>()[v] += d_logit;
      for (int64_t k = 0; k < W.dim(1); ++k) {
        if (d_hidden) {
          d_hidden.data<double>()[t * d_hidden.stride(0) + k] +=
              d_logit * W.data<double>()[v * W.stride(0) + k];
        }
        if (dW) {
          dW.data<double>()[v * dW.stride(0) + k] +=
              d_logit * hidden.data<double>()[t * hidden.stride(0) + k];
        }
      }
    }
  }
}

}  // namespace adder::reference
