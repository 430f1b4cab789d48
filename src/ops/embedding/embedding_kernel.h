// embedding's backward on raw pointers: the kernel compiled once per CPU instruction set. (Forward
// copies or unpacks rows, backend/cpu/unpack_kernel.h.)
#pragma once

#include <cstdint>

#include "adder/backend/cpu/instruction_set.h"
#include "adder/core/dtype.h"

namespace adder::cpu {

// dW[tokens[t]] += dy[t], rows in order.
struct EmbeddingBackwardArguments {
  const int32_t* tokens = nullptr;
  const void* dy = nullptr;
  DType dy_dtype = DType::kF32;
  int64_t dy_stride = 0;
  float* dW = nullptr;
  int64_t dW_stride = 0;
  int64_t rows = 0;
  int64_t channel_begin = 0;  // the channels to do
  int64_t channel_end = 0;
};

}  // namespace adder::cpu

ADDER_CPU_KERNEL(EmbeddingBackwardKernel, EmbeddingBackwardArguments)
