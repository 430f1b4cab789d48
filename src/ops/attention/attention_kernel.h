// attention's CPU kernels, on raw pointers. All exponentials are powers of two: queries are scaled
// by log₂ e as well.
#pragma once

#include <cstdint>

#include "adder/backend/cpu/instruction_set.h"
#include "adder/core/dtype.h"

namespace adder::cpu {

// Query rows (of one head or of a group's heads together) and keys of a tile.
inline constexpr int64_t kAttentionTileRows = 128;
inline constexpr int64_t kAttentionTileKeys = 64;
// Keys that a kernel call for a single row takes.
inline constexpr int64_t kAttentionSpanKeys = 256;

// A matrix of rows; null: not given.
struct AttentionRows {
  void* data = nullptr;
  int64_t stride = 0;  // elements from a row to the next
};

struct AttentionProblem {
  DType activation = DType::kF32;  // of q, y and their gradients
  DType key = DType::kF32;         // of keys, values and their gradients
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t d_head = 0;
  float scale = 0;  // of natural scores
  AttentionRows q, keys, values, y;
  float* log_sum_exp = nullptr;  // [rows, heads]; may be null in the forward
};

// Some rows of a sequence and the heads that share a key head. Its first row sees `visible` keys,
// each row after it one more.
struct AttentionForwardArguments {
  const AttentionProblem* problem = nullptr;
  int64_t row = 0;
  int64_t rows = 0;
  int64_t kv_head = 0;
  int64_t first_key = 0;
  int64_t visible = 0;
  float* scratch = nullptr;  // AttentionForwardScratch floats
};

// One row, all heads, a span of the keys that it sees.
struct AttentionSpanArguments {
  const AttentionProblem* problem = nullptr;
  int64_t row = 0;
  int64_t first_key = 0;
  int64_t keys = 0;          // 1 to kAttentionSpanKeys
  float* partial = nullptr;  // AttentionPartial floats: maxima, sums, weighted values
  float* scratch = nullptr;  // AttentionSpanScratch floats
};

// One row: the spans' results, one after the other, put together.
struct AttentionMergeArguments {
  const AttentionProblem* problem = nullptr;
  int64_t row = 0;
  const float* partials = nullptr;
  int64_t spans = 0;
};

// All rows of a sequence and all heads that share a key head.
struct AttentionBackwardArguments {
  const AttentionProblem* problem = nullptr;
  AttentionRows dy;
  AttentionRows dq, dkeys, dvalues;  // each may be null
  int64_t row = 0;
  int64_t rows = 0;
  int64_t kv_head = 0;
  int64_t first_key = 0;
  int64_t keys = 0;
  float* scratch = nullptr;  // AttentionBackwardScratch floats
};

// Scratch memory of one call, in floats; 64-byte aligned.
constexpr int64_t AttentionPadded(int64_t count) { return (count + 15) / 16 * 16; }
constexpr int64_t AttentionForwardScratch(int64_t rows, int64_t group, int64_t d_head) {
  // Queries, sums of values, maxima and 16 partial sums a row; a tile of keys, values and scores.
  return AttentionPadded(rows * group) * (2 * AttentionPadded(d_head) + 17) +
         2 * AttentionPadded(d_head) * kAttentionTileKeys + 8 * kAttentionTileKeys;
}
constexpr int64_t AttentionPartial(int64_t heads, int64_t d_head) {
  return 2 * AttentionPadded(heads) + heads * AttentionPadded(d_head);
}
constexpr int64_t AttentionSpanScratch(int64_t heads, int64_t d_head) {
  // Queries, scores, and a vector for each head and each of four keys.
  return heads * AttentionPadded(d_head) + kAttentionSpanKeys * AttentionPadded(heads) +
         heads * 4 * 16;
}
constexpr int64_t AttentionBackwardScratch(int64_t rows, int64_t keys, int64_t d_head) {
  // dq and a dot product a row, dk and dv; tiles of keys and values, of queries and their
  // gradients, of probabilities and theirs.
  return AttentionPadded(rows) * (AttentionPadded(d_head) + 1) +
         2 * keys * AttentionPadded(d_head) +
         (5 * AttentionPadded(d_head) + 2 * kAttentionTileKeys) * kAttentionTileKeys;
}

}  // namespace adder::cpu

ADDER_CPU_KERNEL(AttentionForward, AttentionForwardArguments)
ADDER_CPU_KERNEL(AttentionSpan, AttentionSpanArguments)
ADDER_CPU_KERNEL(AttentionMerge, AttentionMergeArguments)
ADDER_CPU_KERNEL(AttentionBackwardTile, AttentionBackwardArguments)
