// What the dispatch, the reference and the backends of activation share: the argument checks and
// one function per backend. Not for callers of the operator.
#pragma once

#include <array>
#include <initializer_list>
#include <utility>

#include "adder/ops/activation/activation.h"
#include "adder/ops/activation/activation_kernel.h"

namespace adder {

// A tensor and its name in messages.
struct ElementwiseArgument {
  const char* name;
  Tensor tensor;
};

// Throws kInvalidArgument unless the inputs are given, and all that is given has the first input's
// shape and dtype, one of `dtypes`.
void CheckElementwise(const char* op, std::initializer_list<ElementwiseArgument> inputs,
                      std::initializer_list<ElementwiseArgument> outputs,
                      std::initializer_list<DType> dtypes);

namespace cpu {
// Arguments are checked already. Undefined outputs are not computed, undefined inputs not read.
void Elementwise(ElementwiseFunction function, const std::array<Tensor, 3>& inputs,
                 const std::array<Tensor, 2>& outputs);
}  // namespace cpu

namespace cuda {
void Elementwise(cpu::ElementwiseFunction function, const std::array<Tensor, 3>& inputs,
                 const std::array<Tensor, 2>& outputs);
}  // namespace cuda

}  // namespace adder
