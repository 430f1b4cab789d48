// What the dispatch, the reference and the backends of gated_rms_norm share: the argument checks
// and one function per backend. Not for callers of the operator.
#pragma once

#include <initializer_list>

#include "adder/ops/gated_rms_norm/gated_rms_norm.h"

namespace adder {

// Throw kInvalidArgument unless all tensors agree; return the channels of a group. `activations`:
// dtypes that x and y may have; `statistics`: the dtype of the weight and its gradient.
int64_t CheckGatedRmsNorm(const GatedRmsNormInputs& inputs, const Tensor& y,
                          std::initializer_list<DType> activations, DType statistics);
int64_t CheckGatedRmsNormBackward(const GatedRmsNormInputs& inputs, const Tensor& dy,
                                  const GatedRmsNormGradients& gradients,
                                  std::initializer_list<DType> activations, DType statistics);

namespace cpu {
// Arguments are checked already.
void GatedRmsNorm(const GatedRmsNormInputs& inputs, int64_t group_size, const Tensor& y);
void GatedRmsNormBackward(const GatedRmsNormInputs& inputs, int64_t group_size, const Tensor& dy,
                          const GatedRmsNormGradients& gradients);
}  // namespace cpu

namespace cuda {
// Arguments are checked already.
void GatedRmsNorm(const GatedRmsNormInputs& inputs, int64_t group_size, const Tensor& y);
void GatedRmsNormBackward(const GatedRmsNormInputs& inputs, int64_t group_size, const Tensor& dy,
                          const GatedRmsNormGradients& gradients);
}  // namespace cuda

}  // namespace adder
