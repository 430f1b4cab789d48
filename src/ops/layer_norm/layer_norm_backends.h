// What the dispatch, the reference and the backends of layer_norm share: the argument checks and
// one function per backend. Not for callers of the operator.
#pragma once

#include <initializer_list>

#include "adder/ops/layer_norm/layer_norm.h"

namespace adder {

// Throw kInvalidArgument unless all tensors agree. `activations`: dtypes that x and y may have;
// `statistics`: the dtype of the residual stream, the parameters and their gradients.
void CheckLayerNorm(const LayerNormInputs& inputs, const LayerNormOutputs& outputs,
                    std::initializer_list<DType> activations, DType statistics);
void CheckLayerNormBackward(const Tensor& r, const Tensor& weight, float eps, const Tensor& dy,
                            const Tensor& d_residual_out, const LayerNormGradients& gradients,
                            std::initializer_list<DType> activations, DType statistics);

namespace cpu {
void LayerNorm(const LayerNormInputs& inputs, const LayerNormOutputs& outputs);
void LayerNormBackward(const Tensor& r, const Tensor& weight, float eps, const Tensor& dy,
                       const Tensor& d_residual_out, const LayerNormGradients& gradients);
}  // namespace cpu

namespace cuda {
void LayerNorm(const LayerNormInputs& inputs, const LayerNormOutputs& outputs);
void LayerNormBackward(const Tensor& r, const Tensor& weight, float eps, const Tensor& dy,
                       const Tensor& d_residual_out, const LayerNormGradients& gradients);
}  // namespace cuda

}  // namespace adder
