// activation's arguments as the CUDA module takes them.
#pragma once

#include "adder/backend/cuda/arguments.h"
#include "adder/ops/activation/activation_kernel.h"

namespace adder::cuda {

// All matrices have one dtype.
struct ElementwiseArguments {
  int device;
  cpu::ElementwiseFunction function;
  int64_t rows, columns;
  Rows in[3];
  Rows out[2];
};

}  // namespace adder::cuda
