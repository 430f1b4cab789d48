// mamba_step's arguments as the CUDA module takes them.
#pragma once

#include "adder/ops/linear/linear_cuda.h"

namespace adder::cuda {

struct MambaStepProjection {
  Rows W;  // may be quantized
  int64_t W_row_bytes;
  int64_t N, K;
  const float* bias;
};

struct MambaStepArguments {
  int device;
  int64_t d_model, d_inner, d_state, dt_rank;
  int d_conv;
  DType dtype;  // of the activations
  Rows x, residual, residual_out, y;
  MambaStepProjection in_proj, x_proj, dt_proj, out_proj;
  const float* norm;
  float norm_eps;
  const float* conv;
  const float* conv_bias;
  const float* dt_bias;
  const float* A;
  const float* D;
  float* window;
  float* h;
};

}  // namespace adder::cuda
