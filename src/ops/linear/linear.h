// linear: y = x · Wᵀ + bias, the matrix product of every projection.
//
// x: [rows, K], W: [N, K] (as the checkpoints store it), y: [rows, N]. x is f32, bf16 or f16 (the
// reference: x and W f64), y has its dtype or f32. W has any of these, whatever x has, or is
// quantized (core/quantization.h). bias is f32 [N]. Rows of x, y and W may be strided.
//
// Sums are formed in f32. Products are of f32 values that x and W are widened to, exactly, but
// where x is bf16 and W neither that nor f32. Then
//   - W is rounded to bf16 on CPUs with products of bf16, and on CUDA devices for more than 4 rows
//     and where few rows have no kernel (K or memory not in multiples of 16 bytes, K too large for
//     the device's shared memory): a relative error of 2⁻⁹ at most for each weight, of the kind
//     that x has already;
//   - few rows with quantized W, up to 16 on CPUs with products of 8-bit integers and up to 4 on
//     every CUDA device (where W's rows lie densely), are themselves rounded to 8 bits, to the same
//     ones everywhere, in blocks of 32 by their largest, and W is not: sums are off by 0.5 % of
//     their size, about what q8_0's own rounding costs.
// f32 and f16 activations are never rounded so.
//
// Few rows (decoding) read W once, through kernels of our own; many rows are oneDNN's work.
#pragma once

#include "adder/core/tensor.h"

namespace adder {

// bias may be undefined; y must not share memory with the others, whose elements every thread
// reads. Throws kInvalidArgument when shapes or dtypes disagree or memory is shared, kUnsupported
// for a device without this operator.
void Linear(const Tensor& x, const Tensor& W, const Tensor& bias, const Tensor& y);

// Those left undefined are not computed. None may share memory with x, W or dy, which is checked.
struct LinearGradients {
  Tensor dx = {};              // [rows, K], x's dtype: dy · W
  bool accumulate_dx = false;  // add to dx instead of overwriting it
  Tensor dW = {};              // f32 [N, K], added to: dyᵀ · x
  Tensor dbias = {};           // f32 [N], added to: Σ_rows dy
};

// dy: [rows, N], y's dtype. x and W share a dtype, which is not quantized: kInvalidArgument
// otherwise.
void LinearBackward(const Tensor& x, const Tensor& W, const Tensor& dy,
                    const LinearGradients& gradients);

namespace reference {
void Linear(const Tensor& x, const Tensor& W, const Tensor& bias, const Tensor& y);
void LinearBackward(const Tensor& x, const Tensor& W, const Tensor& dy,
                    const LinearGradients& gradients);
}  // namespace reference

}  // namespace adder
