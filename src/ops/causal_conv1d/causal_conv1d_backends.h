// What the dispatch, the reference and the backends of causal_conv1d share: the argument checks and
// one function per backend. Not for callers of the operator.
#pragma once

#include <initializer_list>

#include "adder/ops/causal_conv1d/causal_conv1d.h"

namespace adder {

// Widths the operator takes.
inline constexpr int64_t kMinConvWidth = 2;
inline constexpr int64_t kMaxConvWidth = 8;

// Throw kInvalidArgument unless all tensors agree. `activations`: dtypes that x may have;
// `parameters`: the dtype of weights, windows and their gradients.
void CheckCausalConv1d(const CausalConv1dInputs& inputs, const CausalConv1dOutputs& outputs,
                       std::initializer_list<DType> activations, DType parameters);
void CheckCausalConv1dBackward(const CausalConv1dInputs& inputs, const Tensor& dy,
                               const Tensor& d_final_window, const CausalConv1dGradients& gradients,
                               std::initializer_list<DType> activations, DType parameters);

namespace cpu {
void CausalConv1d(const CausalConv1dInputs& inputs, const CausalConv1dOutputs& outputs);
void CausalConv1dBackward(const CausalConv1dInputs& inputs, const Tensor& dy,
                          const Tensor& d_final_window, const CausalConv1dGradients& gradients);
}  // namespace cpu

namespace cuda {
void CausalConv1d(const CausalConv1dInputs& inputs, const CausalConv1dOutputs& outputs);
void CausalConv1dBackward(const CausalConv1dInputs& inputs, const Tensor& dy,
                          const Tensor& d_final_window, const CausalConv1dGradients& gradients);
}  // namespace cuda

}  // namespace adder
