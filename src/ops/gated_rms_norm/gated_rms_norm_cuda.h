// gated_rms_norm's arguments as the CUDA module takes them.
#pragma once

#include "adder/backend/cuda/arguments.h"

namespace adder::cuda {

struct GatedRmsNormArguments {
  int device;
  int64_t rows, channels, group_size;
  Rows x, z, y;
  const float* weight;
  float eps;
  bool norm_before_gate;
};

struct GatedRmsNormBackwardArguments {
  GatedRmsNormArguments forward;  // but for y
  Rows dy, dx, dz;
  float* dweight;
};

}  // namespace adder::cuda
