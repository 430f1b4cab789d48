// linear's arguments as the CUDA module takes them.
#pragma once

#include "adder/backend/cuda/arguments.h"

namespace adder::cuda {

struct LinearArguments {
  int device;
  int64_t rows, N, K;
  Rows x;
  Rows W;  // may be quantized: the stride counts elements there, too
  int64_t W_row_bytes;
  const float* bias;
  Rows y;
};

struct LinearBackwardArguments {
  int device;
  int64_t rows, N, K;
  Rows x, W, dy, dx;
  bool accumulate_dx;
  Rows dW;  // f32
  float* dbias;
};

}  // namespace adder::cuda
