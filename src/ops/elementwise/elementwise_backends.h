// What the dispatch of elementwise calls on a CUDA device. Not for callers of the operators.
#pragma once

#include "adder/core/tensor.h"

namespace adder::cuda {

// Arguments are checked already.
void AddTo(const Tensor& target, const Tensor& source);
void AddProduct(const Tensor& sum, const Tensor& a, const Tensor& b);
void NegativeExp(const Tensor& x, const Tensor& y);

}  // namespace adder::cuda
