// adamw's arguments as the CUDA module takes them.
#pragma once

#include <cstddef>

#include "adder/backend/cuda/arguments.h"

namespace adder::cuda {

// The module compares tables of tensors byte by byte, so that nothing in them may be left unset.
inline constexpr size_t kAfterDType = 8 - sizeof(DType);

// A tensor's part, the same in every step that leaves its memory where it is: kept on the device.
struct AdamWTensor {
  const float* gradient;
  float* weight;
  float* m;
  float* v;
  void* compute_weight;  // may be null
  int64_t elements;
  int64_t first_piece;  // of the pieces of all tensors: set by the module
  double lr_scale;
  double weight_decay;
  DType compute_dtype;
  std::byte unused[kAfterDType];
};
static_assert(sizeof(AdamWTensor) == 10 * 8);

// What differs from step to step, worked out in double; adamw_kernel.h has the equations.
struct AdamWStep {
  double lr;
  double first_correction;  // 1 / (1 - beta1^step)
  float second_correction;  // 1 / (1 - beta2^step)
  float gradient_scale;
  bool applied;  // otherwise nothing is written
};

struct AdamWArguments {
  int device;
  const AdamWTensor* tensors;  // the host's
  int64_t count;
  float beta1, one_minus_beta1;
  float beta2, one_minus_beta2;
  float eps;
};

struct ClippedAdamWArguments {
  AdamWArguments adamw;
  double clip;
  const float* losses;
  int64_t rows;
  // All on the device.
  const double* lr;
  const double* first_correction;
  const double* second_correction;
  double* result;  // [2]: the losses' sum, the norm
};

// A dense f32 tensor.
struct FloatSpan {
  float* data;
  int64_t elements;
  int64_t first_piece;  // set by the module
};

struct FloatSpansArguments {
  int device;
  const FloatSpan* spans;  // the host's
  int64_t count;
};

// A dense f32 tensor and its rounded copy.
struct RoundedSpan {
  const float* from;
  void* to;
  int64_t elements;
  int64_t first_piece;  // set by the module
  DType dtype;          // of `to`: bf16 or f16
  std::byte unused[kAfterDType];
};
static_assert(sizeof(RoundedSpan) == 5 * 8);

struct RoundArguments {
  int device;
  const RoundedSpan* spans;  // the host's
  int64_t count;
};

}  // namespace adder::cuda
