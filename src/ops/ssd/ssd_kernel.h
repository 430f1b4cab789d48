// ssd's CPU kernels, on raw pointers. A kernel call takes some heads of one group through all rows
// of one sequence, a chunk of kSsdTileRows rows at a time.
#pragma once

#include <cstdint>

#include "adder/backend/cpu/instruction_set.h"
#include "adder/core/dtype.h"

namespace adder::cpu {

// Rows of a chunk: kSsdChunkRows, from a header that kernels don't include.
inline constexpr int64_t kSsdTileRows = 64;

// A matrix of rows of the activation's type; null: not given.
struct SsdRows {
  void* data = nullptr;
  int64_t stride = 0;  // elements from a row to the next
};

struct SsdProblem {
  DType activation = DType::kF32;
  int64_t heads = 0;
  int64_t head_dim = 0;
  int64_t groups = 1;
  int64_t states = 0;
  SsdRows x, dt, B, C;
  const float* A = nullptr;
  const float* D = nullptr;         // may be null
  const float* dt_bias = nullptr;   // may be null
  const float* interval = nullptr;  // of every row; may be null
  float dt_min = 0;
  float dt_max = 0;
};

// A sequence's rows and some heads of one group.
struct SsdPart {
  int64_t row = 0;
  int64_t rows = 0;
  int64_t sequence = 0;
  int64_t chunk = 0;  // number of the sequence's first entry in chunk_states
  int64_t group = 0;
  int64_t head_begin = 0;
  int64_t head_end = 0;
};

// States are f32 [sequences or chunks, heads, head_dim, states].
struct SsdForwardArguments {
  const SsdProblem* problem = nullptr;
  SsdPart part;
  SsdRows y;
  const float* h0 = nullptr;      // may be null
  float* hT = nullptr;            // may be null
  float* chunk_states = nullptr;  // may be null
  float* scratch = nullptr;       // SsdForwardScratch floats
};

// The recurrence itself, for a part of one row.
struct SsdStepArguments {
  const SsdProblem* problem = nullptr;
  SsdPart part;
  SsdRows y;
  const float* h0 = nullptr;  // may be null
  float* hT = nullptr;        // may be null, or h0
  float* scratch = nullptr;   // SsdStepScratch floats
};

struct SsdBackwardArguments {
  const SsdProblem* problem = nullptr;
  SsdPart part;
  const float* chunk_states = nullptr;
  SsdRows dy;
  const float* dhT = nullptr;  // may be null
  SsdRows dx, ddt;             // may be null
  float* dh0 = nullptr;        // may be null
  // Sums over the part's heads, overwritten: [rows, groups · states] each.
  float* dB = nullptr;
  float* dC = nullptr;
  float* d_interval = nullptr;  // [rows], added to; may be null
  // The sequence's [heads], overwritten.
  double* dA = nullptr;
  double* dD = nullptr;
  double* d_dt_bias = nullptr;
  float* scratch = nullptr;  // SsdBackwardScratch floats
};

// Scratch memory of one call, in floats; 64-byte aligned.
constexpr int64_t SsdPadded(int64_t count) { return (count + 15) / 16 * 16; }
constexpr int64_t SsdForwardScratch(int64_t heads, int64_t head_dim, int64_t states) {
  // B and C, B across, x, weighted x and y; C·B and weights; a state on its way; the states.
  return kSsdTileRows * (3 * SsdPadded(states) + 3 * SsdPadded(head_dim) + 2 * kSsdTileRows) +
         head_dim * SsdPadded(states) + heads * SsdPadded(states) * SsdPadded(head_dim);
}
constexpr int64_t SsdStepScratch(int64_t states) { return 2 * SsdPadded(states); }
constexpr int64_t SsdBackwardScratch(int64_t heads, int64_t head_dim, int64_t states) {
  // B and C, B across, dB and dC, a term of theirs; x, x across, dy, dx and a term; C·B, dy·x,
  // weights and the gradient of C·B; two states on their way, the gradients of the states.
  return kSsdTileRows * (6 * SsdPadded(states) + 5 * SsdPadded(head_dim) + 4 * kSsdTileRows) +
         2 * SsdPadded(states) * SsdPadded(head_dim) + heads * head_dim * SsdPadded(states);
}

}  // namespace adder::cpu

ADDER_CPU_KERNEL(SsdForward, SsdForwardArguments)
ADDER_CPU_KERNEL(SsdStep, SsdStepArguments)
ADDER_CPU_KERNEL(SsdBackwardPart, SsdBackwardArguments)
