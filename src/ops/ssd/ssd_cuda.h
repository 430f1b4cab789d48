// ssd's arguments as the CUDA module takes them.
#pragma once

#include "adder/backend/cuda/arguments.h"

namespace adder::cuda {

struct SsdArguments {
  int device;
  const int64_t* offsets;  // of sequences + 1 rows, on the host
  int64_t sequences;
  int64_t rows;
  int64_t heads;     // H
  int64_t head_dim;  // P
  int64_t groups;    // G
  int64_t states;    // N
  float dt_min, dt_max;
  Rows x, dt, B, C, y;
  const float* A;
  const float* D;
  const float* dt_bias;
  const float* interval;
  const float* h0;
  float* hT;
  float* chunk_states;

  // Numbers of a state: of all heads.
  constexpr int64_t state_size() const { return heads * head_dim * states; }
};

struct SsdBackwardArguments {
  SsdArguments forward;  // y, h0, hT and chunk_states are not given
  const float* chunk_states;
  const float* dhT;
  Rows dy, dx, ddt, dB, dC;
  float* dA;
  float* dD;
  float* d_dt_bias;
  float* d_interval;
  float* dh0;
};

}  // namespace adder::cuda
