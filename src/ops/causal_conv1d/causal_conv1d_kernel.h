// causal_conv1d on raw pointers: the kernels compiled once per CPU instruction set.
#pragma once

#include <cstdint>

#include "adder/backend/cpu/instruction_set.h"
#include "adder/core/dtype.h"

namespace adder::cpu {

// Consecutive rows of one sequence: what the kernel walks with the window in registers, once per
// vector of channels. A sequence is cut into segments of kConvSegmentRows rows (the last may be
// shorter); an empty sequence is one segment of no rows.
struct ConvSegment {
  int64_t sequence;
  int64_t begin;  // the first row, in x
  int64_t rows;
  int64_t position;  // rows of the sequence before `begin`
  int64_t length;    // rows of the whole sequence
};

// At least as long as the longest window (7), so that only first segments read the initial window.
// Few, so that the hardware follows each row as a stream of its own, and all rows' lines fit the
// cache's ways where the row stride is near a power of two.
inline constexpr int64_t kConvSegmentRows = 8;

// A [rows, channels] matrix whose rows are `stride` elements apart.
template <class Pointer>
struct ConvMatrix {
  Pointer data = nullptr;
  int64_t stride = 0;
};

// [sequences, width-1, channels], f32; null where not given.
template <class Pointer>
struct ConvWindow {
  Pointer data = nullptr;
  int64_t sequence_stride = 0;
  int64_t row_stride = 0;
};

// transposed = weightᵀ: [channels, width] to [width, channels].
struct ConvTransposeWeightArguments {
  const float* weight = nullptr;
  float* transposed = nullptr;
  int64_t channels = 0;
  int64_t width = 0;
};

struct CausalConv1dArguments {
  DType dtype = DType::kF32;  // of x and y
  ConvMatrix<const void*> x;
  ConvMatrix<void*> y;
  const float* weight = nullptr;  // [width, channels], rows `weight_stride` apart
  int64_t weight_stride = 0;
  const float* bias = nullptr;  // [channels], may be null
  int64_t channels = 0;
  int64_t width = 0;
  bool silu = false;
  ConvWindow<const float*> initial_window;  // may be null
  ConvWindow<float*> final_window;          // may be null; written with a sequence's first segment
  const ConvSegment* segments = nullptr;
  int64_t segment_count = 0;
};

struct CausalConv1dBackwardArguments {
  DType dtype = DType::kF32;  // of x, dy and dx
  ConvMatrix<const void*> x;
  ConvMatrix<const void*> dy;
  ConvMatrix<void*> dx;           // may be null
  const float* weight = nullptr;  // [width, channels], rows `weight_stride` apart
  int64_t weight_stride = 0;
  const float* bias = nullptr;  // [channels], may be null
  int64_t width = 0;
  bool silu = false;
  ConvWindow<const float*> initial_window;  // may be null
  ConvWindow<const float*> d_final_window;  // may be null
  ConvWindow<float*> d_initial_window;      // may be null
  const ConvSegment* segments = nullptr;    // of all rows, in order
  int64_t segment_count = 0;
  int64_t channel_begin = 0;  // the channels to do
  int64_t channel_end = 0;
  float* dweight = nullptr;  // [width, channels]: added to; rows `scratch_stride` apart
  float* dbias = nullptr;    // [channels]: added to
  float* pending = nullptr;  // [width-1, channels], scratch: gradients of a segment's last rows
  int64_t scratch_stride = 0;
};

}  // namespace adder::cpu

ADDER_CPU_KERNEL(ConvTransposeWeightKernel, ConvTransposeWeightArguments)
ADDER_CPU_KERNEL(CausalConv1dKernel, CausalConv1dArguments)
ADDER_CPU_KERNEL(CausalConv1dBackwardKernel, CausalConv1dBackwardArguments)
