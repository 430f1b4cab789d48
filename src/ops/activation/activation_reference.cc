// activation: its definitions, in double.
#include <cmath>
#include <numbers>

#include "adder/ops/activation/activation_backends.h"

namespace adder::reference {
namespace {

struct ValueAndSlope {
  double value, slope;
};

ValueAndSlope Silu(double x) {
  const double sigmoid = 1 / (1 + std::exp(-x));
  return {x * sigmoid, sigmoid * (1 + x * (1 - sigmoid))};
}

ValueAndSlope Evaluate(Activation activation, double x) {
  if (activation == Activation::kSilu) return Silu(x);
  if (activation == Activation::kGelu) {
    const double distribution = std::erfc(-x / std::numbers::sqrt2) / 2;
    const double density = std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi);
    return {x * distribution, distribution + x * density};
  }
  const double factor = std::sqrt(2 / std::numbers::pi);
  const double tanh = std::tanh(factor * (x + 0.044715 * x * x * x));
  const double slope = (1 - tanh * tanh) * factor * (1 + 3 * 0.044715 * x * x);
  return {x / 2 * (1 + tanh), (1 + tanh + x * slope) / 2};
}

template <class Step>
void ForEachElement(const Tensor& shape, const Step& step) {
  for (int64_t t = 0; t < shape.dim(0); ++t) {
    for (int64_t d = 0; d < shape.dim(1); ++d) {
      step([t, d](const Tensor& tensor) -> double& {
        return tensor.data<double>()[t * tensor.stride(0) + d];
      });
    }
  }
}

}  // namespace

void Activate(Activation activation, const Tensor& x, const Tensor& y) {
  CheckElementwise("activation", {{"x", x}}, {{"y", y}}, {DType::kF64});
  ForEachElement(x, [&](auto at) { at(y) = Evaluate(activation, at(x)).value; });
}

void ActivateBackward(Activation activation, const Tensor& x, const Tensor& dy, const Tensor& dx) {
  CheckElementwise("activation", {{"x", x}, {"dy", dy}}, {{"dx", dx}}, {DType::kF64});
  ForEachElement(x, [&](auto at) { at(dx) = at(dy) * Evaluate(activation, at(x)).slope; });
}

void SwiGlu(const Tensor& gate, const Tensor& up, const Tensor& y) {
  CheckElementwise("swiglu", {{"gate", gate}, {"up", up}}, {{"y", y}}, {DType::kF64});
  ForEachElement(gate, [&](auto at) { at(y) = Silu(at(gate)).value * at(up); });
}

void SwiGluBackward(const Tensor& gate, const Tensor& up, const Tensor& dy,
                    const SwiGluGradients& gradients) {
  CheckElementwise("swiglu", {{"gate", gate}, {"up", up}, {"dy", dy}},
                   {{"dgate", gradients.dgate}, {"dup", gradients.dup}}, {DType::kF64});
  ForEachElement(gate, [&](auto at) {
    const auto [value, slope] = Silu(at(gate));
    const double dgate = at(dy) * at(up) * slope;
    const double dup = at(dy) * value;
    if (gradients.dgate) at(gradients.dgate) = dgate;
    if (gradients.dup) at(gradients.dup) = dup;
  });
}

void Add(const Tensor& a, const Tensor& b, const Tensor& y) {
  CheckElementwise("add", {{"a", a}, {"b", b}}, {{"y", y}}, {DType::kF64});
  ForEachElement(a, [&](auto at) { at(y) = at(a) + at(b); });
}

}  // namespace adder::reference
