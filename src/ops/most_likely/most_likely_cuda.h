// most_likely's arguments as the CUDA module takes them.
#pragma once

#include <cstdint>

#include "adder/backend/cuda/arguments.h"

namespace adder::cuda {

struct MostLikelyArguments {
  int device;
  int64_t rows, vocab;
  Rows logits;
  int32_t* tokens;
};

}  // namespace adder::cuda
