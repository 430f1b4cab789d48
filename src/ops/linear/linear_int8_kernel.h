// linear with quantized weights and activations of 8 bits, for machines with VNNI: products of
// integers, four to an instruction's lane, where unpacking weights to floats would take longer than
// reading them.
#pragma once

#include <cstdint>

#include "adder/backend/cpu/instruction_set.h"
#include "adder/core/dtype.h"

namespace adder::cpu {

// 64 elements of a row of x: in blocks of 32, x ≈ d · q with q in [-127, 127].
struct alignas(64) Int8Activations {
  int8_t q[64];
  float d[16];  // of the first block eight times, of the second eight times
  // What the weights' offset takes from each lane's sum of four products: minus the offset times
  // the sum of the lane's four q, an int32; for q4_k, whose minima are floats, d times that sum of
  // q.
  int32_t correction[16];
};

// Rounds `rows` rows of bf16 to Int8Activations, K / 64 (rounded up, filled up with zeros) a row.
struct Int8ActivationsArguments {
  const BFloat16* x = nullptr;
  int64_t x_stride = 0;
  DType W_dtype = DType::kQ8_0;  // whose correction is wanted
  Int8Activations* to = nullptr;
  int64_t rows = 0;
  int64_t K = 0;  // a multiple of 32
};

// As LinearArguments. An element's bits depend neither on the range of outputs nor on the other
// rows.
struct LinearInt8Arguments {
  const Int8Activations* x = nullptr;  // (K + 63) / 64 a row
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
