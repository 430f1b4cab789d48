// softmax_cross_entropy on raw pointers, from logits on: the kernels compiled once per CPU
// instruction set.
#pragma once

#include <cstdint>

#include "adder/backend/cpu/instruction_set.h"
#include "adder/core/dtype.h"

namespace adder::cpu {

// Rows of `vocab` logits, `logits_stride` elements apart. A negative target: ignored.
struct SoftmaxCrossEntropyArguments {
  const float* logits = nullptr;
  int64_t logits_stride = 0;
  const int32_t* targets = nullptr;
  float* loss = nullptr;
  int64_t rows = 0;
  int64_t vocab = 0;
};

// d_logits[t, v] = (softmax(logits[t])[v] - [v = targets[t]]) · d_loss[t], which may lie on the
// logits when it is f32. The logits are overwritten in any case.
struct SoftmaxCrossEntropyBackwardArguments {
  float* logits = nullptr;
  int64_t logits_stride = 0;
  const int32_t* targets = nullptr;
  const float* d_loss = nullptr;
  void* d_logits = nullptr;
  DType d_logits_dtype = DType::kF32;  // or bf16
  int64_t d_logits_stride = 0;
  int64_t rows = 0;
  int64_t vocab = 0;
};

}  // namespace adder::cpu

ADDER_CPU_KERNEL(SoftmaxCrossEntropyKernel, SoftmaxCrossEntropyArguments)
ADDER_CPU_KERNEL(SoftmaxCrossEntropyBackwardKernel, SoftmaxCrossEntropyBackwardArguments)
