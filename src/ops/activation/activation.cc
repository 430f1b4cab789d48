// activation: argument checks, and the choice of the backend by the device.
#include "adder/ops/activation/activation.h"

#include "adder/ops/activation/activation_backends.h"
#include "adder/ops/argument_check.h"

namespace adder {
namespace {

using cpu::ElementwiseFunction;

const char* Name(Activation activation) {
  switch (activation) {
    case Activation::kGelu:
      return "gelu";
    case Activation::kGeluTanh:
      return "gelu_tanh";
    case Activation::kSilu:
      return "silu";
  }
  return "";
}

ElementwiseFunction Forward(Activation activation) {
  switch (activation) {
    case Activation::kGelu:
      return ElementwiseFunction::kGelu;
    case Activation::kGeluTanh:
      return ElementwiseFunction::kGeluTanh;
    case Activation::kSilu:
      break;
  }
  return ElementwiseFunction::kSilu;
}

ElementwiseFunction Backward(Activation activation) {
  switch (activation) {
    case Activation::kGelu:
      return ElementwiseFunction::kGeluBackward;
    case Activation::kGeluTanh:
      return ElementwiseFunction::kGeluTanhBackward;
    case Activation::kSilu:
      break;
  }
  return ElementwiseFunction::kSiluBackward;
}

void Run(const char* op, ElementwiseFunction function,
         std::initializer_list<ElementwiseArgument> inputs,
         std::initializer_list<ElementwiseArgument> outputs) {
  CheckElementwise(op, inputs, outputs, {DType::kF32, DType::kBF16, DType::kF16});
  const Device device = inputs.begin()->tensor.device();
  std::array<Tensor, 3> in;
  std::array<Tensor, 2> out;
  size_t i = 0;
  for (const ElementwiseArgument& input : inputs) in[i++] = input.tensor;
  i = 0;
  for (const ElementwiseArgument& output : outputs) out[i++] = output.tensor;
  if (device.type == DeviceType::kCuda) return cuda::Elementwise(function, in, out);
  cpu::Elementwise(function, in, out);
}

}  // namespace

void CheckElementwise(const char* op, std::initializer_list<ElementwiseArgument> inputs,
                      std::initializer_list<ElementwiseArgument> outputs,
                      std::initializer_list<DType> dtypes) {
  const ElementwiseArgument& first = *inputs.begin();
  const ArgumentCheck check(op, first.tensor.device());
  check.Rank(first.tensor, first.name, 2);
  check.Rows(first.tensor, first.name, dtypes, first.tensor.shape());
  for (const ElementwiseArgument& input : inputs) {
    check.Rows(input.tensor, input.name, {first.tensor.dtype()}, first.tensor.shape());
  }
  for (const ElementwiseArgument& output : outputs) {
    check.OptionalRows(output.tensor, output.name, {first.tensor.dtype()}, first.tensor.shape());
    for (const ElementwiseArgument& input : inputs) {
      check.That(!output.tensor || output.tensor.elements() == 0 ||
                     output.tensor.raw() != input.tensor.raw() ||
                     output.tensor.stride(0) == input.tensor.stride(0),
                 "a result lies on an input but differs from it in stride");
    }
  }
}

void Activate(Activation activation, const Tensor& x, const Tensor& y) {
  ArgumentCheck(Name(activation), x.device()).That(y.defined(), "y is not given");
  Run(Name(activation), Forward(activation), {{"x", x}}, {{"y", y}});
}

void ActivateBackward(Activation activation, const Tensor& x, const Tensor& dy, const Tensor& dx) {
  Run(Name(activation), Backward(activation), {{"x", x}, {"dy", dy}}, {{"dx", dx}});
}

void SwiGlu(const Tensor& gate, const Tensor& up, const Tensor& y) {
  ArgumentCheck("swiglu", gate.device()).That(y.defined(), "y is not given");
  Run("swiglu", ElementwiseFunction::kSwiGlu, {{"gate", gate}, {"up", up}}, {{"y", y}});
}

void SwiGluBackward(const Tensor& gate, const Tensor& up, const Tensor& dy,
                    const SwiGluGradients& gradients) {
  Run("swiglu backward", ElementwiseFunction::kSwiGluBackward,
      {{"gate", gate}, {"up", up}, {"dy", dy}},
      {{"dgate", gradients.dgate}, {"dup", gradients.dup}});
}

void Add(const Tensor& a, const Tensor& b, const Tensor& y) {
  ArgumentCheck("add", a.device()).That(y.defined(), "y is not given");
  Run("add", ElementwiseFunction::kAdd, {{"a", a}, {"b", b}}, {{"y", y}});
}

}  // namespace adder
