// causal_conv1d's arguments as the CUDA module takes them.
#pragma once

#include "adder/backend/cuda/arguments.h"

namespace adder::cuda {

// Windows are f32 [sequences, width-1, D]: rows `stride`, sequences `sequence_stride` floats apart.
struct ConvWindow {
  float* data = nullptr;
  int64_t sequence_stride = 0;
  int64_t stride = 0;
};

inline ConvWindow WindowOf(const Tensor& tensor) {
  if (!tensor) return {};
  return {tensor.data<float>(), tensor.stride(0), tensor.stride(1)};
}

struct CausalConv1dArguments {
  int device;
  const int64_t* offsets;  // of sequences + 1 rows, on the host
  int64_t sequences;
  int64_t channels;
  int64_t width;
  bool silu;
  Rows x, y;
  const float* weight;
  const float* bias;
  ConvWindow initial_window, final_window;
};

struct CausalConv1dBackwardArguments {
  CausalConv1dArguments forward;  // y and final_window are not given
  Rows dy, dx;
  float* dweight;
  float* dbias;
  ConvWindow d_final_window, d_initial_window;
};

}  // namespace adder::cuda
