// attention's arguments as the CUDA module takes them.
#pragma once

#include "adder/backend/cuda/arguments.h"

namespace adder::cuda {

inline constexpr int64_t kAttentionLongestHead = 256;  // channels

// Rows [row, row + rows) of q, whose keys are rows [key, key + keys).
struct AttentionSequence {
  int64_t row, rows;
  int64_t key, keys;
};

struct AttentionProblem {
  int device;
  const AttentionSequence* sequences;  // the host's
  int64_t count;
  // On the device; null: not given. Keys before the one row of each sequence, of which row s is
  // that of sequence s; AttentionSequence::keys is then what there is room for.
  const int64_t* lengths;
  int64_t rows, heads, kv_heads, d_head;
  float scale;
  Rows q, keys, values;
  Rows y;
  float* log_sum_exp;  // may be null in the forward
};

struct AttentionBackwardProblem {
  AttentionProblem forward;
  Rows dy;
  Rows dq, dkeys, dvalues;  // each may be null
};

}  // namespace adder::cuda
