// Products of matrices through cuBLASLt, the module's own service: linear, the loss of a language
// model. cuBLASLt is loaded when the first product is asked for, so that a program that multiplies
// nothing on a GPU needs none.
#pragma once

#include "adder/backend/cuda/arguments.h"
#include "adder/backend/cuda/runtime.cuh"

namespace adder::cuda {

// y [m, n] = a · b, or y + a · b. Matrices are rows of dense columns: a is [m, k], or [k, m] where
// it is transposed, b is [k, n] or [n, k]. a and b share f32, bf16 or f16; y has their dtype or is
// f32. Sums are formed in f32, of f32's whole products (of factors rounded to TF32 where the
// context allows that), in the same order in every run.
struct MatMulArguments {
  int64_t m, n, k;
  Rows a, b, y;
  bool a_transposed;
  bool b_transposed;
  bool accumulate;
};

// Throws kUnsupported where cuBLASLt is not found or refuses.
void MatMul(Context& context, const MatMulArguments& arguments);

}  // namespace adder::cuda
