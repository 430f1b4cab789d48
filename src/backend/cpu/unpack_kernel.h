// Rows of weights of any dtype, quantized ones too, as f32 or bf16.
#pragma once

#include <cstdint>

#include "adder/backend/cpu/instruction_set.h"
#include "adder/core/dtype.h"

namespace adder::cpu {

// to[r, k] = W[r, k] for `rows` rows of K elements (whole blocks); bf16 is rounded to nearest even.
struct UnpackRowsArguments {
  const void* W = nullptr;
  DType W_dtype = DType::kF32;  // f32, bf16, f16 or quantized
  int64_t W_row_bytes = 0;      // from one row to the next
  void* to = nullptr;
  DType to_dtype = DType::kF32;  // f32 or bf16
  int64_t to_stride = 0;         // elements from one row to the next
  int64_t rows = 0;
  int64_t K = 0;
};

}  // namespace adder::cpu

ADDER_CPU_KERNEL(UnpackRows, UnpackRowsArguments)
