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

// The options of one of many tensors.
inline AdamWOptions OptionsOf(const AdamWOptions& options, const AdamWTensors& tensors) {
  AdamWOptions own = options;
  own.lr = options.lr * tensors.lr_scale;
  own.weight_decay = tensors.weight_decay;
  return own;
}

// Where AdamWScalars puts what.
struct AdamWScalar {
  enum Place { kRate, kStep, kFirstCorrection, kSecondCorrection, kCount };
};

namespace cpu {
void AdamW(const AdamWOptions& options, const Tensor& gradient, const Tensor& weight,
           const Tensor& m, const Tensor& v, const Tensor& compute_weight);
void ClippedAdamW(const AdamWOptions& options, double clip, const Tensor& losses,
                  std::span<const AdamWTensors> tensors, const Tensor& scalars,
                  const Tensor& result);
double GradientNorm(std::span<const Tensor> gradients);
}  // namespace cpu

namespace cuda {
void AdamWAll(const AdamWOptions& options, std::span<const AdamWTensors> tensors);
void ClippedAdamW(const AdamWOptions& options, double clip, const Tensor& losses,
                  std::span<const AdamWTensors> tensors, const Tensor& scalars,
                  const Tensor& result);
double GradientNorm(std::span<const Tensor> gradients);
void SetZeroAll(std::span<const Tensor> tensors);
void RoundAll(std::span<const RoundedCopy> copies);
}  // namespace cuda

}  // namespace adder
