// The elementary functions of simd.h over arrays: what the benchmarks take as the machine's ceiling
// for them, and what the tests check on every instruction set.
#pragma once

#include <cstdint>

#include "adder/backend/cpu/instruction_set.h"
#include "adder/core/dtype.h"

namespace adder::cpu {

enum class VectorFunction {
  kExp,
  kExp2,
  kLog,
  kLog1p,
  kSoftplus,
  kSigmoid,
  kSilu,
  kSqrt,
  kRsqrt,
  kRound,
  kSinQuarterTurns,  // sin(x · π/2)
  kCosQuarterTurns,
};

// y[i] = function(x[i]); y may be x.
struct VectorMathArguments {
  VectorFunction function;
  const float* x;
  float* y;
  int64_t count;
};

// to[i] = from[i], rounded to nearest even; f32, bf16 and f16 each way.
struct VectorConvertArguments {
  const void* from;
  DType from_dtype;
  void* to;
  DType to_dtype;
  int64_t count;
};

}  // namespace adder::cpu

ADDER_CPU_KERNEL(VectorMath, VectorMathArguments)
ADDER_CPU_KERNEL(VectorConvert, VectorConvertArguments)
