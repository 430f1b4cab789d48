// The key and value cache's copies as the CUDA module takes them.
#pragma once

#include "adder/backend/cuda/arguments.h"

namespace adder::cuda {

// Rows [to, to + rows) become rows [from, from + rows); the next `zeros` rows become 0.
struct RowSpan {
  int64_t from, to;
  int64_t rows, zeros;
  int64_t before;  // rows and zeros of all spans before: set by the module
};

struct CopyRowSpansArguments {
  int device;
  int64_t columns;
  Rows from, to;
  const RowSpan* spans;  // the host's
  int64_t count;
};

struct AppendRowsArguments {
  int device;
  int64_t sequences, capacity, columns;
  Rows rows;
  Rows cache;              // the rows of all sequences, one after the other
  const int64_t* lengths;  // on the device
};

}  // namespace adder::cuda
