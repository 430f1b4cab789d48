// selective_scan's arguments as the CUDA module takes them.
#pragma once

#include "adder/backend/cuda/arguments.h"

namespace adder::cuda {

struct SelectiveScanArguments {
  int device;
  const int64_t* offsets;  // of sequences + 1 rows, on the host
  int64_t sequences;
  int64_t rows;
  int64_t channels;  // D
  int64_t states;    // N
  bool is_complex;
  int64_t groups;
  Rows x, dt, z, B, C, y;
  const float* A;
  const float* D;
  const float* dt_bias;
  const float* interval;
  const float* h0;
  float* hT;
  float* chunk_states;

  // Numbers in a channel's state: N, or 2·N.
  constexpr int64_t components() const { return is_complex ? 2 * states : states; }
};

struct SelectiveScanBackwardArguments {
  SelectiveScanArguments forward;  // y, h0, hT and chunk_states are not given
  const float* chunk_states;
  const float* dhT;
  Rows dy, dx, ddt, dz, dB, dC;
  float* dA;
  float* dD;
  float* d_dt_bias;
  float* d_interval;
  float* dh0;
};

}  // namespace adder::cuda
