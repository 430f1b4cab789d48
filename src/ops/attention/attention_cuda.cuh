// What attention's CUDA kernels share. The queries of a tile are those of all heads that share a
// key head: query i of a sequence is its row i / group, the (i % group)-th of the group's heads, so
// that keys and values are read once for a group. A tile's blocks are one a key head.
#pragma once

#include "adder/backend/cuda/numbers.cuh"
#include "adder/backend/cuda/runtime.cuh"
#include "adder/backend/cuda/tensor_cores.cuh"
#include "adder/ops/attention/attention_cuda.h"

namespace adder::cuda {

// Queries of a tile that shares its keys with others, whose results are put together at the end.
inline constexpr int kAttentionSpanQueries = 16;

// Queries [first, first + the tile's size) of a sequence, and the keys that they are given.
struct AttentionQueryTile {
  int64_t row;      // the sequence's first row
  int64_t queries;  // of the sequence
  int64_t first;
  int64_t key;      // the sequence's first key
  int64_t visible;  // the keys that the sequence's first row sees; each row sees one more
  int64_t begin;    // the tile's keys: [begin, end) of the sequence's
  int64_t end;
  int64_t partial;  // where it leaves its part of the result, -1: it is all of the result

  // The keys that count where the device knows the lengths; there may be none.
  __device__ void TakeLength(const AttentionProblem& p) {
    if (p.lengths == nullptr) return;
    const int64_t keys = p.lengths[row] + 1;
    visible = keys < visible ? keys : visible;
    end = end < visible ? end : visible;
    if (end < begin) end = begin;
  }
};

// Keys [begin, begin + the tile's size) of a sequence, for the backward.
struct AttentionKeyTile {
  int64_t row;
  int64_t queries;
  int64_t key;
  int64_t keys;  // of the sequence
  int64_t visible;
  int64_t begin;
};

// Parts [partial, partial + spans) of a span tile's queries.
struct AttentionSpans {
  int64_t row;
  int64_t queries;
  int64_t first;
  int64_t partial;
  int64_t spans;
};

// What kernels get.
struct AttentionKernelArguments {
  AttentionBackwardProblem p;
  int group;        // heads / kv_heads
  float scale;      // scale · log₂ e: exponentials are powers of two
  bool vectors;     // rows can be read 16 bytes at a time
  bool pairs;       // results can be written two at a time
  float* partials;  // [parts, kv_heads, kAttentionSpanQueries, 2 + d_head]: log₂ of the largest
                    // term, sum, weighted values
  const float* delta;  // [rows, heads]: Σ dy · y
};

// Each launches one block a tile and key head.
void LaunchAttentionForward(Context& context, const AttentionKernelArguments& a,
                            const AttentionQueryTile* tiles, int64_t count);
void LaunchAttentionSpans(Context& context, const AttentionKernelArguments& a,
                          const AttentionQueryTile* tiles, int64_t count);
void LaunchAttentionKeyGradients(Context& context, const AttentionKernelArguments& a,
                                 const AttentionKeyTile* tiles, int64_t count);
void LaunchAttentionQueryGradients(Context& context, const AttentionKernelArguments& a,
                                   const AttentionQueryTile* tiles, int64_t count);
// The same with f32 arithmetic, for all mixes of dtypes.
void LaunchAttentionForwardF32(Context& context, const AttentionKernelArguments& a,
                               const AttentionQueryTile* tiles, int64_t count, bool spans);
void LaunchAttentionKeyGradientsF32(Context& context, const AttentionKernelArguments& a,
                                    const AttentionKeyTile* tiles, int64_t count);
void LaunchAttentionQueryGradientsF32(Context& context, const AttentionKernelArguments& a,
                                      const AttentionQueryTile* tiles, int64_t count);

// Tiles' sizes.
inline constexpr int kAttentionKeys = 64;             // of a step of the forward, of a key tile
inline constexpr int kAttentionGradientQueries = 64;  // of a query tile of the backward
inline constexpr int kAttentionKeysF32 = 32;
inline constexpr int kAttentionGradientQueriesF32 = 32;
inline int AttentionQueries(int64_t d_head) { return d_head <= 128 ? 128 : 64; }
inline constexpr int kAttentionQueriesF32 = 64;

// Where the queries of a tile lie. `first`: the tile's first query of those of the sequence.
struct QueryPlace {
  int64_t row;     // of the tile's first query
  int64_t before;  // rows of the sequence before it
  uint32_t head;   // of the group's
  uint32_t group;
  int kv_head;

  __device__ QueryPlace(const AttentionKernelArguments& a, int64_t sequence_row, int64_t first,
                        int key_head)
      : group(static_cast<uint32_t>(a.group)), kv_head(key_head) {
    // A long division is slow.
    before = first <= 0xffffffff ? static_cast<uint32_t>(first) / group : first / group;
    head = static_cast<uint32_t>(first - before * group);
    row = sequence_row + before;
  }
  // Rows from the tile's first to that of its query i.
  __device__ int RowsTo(int i) const {
    return static_cast<int>((head + static_cast<uint32_t>(i)) / group);
  }
  // The query's first element in a matrix of [rows, heads · d_head].
  __device__ int64_t Offset(int i, const Rows& matrix, int64_t d_head) const {
    const int rows = RowsTo(i);
    const uint32_t in_group = head + static_cast<uint32_t>(i) - static_cast<uint32_t>(rows) * group;
    return (row + rows) * matrix.stride +
           (static_cast<int64_t>(kv_head) * group + in_group) * d_head;
  }
  // Its place in [rows, heads].
  __device__ int64_t Statistic(int i, int64_t heads) const {
    const int rows = RowsTo(i);
    const uint32_t in_group = head + static_cast<uint32_t>(i) - static_cast<uint32_t>(rows) * group;
    return (row + rows) * heads + static_cast<int64_t>(kv_head) * group + in_group;
  }
};

// Copies rows of 16-bit elements into a tile of shared memory, by kThreads threads: `valid` rows
// and d_head elements of each, zeros for what is beyond. row_of(i): the address of row i. The
// copies belong to the thread's group of asynchronous ones where the rows are read as vectors.
template <class T, int kD, int kRows, int kThreads, class RowOf>
__device__ inline void LoadTile(T* tile, int thread, int valid, int d_head, bool vectors,
                                const RowOf& row_of) {
  constexpr int kChunks = kD / 8;
  static_assert(kRows * kChunks % kThreads == 0);
  if (vectors) {
#pragma unroll
    for (int i = 0; i < kRows * kChunks / kThreads; ++i) {
      const int row = (thread + i * kThreads) / kChunks;
      const int chunk = (thread + i * kThreads) % kChunks;
      const bool in = row < valid && chunk * 8 < d_head;
      CopyPiece(tile + ChunkInTile<kD>(row, chunk), row_of(in ? row : 0) + (in ? chunk * 8 : 0),
                in);
    }
    return;
  }
#pragma unroll 1
  for (int i = thread; i < kRows * kChunks; i += kThreads) {
    const int row = i / kChunks;
    const int chunk = i % kChunks;
    const T* from = row_of(row < valid ? row : 0) + chunk * 8;
    float values[8];
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      values[e] = row < valid && chunk * 8 + e < d_head ? ToFloat(from[e]) : 0.0f;
    }
    Store<8>(values, tile + ChunkInTile<kD>(row, chunk));
  }
}

// Writes two neighbouring results of a row.
template <class T>
__device__ inline void StorePair(T* row, int d, int d_head, bool pairs, float first, float second) {
  if (d >= d_head) return;
  if (pairs) {
    *reinterpret_cast<uint32_t*>(row + d) = PackTwo<T>(first, second);
  } else {
    row[d] = FromFloat<T>(first);
    if (d + 1 < d_head) row[d + 1] = FromFloat<T>(second);
  }
}

__device__ inline float QuadMax(float value) {
  value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 1));
  return fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 2));
}
__device__ inline float QuadSum(float value) {
  value += __shfl_xor_sync(0xffffffffu, value, 1);
  return value + __shfl_xor_sync(0xffffffffu, value, 2);
}

inline constexpr float kMinusInfinity = -__builtin_huge_valf();

// A kernel that is to have more shared memory than it gets unasked.
template <class Kernel>
void AllowShared(Kernel* kernel, size_t bytes) {
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)),
        "attention: shared memory");
}

template <class Kernel, class... Arguments>
void LaunchWithShared(Context& context, Kernel* kernel, int64_t blocks, int threads, size_t bytes,
                      const Arguments&... arguments) {
  AllowShared(kernel, bytes);
  kernel<<<static_cast<unsigned>(blocks), threads, bytes, context.stream()>>>(arguments...);
  CheckLaunch("attention");
}

}  // namespace adder::cuda
