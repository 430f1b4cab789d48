// gated_rms_norm on raw pointers: the kernels compiled once per CPU instruction set.
#pragma once

#include <cstdint>

#include "adder/backend/cpu/instruction_set.h"
#include "adder/core/dtype.h"

namespace adder::cpu {

// Matrices are [rows, channels] with rows `*_stride` elements apart. channels is a multiple of
// group_size.
struct GatedRmsNormArguments {
  const void* x = nullptr;
  int64_t x_stride = 0;
  const void* z = nullptr;
  int64_t z_stride = 0;
  DType dtype = DType::kF32;  // of x and z
  const float* weight = nullptr;
  float eps = 0;
  bool norm_before_gate = false;
  void* y = nullptr;
  DType y_dtype = DType::kF32;
  int64_t y_stride = 0;
  int64_t rows = 0;
  int64_t channels = 0;
  int64_t group_size = 0;
};

struct GatedRmsNormBackwardArguments {
  const void* x = nullptr;
  int64_t x_stride = 0;
  const void* z = nullptr;
  int64_t z_stride = 0;
  DType dtype = DType::kF32;  // of x, z, dx and dz
  const float* weight = nullptr;
  float eps = 0;
  bool norm_before_gate = false;
  const void* dy = nullptr;
  DType dy_dtype = DType::kF32;
  int64_t dy_stride = 0;
  void* dx = nullptr;  // may be null
  int64_t dx_stride = 0;
  void* dz = nullptr;  // may be null
  int64_t dz_stride = 0;
  float* dweight = nullptr;  // [channels]: added to; may be null
  int64_t rows = 0;
  int64_t channels = 0;
  int64_t group_size = 0;
};

}  // namespace adder::cpu

ADDER_CPU_KERNEL(GatedRmsNormKernel, GatedRmsNormArguments)
ADDER_CPU_KERNEL(GatedRmsNormBackwardKernel, GatedRmsNormBackwardArguments)
