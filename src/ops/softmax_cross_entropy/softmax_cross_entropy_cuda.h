// softmax_cross_entropy's arguments as the CUDA module takes them.
#pragma once

#include "adder/backend/cuda/arguments.h"

namespace adder::cuda {

struct SoftmaxCrossEntropyArguments {
  int device;
  int64_t rows, vocab, K;
  Rows hidden;
  Rows W;  // may be quantized: the stride counts elements there, too
  int64_t W_row_bytes;
  const float* bias;
  const int32_t* targets;
  float* loss;
};

struct SoftmaxCrossEntropyBackwardArguments {
  SoftmaxCrossEntropyArguments forward;  // loss: null where it is not wanted
  const float* d_loss;
  Rows d_hidden, dW;
  float* dbias;
};

}  // namespace adder::cuda
