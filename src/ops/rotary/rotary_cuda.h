// rotary's arguments as the CUDA module takes them.
#pragma once

#include "adder/backend/cuda/arguments.h"

namespace adder::cuda {

struct RotaryArguments {
  int device;
  int64_t rows, heads, d_head;
  Rows x, y;
  const int64_t* positions;   // on the device
  const double* frequencies;  // on the host: of each pair, quarter turns a position
  int64_t pairs;              // rotary_dim / 2
  bool interleaved;
  float direction;  // 1, or -1: back
};

}  // namespace adder::cuda
