// softmax_cross_entropy: argument checks, and the choice of the backend by the device.
#include "adder/ops/softmax_cross_entropy/softmax_cross_entropy.h"

#include <fmt/format.h>

#include "adder/ops/argument_check.h"
#include "adder/ops/softmax_cross_entropy/softmax_cross_entropy_backends.h"

namespace adder {
namespace {

constexpr const char* kOp = "softmax_cross_entropy";
constexpr const char* kBackwardOp = "softmax_cross_entropy backward";

void CheckInputs(const ArgumentCheck& check, const SoftmaxCrossEntropyInputs& inputs,
                 std::initializer_list<DType> activations, std::initializer_list<DType> weights,
                 DType sums) {
  const auto& [hidden, W, bias, targets] = inputs;
  check.Rank(hidden, "hidden", 2);
  check.Rank(W, "W", 2);
  check.Rows(hidden, "hidden", activations, hidden.shape());
  check.Rows(W, "W", weights, {W.dim(0), hidden.dim(1)});
  check.That(W.dim(0) >= 1, "the vocabulary is empty");
  check.OptionalDense(bias, "bias", {sums}, {W.dim(0)});
  check.Dense(targets, "targets", {DType::kI32}, {hidden.dim(0)});
}

}  // namespace

void CheckSoftmaxCrossEntropy(const SoftmaxCrossEntropyInputs& inputs, const Tensor& loss,
                              std::initializer_list<DType> activations,
                              std::initializer_list<DType> weights, DType sums) {
  const ArgumentCheck check(kOp, inputs.hidden.device());
  CheckInputs(check, inputs, activations, weights, sums);
  check.Dense(loss, "loss", {sums}, {inputs.hidden.dim(0)});
  check.Apart(loss, "loss", inputs.hidden, "hidden");
  check.Apart(loss, "loss", inputs.W, "W");
  check.Apart(loss, "loss", inputs.bias, "bias");
}

void CheckSoftmaxCrossEntropyBackward(const SoftmaxCrossEntropyInputs& inputs, const Tensor& d_loss,
                                      const SoftmaxCrossEntropyGradients& gradients,
                                      std::initializer_list<DType> operands, DType sums) {
  const ArgumentCheck check(kBackwardOp, inputs.hidden.device());
  CheckInputs(check, inputs, operands, {inputs.hidden.dtype()}, sums);
  const Shape& shape = inputs.hidden.shape();
  check.Dense(d_loss, "d_loss", {sums}, {shape[0]});
  check.OptionalRows(gradients.d_hidden, "d_hidden", {inputs.hidden.dtype()}, shape);
  check.OptionalRows(gradients.dW, "dW", {sums}, inputs.W.shape());
  check.OptionalDense(gradients.dbias, "dbias", {sums}, {inputs.W.dim(0)});
  check.OptionalDense(gradients.loss, "loss", {sums}, {shape[0]});
  const auto apart_from_what_is_read = [&](const Tensor& gradient, const char* name) {
    check.Apart(gradient, name, inputs.hidden, "hidden");
    check.Apart(gradient, name, inputs.W, "W");
    check.Apart(gradient, name, inputs.bias, "bias");
    check.Apart(gradient, name, inputs.targets, "targets");
    check.Apart(gradient, name, d_loss, "d_loss");
  };
  apart_from_what_is_read(gradients.d_hidden, "d_hidden");
  apart_from_what_is_read(gradients.dW, "dW");
  apart_from_what_is_read(gradients.dbias, "dbias");
  apart_from_what_is_read(gradients.loss, "loss");
}

void CheckTargets(const Tensor& targets, int64_t vocab) {
  const int32_t* target = targets.data<int32_t>();
  for (int64_t t = 0; t < targets.dim(0); ++t) {
    if (target[t] != kIgnoreTarget && (target[t] < 0 || target[t] >= vocab)) {
      ArgumentCheck(kOp, targets.device())
          .Fail(fmt::format("targets[{}] is {}, expected 0 to {}, or {} for none", t, target[t],
                            vocab - 1, kIgnoreTarget));
    }
  }
}

void SoftmaxCrossEntropy(const SoftmaxCrossEntropyInputs& inputs, const Tensor& loss) {
  CheckSoftmaxCrossEntropy(inputs, loss, {DType::kF32, DType::kBF16, DType::kF16},
                           {DType::kF32, DType::kBF16, DType::kF16, DType::kQ8_0, DType::kQ4_0,
                            DType::kQ4_K, DType::kQ6_K},
                           DType::kF32);
  if (inputs.hidden.device().type == DeviceType::kCuda) {
    return cuda::SoftmaxCrossEntropy(inputs, loss);
  }
  cpu::SoftmaxCrossEntropy(inputs, loss);
}

void SoftmaxCrossEntropyBackward(const SoftmaxCrossEntropyInputs& inputs, const Tensor& d_loss,
                                 const SoftmaxCrossEntropyGradients& gradients) {
  CheckSoftmaxCrossEntropyBackward(inputs, d_loss, gradients,
                                   {DType::kF32, DType::kBF16, DType::kF16}, DType::kF32);
  if (inputs.hidden.device().type == DeviceType::kCuda) {
    return cuda::SoftmaxCrossEntropyBackward(inputs, d_loss, gradients);
  }
  cpu::SoftmaxCrossEntropyBackward(inputs, d_loss, gradients);
}

}  // namespace adder
