// elementwise: what the tape and the models do to whole tensors beside their operators.
//
//     add to:        target += source
//     add product:   sum += a · b
//     negative exp:  y = -e^x          (A = -exp(A_log) of the selective scan)
#pragma once

#include "adder/core/tensor.h"

namespace adder {

// Of one shape and one floating dtype. The sum is formed in f32 (f64 for f64) and rounded once. The
// source is dense; the target's rows may be further apart, as columns of a wider tensor are. They
// must not share memory. Throw kInvalidArgument when shapes or dtypes disagree, kUnsupported for a
// device without this operator (f64 on CUDA).
void AddTo(const Tensor& target, const Tensor& source);

// Dense f32 tensors of one shape. Results may be one of the inputs. Throw as AddTo.
void AddProduct(const Tensor& sum, const Tensor& a, const Tensor& b);
void NegativeExp(const Tensor& x, const Tensor& y);

}  // namespace adder
