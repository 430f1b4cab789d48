// sample's arguments as the CUDA module takes them.
#pragma once

#include <cstdint>

#include "adder/backend/cuda/arguments.h"

namespace adder::cuda {

// A row's options.
struct SampleRow {
  double temperature;  // 0: the likeliest token, after the penalty
  double top_p;
  double min_p;
  double repetition_penalty;
  double uniform;
  int64_t top_k;         // the vocabulary's size: all
  int64_t recent_begin;  // its recent tokens in SampleArguments::recent
  int64_t recent_count;  // 0 where they are not penalised
};

struct SampleArguments {
  int device;
  int64_t rows, vocab;
  Rows logits;
  const SampleRow* options;  // one a row, on the device
  const int32_t* recent;     // of all rows, on the device
  float* scores;  // a dense matrix of the logits' shape to work in; null: none is penalised
  int32_t* tokens;
};

}  // namespace adder::cuda
