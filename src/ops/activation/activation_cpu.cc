// activation on the CPU: rows are shared between threads.
#include "adder/backend/cpu/parallel.h"
#include "adder/ops/activation/activation_backends.h"

namespace adder::cpu {
namespace {

ElementwiseMatrix From(const Tensor& matrix, int64_t row) {
  if (!matrix) return {};
  return {matrix.row(row), matrix.stride(0)};
}

}  // namespace

void Elementwise(ElementwiseFunction function, const std::array<Tensor, 3>& inputs,
                 const std::array<Tensor, 2>& outputs) {
  const Tensor& first = inputs[0];
  if (first.elements() == 0) return;
  ParallelFor(first.dim(0), kElementsPerThread / first.dim(1),
              [&](int64_t begin, int64_t end, int) {
                ElementwiseArguments arguments;
                arguments.function = function;
                arguments.dtype = first.dtype();
                for (size_t i = 0; i < inputs.size(); ++i) arguments.in[i] = From(inputs[i], begin);
                for (size_t i = 0; i < outputs.size(); ++i)
                  arguments.out[i] = From(outputs[i], begin);
                arguments.rows = end - begin;
                arguments.columns = first.dim(1);
                ElementwiseKernel(arguments);
              });
}

}  // namespace adder::cpu
