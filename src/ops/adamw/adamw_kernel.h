// adamw on raw pointers: the kernels compiled once per CPU instruction set.
#pragma once

#include <cstdint>

#include "adder/backend/cpu/instruction_set.h"
#include "adder/core/dtype.h"

namespace adder::cpu {

// The step's scalars, worked out in double and rounded once:
//     g = gradient · gradient_scale, at most 2⁶³ in magnitude where it is finite
//     m = beta1·m + one_minus_beta1·g        v = beta2·v + one_minus_beta2·g²
//     w = w - (decay·w + rate·m / (sqrt(v · second_correction) + eps))
struct AdamWArguments {
  float gradient_scale = 1;
  float beta1 = 0;
  float one_minus_beta1 = 1;
  float beta2 = 0;
  float one_minus_beta2 = 1;
  float decay = 0;              // lr·weight_decay
  float rate = 0;               // lr / (1 - beta1^step)
  float second_correction = 1;  // 1 / (1 - beta2^step)
  float eps = 0;
  const float* gradient = nullptr;
  float* weight = nullptr;
  float* m = nullptr;
  float* v = nullptr;
  void* compute_weight = nullptr;  // may be null
  DType compute_dtype = DType::kBF16;
  int64_t elements = 0;
};

// sum = Σ values², in double, in an order that depends on `elements` only: the same bits with every
// instruction set.
struct SumOfSquaresArguments {
  const float* values = nullptr;
  int64_t elements = 0;
  double* sum = nullptr;
};

}  // namespace adder::cpu

ADDER_CPU_KERNEL(AdamWKernel, AdamWArguments)
ADDER_CPU_KERNEL(SumOfSquaresKernel, SumOfSquaresArguments)
