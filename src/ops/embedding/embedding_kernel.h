// embedding on raw pointers: the kernels compiled once per CPU instruction set.
#pragma once

#include <cstdint>

#include "adder/backend/cpu/instruction_set.h"
#include "adder/core/dtype.h"

namespace adder::cpu {

// y[t] = W[tokens[t]], widened to f32; rows are `*_stride` elements apart.
struct EmbeddingArguments {
  const int32_t* tokens = nullptr;
  const void* W = nullptr;
  DType W_dtype = DType::kF32;
  int64_t W_stride = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
  int64_t rows = 0;
  int64_t channels = 0;
};

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

ADDER_CPU_KERNEL(EmbeddingKernel, EmbeddingArguments)
ADDER_CPU_KERNEL(EmbeddingBackwardKernel, EmbeddingBackwardArguments)
