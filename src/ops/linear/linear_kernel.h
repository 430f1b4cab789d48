// linear on raw pointers: the kernels compiled once per CPU instruction set.
#pragma once

#include <cstdint>

#include "adder/backend/cpu/instruction_set.h"
#include "adder/core/dtype.h"

namespace adder::cpu {

// y[t, n] = Σ_k x[t, k] · W[n, k] + bias[n] for all rows t and for outputs n in [begin, end).
// W is read from memory once, whatever the number of rows. An element's bits depend neither on the
// range of outputs nor on the other rows.
//
// x is f32: W's elements are widened to f32. x is bf16: W's elements are rounded to bf16, two
// products are summed by one instruction; W is bf16 then, or anything but f32 where
// HasPairProducts().
struct LinearArguments {
  const void* x = nullptr;
  DType x_dtype = DType::kF32;
  int64_t x_stride = 0;
  const void* W = nullptr;
  DType W_dtype = DType::kF32;
  int64_t W_row_bytes = 0;      // from one row to the next
  const float* bias = nullptr;  // may be null
  void* y = nullptr;
  DType y_dtype = DType::kF32;  // f32, bf16 or f16
  int64_t y_stride = 0;
  int64_t rows = 0;
  int64_t K = 0;
  int64_t begin = 0;
  int64_t end = 0;
};

// Whether the active instruction set multiplies pairs of bf16.
inline bool HasPairProducts() { return ActiveInstructionSet() == InstructionSet::kX86V4Bf16; }

// dbias[n] += Σ_t dy[t, n] for outputs n in [begin, end).
struct LinearBiasGradientArguments {
  const void* dy = nullptr;
  DType dtype = DType::kF32;
  int64_t dy_stride = 0;
  int64_t rows = 0;
  int64_t begin = 0;
  int64_t end = 0;
  float* dbias = nullptr;
};

}  // namespace adder::cpu

ADDER_CPU_KERNEL(LinearKernel, LinearArguments)
ADDER_CPU_KERNEL(LinearBiasGradientKernel, LinearBiasGradientArguments)
