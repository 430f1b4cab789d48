// What the dispatch, the reference and the backends of linear share: the argument checks and one
// function per backend. Not for callers of the operator.
#pragma once

#include <initializer_list>

#include "adder/ops/linear/linear.h"

namespace adder {

// Throw kInvalidArgument unless all tensors agree. `activations`, `weights`: dtypes that x and W
// may have; `operands`: dtypes that both may have; `sums`: the dtype of biases and of dW, which y
// may have too.
void CheckLinear(const Tensor& x, const Tensor& W, const Tensor& bias, const Tensor& y,
                 std::initializer_list<DType> activations, std::initializer_list<DType> weights,
                 DType sums);
void CheckLinearBackward(const Tensor& x, const Tensor& W, const Tensor& dy,
                         const LinearGradients& gradients, std::initializer_list<DType> operands,
                         DType sums);

namespace cpu {
void Linear(const Tensor& x, const Tensor& W, const Tensor& bias, const Tensor& y);
void LinearBackward(const Tensor& x, const Tensor& W, const Tensor& dy,
                    const LinearGradients& gradients);
}  // namespace cpu

namespace cuda {
void Linear(const Tensor& x, const Tensor& W, const Tensor& bias, const Tensor& y);
void LinearBackward(const Tensor& x, const Tensor& W, const Tensor& dy,
                    const LinearGradients& gradients);
}  // namespace cuda

}  // namespace adder
