// layer_norm's arguments as the CUDA module takes them.
#pragma once

#include "adder/backend/cuda/arguments.h"

namespace adder::cuda {

struct LayerNormArguments {
  int device;
  int64_t rows, channels;
  Rows x, residual, y, residual_out;
  const float* weight;
  const float* bias;
  float eps;
};

struct LayerNormBackwardArguments {
  int device;
  int64_t rows, channels;
  Rows r, dy, d_residual_out, dr, dx;
  const float* weight;
  float eps;
  float* dweight;
  float* dbias;
};

}  // namespace adder::cuda
