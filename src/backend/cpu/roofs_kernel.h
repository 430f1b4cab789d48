// The loops behind roofs.h, compiled once per CPU instruction set.
#pragma once

#include <cstdint>

#include "adder/backend/cpu/instruction_set.h"

namespace adder::cpu {

// `steps` times kRoofChains independent vector operations in registers; *operations is how many
// floating-point operations that was, *sink a result that depends on all.
struct ArithmeticRoofArguments {
  bool bf16 = false;  // bf16 dot products instead of f32 multiply-adds
  int64_t steps = 0;
  double* operations = nullptr;
  float* sink = nullptr;
};

// *sink = Σ x[i]
struct ReadRoofArguments {
  const float* x = nullptr;
  int64_t count = 0;
  float* sink = nullptr;
};

// y[i] = x[i], written past the caches where the set can.
struct CopyRoofArguments {
  const float* x = nullptr;
  float* y = nullptr;  // 64-byte aligned
  int64_t count = 0;
};

}  // namespace adder::cpu

ADDER_CPU_KERNEL(ArithmeticRoofKernel, ArithmeticRoofArguments)
ADDER_CPU_KERNEL(ReadRoofKernel, ReadRoofArguments)
ADDER_CPU_KERNEL(CopyRoofKernel, CopyRoofArguments)
