// embedding's arguments as the CUDA module takes them.
#pragma once

#include "adder/backend/cuda/arguments.h"

namespace adder::cuda {

struct EmbeddingArguments {
  int device;
  int64_t rows, channels, vocab;
  const int32_t* tokens;
  Rows W;  // may be quantized: the stride counts elements there, too
  int64_t W_row_bytes;
  Rows y;
};

struct EmbeddingBackwardArguments {
  int device;
  int64_t rows, channels, vocab;
  const int32_t* tokens;
  Rows dy;
  float* dW;
  int64_t dW_stride;
};

}  // namespace adder::cuda
