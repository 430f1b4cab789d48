// rms_norm's arguments as the CUDA module takes them.
#pragma once

#include "adder/backend/cuda/arguments.h"

namespace adder::cuda {

struct RmsNormArguments {
  int device;
  int64_t rows, channels;
  Rows x, residual, y, residual_out;
  const float* weight;
  float eps;
};

struct RmsNormBackwardArguments {
  int device;
  int64_t rows, channels;
  Rows r, dy, d_residual_out, dr, dx;
  const float* weight;
  float eps;
  float* dweight;
};

}  // namespace adder::cuda
