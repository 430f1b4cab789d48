// What the CUDA kernels of ssd share. With a[t] the sum of dt'·A up to row t of a chunk, a chunk's
// rows are
//     y[t] = Σ_{s ≤ t} (C[t]·B[s]) · e^(a[t] - a[s]) · dt'[s] · x[s]  +  e^a[t] · C[t]·h
// where h is the state before the chunk, and the state after it is
//     e^a[last] · h  +  Σ_s e^(a[last] - a[s]) · dt'[s] · x[s] ⊗ B[s].
// The gradient of the state goes the other way, from chunk to chunk: before a chunk it is
//     e^a[last] · dh  +  Σ_t e^a[t] · dy[t] ⊗ C[t],
// so that one kernel, the walk, does both.
//
// First a small kernel finds every chunk's dt' and sums of dt'·A, and one the products C·B that the
// heads of a group share. Then the walks: a block owns some heads' states and goes from chunk to
// chunk. Where there are too few sequences and heads for that to fill the device, sequences are cut
// into segments: one walk finds what each adds to a state of zero, these are combined into the
// segments' first states, and a second walk starts from them. Where there are enough, but not so
// many that blocks which end early find others to do, every block takes an equal share of all
// walks' chunks, laid end to end. A walk that such a share cuts is handed on: its block does the
// beginning before all else, leaves the state, and the next block goes on from it after all else.
#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "adder/backend/cuda/numbers.cuh"
#include "adder/backend/cuda/runtime.cuh"
#include "adder/ops/ssd/ssd_cuda.h"

namespace adder::cuda {

inline constexpr int kSsdRows = 64;  // kSsdChunkRows of ssd.h

struct SsdChunk {
  int64_t row;  // the first
  int32_t rows;
  int32_t sequence;
};

// Some rows of one sequence, a whole number of chunks unless they are its last.
struct SsdSegment {
  int64_t row;
  int64_t rows;
  int64_t chunk;  // the first one's number
  int32_t sequence;
  int16_t first;  // whether it is its sequence's first, or last
  int16_t last;
};

// A row of a chunk and a head; rows past the chunk's end have no step and the last row's sum.
struct alignas(16) SsdStep {
  float sum, rest;  // of dt'·A up to this row times log₂ e, its leading and its next digits
  float step;       // dt'
  float weight;     // of x in the state after the chunk: dt' · 2^(last row's sum - sum)
};
// sum[t] - sum[s], to the last place even where both are large.
__device__ inline float SumBetween(const SsdStep& t, const SsdStep& s) {
  return (t.sum - s.sum) + (t.rest - s.rest);
}

// Products C[t]·B[s] of a chunk and group, f32, the lower triangle only: by 16 x 16 blocks (row of
// blocks after row), each of two halves of 8 rows, each of 32 lanes of four numbers. Lane 4g + q
// has row g and columns 2q, 2q + 1, 2q + 8, 2q + 9.
inline constexpr int kSsdHalfBlocks = 20;
inline constexpr int64_t kSsdProducts = kSsdHalfBlocks * 128;
// The row of blocks of block b, and its first block.
__device__ constexpr int SsdBlockRow(int b) { return b >= 6 ? 3 : b >= 3 ? 2 : b >= 1 ? 1 : 0; }
__device__ constexpr int SsdFirstBlock(int row) { return row * (row + 1) / 2; }

// A part of one block's walk, in a block's share.
struct SsdPiece {
  SsdSegment segment;
  int64_t block;  // of its sequence's
  int32_t from;   // number of the state to go on from, or -1
  int32_t to;     // number of the state to leave, or -1
};

// A walk's arguments: state after state. Its names are the forward's; in reverse it is that of the
// states' gradient.
struct SsdWalk {
  const SsdSegment* segments;
  // In equal shares: block i's pieces are [first_pieces[i], first_pieces[i + 1]). Otherwise null.
  const SsdPiece* pieces;
  const int32_t* first_pieces;
  float* handed;  // states that are handed on, as registers lie
  int* ready;     // whether a state is there
  int64_t heads, head_dim, groups, states;
  bool reverse;
  Rows values;      // x, or dy: [rows, H·P]
  Rows projection;  // B, or C: [rows, G·N]
  Rows readout;     // C, where y is asked for
  Rows y;
  const float* D;
  const SsdStep* steps;     // [chunks, H, kSsdRows]
  const float* products;    // [chunks, G, kSsdProducts], where y is asked for
  const float* first;       // states to begin with [H, P, N], or null: 0
  bool first_of_segments;   // for each segment, or for each sequence's first
  float* last;              // states at the end, or null
  bool last_of_segments;    // for each segment, or for each sequence's last
  float* totals;            // [segments, H]: the sums of dt'·A log₂ e, or null
  float* chunk_states;      // [chunks, H, P, N]: before each chunk, or null
  void* activation_states;  // the same in the activation dtype, or null; in 16 bits a walk with y
                            // has only those in f32, one without only these

  // Whether the walk begins, or ends, its sequence with this segment.
  __device__ bool Begins(const SsdSegment& s) const { return (reverse ? s.last : s.first) != 0; }
  __device__ bool Ends(const SsdSegment& s) const { return (reverse ? s.first : s.last) != 0; }
};

// The tables of a call.
struct SsdPlan {
  const SsdChunk* chunks;
  int64_t chunk_count;
  const SsdSegment* segments;
  int64_t segment_count;
  const int64_t* first_segments;  // each sequence's, and the number of all; only of two passes
  bool one_pass;                  // no sequence is cut
  const SsdPiece* pieces;         // of equal shares, or null
  const int32_t* first_pieces;
  int64_t shares;
  int64_t blocks;  // of a sequence
};

template <class V>
const V* SsdTable(Context& context, const std::vector<V>& values) {
  return static_cast<const V*>(
      context.Table(values.data(), static_cast<int64_t>(values.size() * sizeof(V))));
}

// Throws kUnsupported for more states than the kernels take.
void CheckSsdStates(const SsdArguments& a);

// Of the walks of one call: `blocks` of them for a segment, `resident` at a time on the device.
// Sequences of one row are left out where `singles` is given, and their numbers put there.
// `shares`: walks may be cut into equal shares.
SsdPlan PlanSsd(Context& context, const SsdArguments& a, bool reverse, int64_t blocks,
                int64_t resident, bool shares, std::vector<int64_t>* singles);

// Every row's step.
void RunSsdSteps(Context& context, const SsdArguments& a, const SsdPlan& plan, SsdStep* steps);
// The walk in one or two passes. `output`: y is asked for.
void RunSsdWalk(Context& context, const SsdArguments& a, const SsdPlan& plan, const SsdWalk& walk,
                bool output);

// For bf16 and f16, on tensor cores, and for f32.
namespace tensor {
int64_t SsdWalkBlocks(const SsdArguments& a);
int64_t SsdWalksResident(const Context& context, const SsdArguments& a);
void LaunchSsdProducts(Context& context, const SsdArguments& a, const SsdPlan& plan,
                       float* products);
void LaunchSsdWalk(Context& context, const SsdPlan& plan, const SsdWalk& walk, bool output);
}  // namespace tensor
namespace plain {
int64_t SsdWalkBlocks(const SsdArguments& a);
int64_t SsdWalksResident(const Context& context, const SsdArguments& a);
void LaunchSsdProducts(Context& context, const SsdArguments& a, const SsdPlan& plan,
                       float* products);
void LaunchSsdWalk(Context& context, const SsdPlan& plan, const SsdWalk& walk, bool output);
}  // namespace plain

}  // namespace adder::cuda
