// linear on raw pointers: the kernels compiled once per CPU instruction set.
#pragma once

#include <cstdint>

#include "adder/backend/cpu/instruction_set.h"
#include "adder/core/dtype.h"

namespace adder::cpu {

// y[t, n] = Σ_k x[t, k] · W[n, k] + bias[n] for all rows t and for outputs n in [begin, end).
// W is read from memory once, whatever the number of rows. An element's bits depend neither on the
// range of outputs nor on the other rows.
struct LinearArguments {
  DType dtype = DType::kF32;  // of x and W
  const void* x = nullptr;
  int64_t x_stride = 0;
  const void* W = nullptr;
  int64_t W_stride = 0;
  const float* bias = nullptr;  // may be null
  void* y = nullptr;
  DType y_dtype = DType::kF32;  // dtype, or f32
  int64_t y_stride = 0;
  int64_t rows = 0;
  int64_t K = 0;
  int64_t begin = 0;
  int64_t end = 0;
};

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
