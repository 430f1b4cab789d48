// rms_norm on raw pointers: the kernels compiled once per CPU instruction set.
#pragma once

#include <cstdint>

#include "adder/backend/cpu/instruction_set.h"
#include "adder/core/dtype.h"

namespace adder::cpu {

// Matrices are [rows, channels] with rows `*_stride` elements apart.
struct RmsNormArguments {
  const void* x = nullptr;
  DType x_dtype = DType::kF32;
  int64_t x_stride = 0;
  const float* residual = nullptr;  // may be null
  int64_t residual_stride = 0;
  const float* weight = nullptr;  // may be null: ones
  float eps = 0;
  void* y = nullptr;
  DType y_dtype = DType::kF32;
  int64_t y_stride = 0;
  float* residual_out = nullptr;  // may be null
  int64_t residual_out_stride = 0;
  int64_t rows = 0;
  int64_t channels = 0;
};

struct RmsNormBackwardArguments {
  const float* r = nullptr;
  int64_t r_stride = 0;
  const float* weight = nullptr;  // may be null: ones
  float eps = 0;
  const void* dy = nullptr;
  DType dy_dtype = DType::kF32;
  int64_t dy_stride = 0;
  const float* d_residual_out = nullptr;  // may be null
  int64_t d_residual_out_stride = 0;
  float* dr = nullptr;  // may be null
  int64_t dr_stride = 0;
  void* dx = nullptr;  // may be null
  DType dx_dtype = DType::kF32;
  int64_t dx_stride = 0;
  float* dweight = nullptr;  // [channels]: added to; may be null
  int64_t rows = 0;
  int64_t channels = 0;
};

}  // namespace adder::cpu

ADDER_CPU_KERNEL(RmsNormKernel, RmsNormArguments)
ADDER_CPU_KERNEL(RmsNormBackwardKernel, RmsNormBackwardArguments)
