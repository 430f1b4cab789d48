// linear: argument checks, and the choice of the backend by the device.
#include "adder/ops/linear/linear.h"

#include <utility>

#include "adder/ops/argument_check.h"
#include "adder/ops/linear/linear_backends.h"

namespace adder {
namespace {

constexpr const char* kOp = "linear";
constexpr const char* kBackwardOp = "linear backward";

constexpr std::initializer_list<DType> kActivations = {DType::kF32, DType::kBF16, DType::kF16};
constexpr std::initializer_list<DType> kWeights = {
    DType::kF32, DType::kBF16, DType::kF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_K, DType::kQ6_K};

// x: [rows, K] and W: [N, K].
void CheckOperands(const ArgumentCheck& check, const Tensor& x, const Tensor& W,
                   std::initializer_list<DType> activations, std::initializer_list<DType> weights) {
  check.Rank(x, "x", 2);
  check.Rank(W, "W", 2);
  check.Rows(x, "x", activations, x.shape());
  check.Rows(W, "W", weights, {W.dim(0), x.dim(1)});
}

}  // namespace

void CheckLinear(const Tensor& x, const Tensor& W, const Tensor& bias, const Tensor& y,
                 std::initializer_list<DType> activations, std::initializer_list<DType> weights,
                 DType sums) {
  const ArgumentCheck check(kOp, x.device());
  CheckOperands(check, x, W, activations, weights);
  check.OptionalDense(bias, "bias", {sums}, {W.dim(0)});
  check.Rows(y, "y", {x.dtype(), sums}, {x.dim(0), W.dim(0)});
  check.Apart(y, "y", x, "x");
  check.Apart(y, "y", W, "W");
  check.Apart(y, "y", bias, "bias");
}

void CheckLinearBackward(const Tensor& x, const Tensor& W, const Tensor& dy,
                         const LinearGradients& gradients, std::initializer_list<DType> operands,
                         DType sums) {
  const ArgumentCheck check(kBackwardOp, x.device());
  if (W.defined() && IsQuantized(W.dtype())) {
    check.Fail("W is " + W.ToString() + ": quantized weights are for inference, not for training");
  }
  CheckOperands(check, x, W, operands, {x.dtype()});
  check.Rows(dy, "dy", {x.dtype(), sums}, {x.dim(0), W.dim(0)});
  check.OptionalRows(gradients.dx, "dx", {x.dtype()}, x.shape());
  check.OptionalRows(gradients.dW, "dW", {sums}, W.shape());
  check.OptionalDense(gradients.dbias, "dbias", {sums}, {W.dim(0)});
  const std::pair<const Tensor&, const char*> written[] = {
      {gradients.dx, "dx"}, {gradients.dW, "dW"}, {gradients.dbias, "dbias"}};
  const std::pair<const Tensor&, const char*> read[] = {{x, "x"}, {W, "W"}, {dy, "dy"}};
  for (const auto& [gradient, name] : written) {
    for (const auto& [input, input_name] : read) check.Apart(gradient, name, input, input_name);
  }
}

void Linear(const Tensor& x, const Tensor& W, const Tensor& bias, const Tensor& y) {
  CheckLinear(x, W, bias, y, kActivations, kWeights, DType::kF32);
  if (x.device().type == DeviceType::kCuda) return cuda::Linear(x, W, bias, y);
  cpu::Linear(x, W, bias, y);
}

void LinearBackward(const Tensor& x, const Tensor& W, const Tensor& dy,
                    const LinearGradients& gradients) {
  CheckLinearBackward(x, W, dy, gradients, kActivations, DType::kF32);
  if (x.device().type == DeviceType::kCuda) return cuda::LinearBackward(x, W, dy, gradients);
  cpu::LinearBackward(x, W, dy, gradients);
}

}  // namespace adder
