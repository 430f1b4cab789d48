// linear with quantized weights and activations of 8 bits, for machines with VNNI: products of
// integers, four to an instruction's lane, where unpacking weights to floats would take longer than
// reading them.
#pragma once

#include <cstdint>

#include "adder/backend/cpu/instruction_set.h"
#include "adder/core/dtype.h"

namespace adder::cpu {

// 32 elements of a row of x: x ≈ d · q with q in [-127, 127].
struct Int8Activations {
  int8_t q[32];
  float d;
  float sum;  // d · Σq, for weights that have a minimum
  // Minus the weights' offset times the sum of q: of its first 16, of its last 16, of all.
  int32_t correction[3];
};

// Rows of x that are multiplied together, and so lie together: those of a tile follow each other
// for every 32 elements. The last tile is filled up to a power of two with rows that count for
// nothing.
inline constexpr int64_t kInt8TileRows = 16;
inline int64_t RowsOfInt8Tile(int64_t rows) {
  int64_t tile = 1;
  while (tile < rows && tile < kInt8TileRows) tile *= 2;
  return tile;
}
// Int8Activations in all.
inline int64_t Int8ActivationsCount(int64_t rows, int64_t K) {
  const int64_t whole = rows / kInt8TileRows * kInt8TileRows;
  return (rows == whole ? rows : whole + RowsOfInt8Tile(rows - whole)) * (K / 32);
}

// Rounds `rows` rows of bf16 to Int8ActivationsCount(rows, K).
struct Int8ActivationsArguments {
  const BFloat16* x = nullptr;
  int64_t x_stride = 0;
  DType W_dtype = DType::kQ8_0;  // whose offset is corrected
  Int8Activations* to = nullptr;
  int64_t rows = 0;
  int64_t K = 0;  // a multiple of 32
};

// As LinearArguments. An element's bits depend neither on the range of outputs nor on the other
// rows.
struct LinearInt8Arguments {
  const Int8Activations* x = nullptr;  // Int8ActivationsCount(rows, K)
  const void* W = nullptr;
  DType W_dtype = DType::kQ8_0;
  int64_t W_row_bytes = 0;
  const float* bias = nullptr;  // may be null
  void* y = nullptr;
  DType y_dtype = DType::kF32;  // f32, bf16 or f16
  int64_t y_stride = 0;
  int64_t rows = 0;
  int64_t K = 0;
  int64_t begin = 0;
  int64_t end = 0;
};

// Whether the active instruction set multiplies integers of 8 bits: otherwise these kernels do
// nothing.
inline bool HasInt8Products() { return ActiveInstructionSet() == InstructionSet::kX86V4Bf16; }

}  // namespace adder::cpu

ADDER_CPU_KERNEL(Int8ActivationsKernel, Int8ActivationsArguments)
ADDER_CPU_KERNEL(LinearInt8Kernel, LinearInt8Arguments)
