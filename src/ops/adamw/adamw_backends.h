// What the dispatch, the reference and the backends of adamw share: the argument checks and one
// function per backend. Not for callers of the operator.
#pragma once

#include <span>

#include "adder/ops/adamw/adamw.h"

namespace adder {

// Throw kInvalidArgument unless the options are usable and all tensors agree and have `dtype`.
void CheckAdamW(const AdamWOptions& options, const Tensor& gradient, const Tensor& weight,
                const Tensor& m, const Tensor& v, const Tensor& compute_weight, DType dtype);
void CheckGradientNorm(std::span<const Tensor> gradients, DType dtype);

namespace cpu {
void AdamW(const AdamWOptions& options, const Tensor& gradient, const Tensor& weight,
           const Tensor& m, const Tensor& v, const Tensor& compute_weight);
double GradientNorm(std::span<const Tensor> gradients);
}  // namespace cpu

}  // namespace adder
