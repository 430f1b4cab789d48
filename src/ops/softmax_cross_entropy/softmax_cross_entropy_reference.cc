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

}  // namespace

void SoftmaxCrossEntropy(const SoftmaxCrossEntropyInputs& inputs,
                         const SoftmaxCrossEntropyOutputs& outputs) {
  CheckSoftmaxCrossEntropy(inputs, outputs, {DType::kF64}, {DType::kF64}, DType::kF64);
  CheckTargets(inputs.targets, inputs.W.dim(0));
  for (int64_t t = 0; t < inputs.hidden.dim(0); ++t) {
    const std::vector<double> logits = LogitsOfRow(inputs, t);
    const double most = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const double logit : logits) sum += std::exp(logit - most);
    const double log_sum_exp = most + std::log(sum);
    const int32_t target = inputs.targets.data<int32_t>()[t];
    outputs.loss.data<double>()[t] =
        target == kIgnoreTarget ? 0 : log_sum_exp - logits[static_cast<size_t>(target)];
    if (outputs.log_sum_exp) outputs.log_sum_exp.data<double>()[t] = log_sum_exp;
  }
}

void SoftmaxCrossEntropyBackward(const SoftmaxCrossEntropyInputs& inputs, const Tensor& log_sum_exp,
                                 const Tensor& d_loss,
                                 const SoftmaxCrossEntropyGradients& gradients) {
  CheckSoftmaxCrossEntropyBackward(inputs, log_sum_exp, d_loss, gradients, {DType::kF64},
                                   DType::kF64);
  CheckTargets(inputs.targets, inputs.W.dim(0));
  const auto& [hidden, W, bias, targets] = inputs;
  const auto& [d_hidden, dW, dbias] = gradients;
  if (d_hidden) d_hidden.SetZero();
  for (int64_t t = 0; t < hidden.dim(0); ++t) {
    const int32_t target = targets.data<int32_t>()[t];
    if (target == kIgnoreTarget) continue;
    const std::vector<double> logits = LogitsOfRow(inputs, t);
    for (int64_t v = 0; v < W.dim(0); ++v) {
      const double probability =
          std::exp(logits[static_cast<size_t>(v)] - log_sum_exp.data<double>()[t]);
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
