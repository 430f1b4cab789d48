// linear: y = x · Wᵀ + bias, the matrix product of every projection.
//
// x: [rows, K], W: [N, K] (as the checkpoints store it), y: [rows, N]. x and W share a dtype (f32,
// bf16 or f16; the reference: f64), y has that dtype or f32, accumulation is f32. bias is f32 [N].
// Rows of x and y may be strided. Many rows are oneDNN's work; few rows (decoding) stream W once
// through a kernel of our own.
#pragma once

#include "adder/core/tensor.h"

namespace adder {

// Throws kInvalidArgument when shapes or dtypes disagree, kUnsupported for a device without this
// operator. bias may be undefined.
void Linear(const Tensor& x, const Tensor& W, const Tensor& bias, const Tensor& y);

// Those left undefined are not computed.
struct LinearGradients {
  Tensor dx = {};              // [rows, K], x's dtype: dy · W
  bool accumulate_dx = false;  // add to dx instead of overwriting it
  Tensor dW = {};              // f32 [N, K], added to: dyᵀ · x
  Tensor dbias = {};           // f32 [N], added to: Σ_rows dy
};

// dy: [rows, N], y's dtype.
void LinearBackward(const Tensor& x, const Tensor& W, const Tensor& dy,
                    const LinearGradients& gradients);

namespace reference {
void Linear(const Tensor& x, const Tensor& W, const Tensor& bias, const Tensor& y);
void LinearBackward(const Tensor& x, const Tensor& W, const Tensor& dy,
                    const LinearGradients& gradients);
}  // namespace reference

}  // namespace adder
