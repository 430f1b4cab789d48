// elementwise's arguments as the CUDA module takes them.
#pragma once

#include "adder/backend/cuda/arguments.h"

namespace adder::cuda {

// Of one dtype.
struct AddToArguments {
  int device;
  int64_t rows, columns;
  Rows target, source;
};

struct AddProductArguments {
  int device;
  int64_t elements;
  float* sum;
  const float* a;
  const float* b;
};

struct NegativeExpArguments {
  int device;
  int64_t elements;
  const float* x;
  float* y;
};

}  // namespace adder::cuda
