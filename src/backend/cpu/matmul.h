// Matrix products on the CPU: the adapter to oneDNN, which computes them, and the only place that
// knows it.
#pragma once

#include "adder/core/tensor.h"

namespace adder::cpu {

struct MatMulOptions {
  bool transpose_A = false;  // A is stored as [K, M]
  bool transpose_B = false;  // B is stored as [N, K]
  bool accumulate = false;   // add to C instead of overwriting it
};

// C = A · B + bias, or C += A · B + bias. A: [M, K], B: [K, N], C: [M, N], bias: f32 [N] or
// undefined (0). A and B are f32, bf16 or f16, C too. Rows may be further apart than their length;
// C must not overlap the others. Sums are formed in f32 and rounded once to C's dtype.
//
// Where oneDNN has no product of the operands' dtypes (f16, two dtypes, and bf16 on a machine
// without AVX-512), blocks of them are converted to f32 and multiplied as such: exact, but at the
// speed of f32 or somewhat less.
//
// The threads are those of parallel.h. May be called from several threads at once; within a
// parallel region it computes on the calling thread. The first product of a new shape costs about a
// millisecond in which oneDNN generates code; it keeps that of the last thousand shapes.
//
// Throws kInvalidArgument when shapes or dtypes disagree.
void MatMul(const Tensor& A, const Tensor& B, const Tensor& bias, const Tensor& C,
            const MatMulOptions& options);

}  // namespace adder::cpu
