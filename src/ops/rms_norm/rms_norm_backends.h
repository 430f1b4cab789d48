// What the dispatch, the reference and the backends of rms_norm share: the argument checks and one
// function per backend. Not for callers of the operator.
#pragma once

#include <initializer_list>

#include "adder/ops/rms_norm/rms_norm.h"

namespace adder {

// Throw kInvalidArgument unless all tensors agree. `activations`: dtypes that x and y may have;
// `statistics`: the dtype of the residual stream, the weight and their gradients.
void CheckRmsNorm(const RmsNormInputs& inputs, const RmsNormOutputs& outputs,
                  std::initializer_list<DType> activations, DType statistics);
void CheckRmsNormBackward(const Tensor& r, const Tensor& weight, float eps, const Tensor& dy,
                          const Tensor& d_residual_out, const RmsNormGradients& gradients,
                          std::initializer_list<DType> activations, DType statistics);

namespace cpu {
void RmsNorm(const RmsNormInputs& inputs, const RmsNormOutputs& outputs);
void RmsNormBackward(const Tensor& r, const Tensor& weight, float eps, const Tensor& dy,
                     const Tensor& d_residual_out, const RmsNormGradients& gradients);
}  // namespace cpu

namespace cuda {
void RmsNorm(const RmsNormInputs& inputs, const RmsNormOutputs& outputs);
void RmsNormBackward(const Tensor& r, const Tensor& weight, float eps, const Tensor& dy,
                     const Tensor& d_residual_out, const RmsNormGradients& gradients);
}  // namespace cuda

}  // namespace adder
