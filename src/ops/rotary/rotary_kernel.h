// rotary on raw pointers: the kernel compiled once per CPU instruction set.
#pragma once

#include <cstdint>

#include "adder/backend/cpu/instruction_set.h"
#include "adder/core/dtype.h"

namespace adder::cpu {

// Matrices are [rows, heads · d_head] with rows `*_stride` elements apart; y may be x.
struct RotaryArguments {
  const void* x = nullptr;
  int64_t x_stride = 0;
  void* y = nullptr;
  int64_t y_stride = 0;
  DType dtype = DType::kF32;
  const int64_t* positions = nullptr;  // [rows]
  const double* frequencies =
      nullptr;  // [rotary_dim / 2], quarter turns from a position to the next
  bool interleaved = false;
  float direction = 1;  // -1 rotates back
  int64_t rows = 0;
  int64_t heads = 0;
  int64_t d_head = 0;
  int64_t rotary_dim = 0;
  // What the row's angles are, shared by its heads: 3 · rotary_dim floats.
  float* table = nullptr;
};

}  // namespace adder::cpu

ADDER_CPU_KERNEL(RotaryKernel, RotaryArguments)
