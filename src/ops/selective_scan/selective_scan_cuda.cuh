// What the forward and the backward kernels of selective_scan share: segments of rows, copies into
// shared memory, decays.
#pragma once

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "adder/backend/cuda/async_copy.cuh"
#include "adder/backend/cuda/numbers.cuh"
#include "adder/backend/cuda/runtime.cuh"
#include "adder/core/error.h"
#include "adder/ops/selective_scan/selective_scan_cuda.h"

namespace adder::cuda {

inline constexpr int64_t kChunkRows = 64;  // kScanChunkRows of selective_scan.h

// Some rows of one sequence, a whole number of chunks unless they are its last.
struct Segment {
  int64_t row;  // the first
  int64_t rows;
  int64_t chunk;  // the first one's number in chunk_states
  int32_t sequence;
  int32_t after;  // segments of its sequence behind it
  bool first;     // of its sequence
  bool last;
};

// Starts to copy `rows` rows of `bytes` bytes to shared memory, where they lie `shared_stride`
// bytes apart, by pieces of `unit` bytes; what is left of a row, and rows of unit 2, go two bytes
// at a time.
__device__ inline void CopyRows(char* shared, int shared_stride, const char* global,
                                int64_t global_stride, int rows, int bytes, int unit) {
  const int pieces = (bytes + unit - 1) / unit;
  // The usual case without a division: whole pieces, a power of two a row.
  if (unit == 16 && bytes % 16 == 0 && (pieces & (pieces - 1)) == 0) {
    const int shift = __ffs(pieces) - 1;
    for (int i = static_cast<int>(threadIdx.x); i < rows << shift;
         i += static_cast<int>(blockDim.x)) {
      const int row = i >> shift;
      const int offset = (i & (pieces - 1)) * 16;
      CopyPiece(shared + row * shared_stride + offset, global + row * global_stride + offset);
    }
    return;
  }
  for (int i = static_cast<int>(threadIdx.x); i < rows * pieces;
       i += static_cast<int>(blockDim.x)) {
    const int row = i / pieces;
    const int offset = (i - row * pieces) * unit;
    char* to = shared + row * shared_stride + offset;
    const char* from = global + row * global_stride + offset;
    if (unit > 2 && offset + unit <= bytes) {
      unit == 16 ? CopyPiece(to, from) : CopyWord(to, from);
    } else {
      const int end = min(unit, bytes - offset);
      for (int k = 0; k < end; k += 2) {
        *reinterpret_cast<uint16_t*>(to + k) = *reinterpret_cast<const uint16_t*>(from + k);
      }
    }
  }
}

// Four numbers of a row of B or C that lies in shared memory; those from `end` on are 0.
__device__ inline void LoadFour(const char* row, int column, int end, DType dtype, float (&to)[4]) {
  switch (dtype) {
    case DType::kBF16:
      Load<4>(reinterpret_cast<const __nv_bfloat16*>(row) + column, to);
      break;
    case DType::kF16:
      Load<4>(reinterpret_cast<const __half*>(row) + column, to);
      break;
    default:
      Load<4>(reinterpret_cast<const float*>(row) + column, to);
  }
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    if (column + k >= end) to[k] = 0;
  }
}

// exp(t · A) as a factor of a state, A in the units of Rate().
template <bool kComplex>
struct Decay;
template <>
struct Decay<false> {
  float re;
  __device__ Decay(float t, const float* rate) : re(Exp2(t * rate[0])) {}
};
template <>
struct Decay<true> {
  float re, im;
  __device__ Decay(float t, const float* rate) {
    const float size = Exp2(t * rate[0]);
    // The angle in turns, to the last place even of many turns.
    const float turns = t * rate[1];
    const float rest = fmaf(t, rate[1], -turns);
    const float angle = 6.283185307f * ((turns - rintf(turns)) + rest);
    re = size * __cosf(angle);
    im = size * __sinf(angle);
  }
};
__device__ inline float RealRate(float A) { return A * kLog2E; }
__device__ inline float ImaginaryRate(float A) { return A * 0.15915494309f; }

// What a block's kernel walks down one after the other: whole sequences, or, where these do not
// make the device busy, segments of them.
struct SegmentPlan {
  std::vector<Segment> segments;
  std::vector<int64_t> first_segments;  // each sequence's, and the number of all
  bool one_pass;                        // no sequence is cut
};

// Sequences cut into segments of at most `most` rows, a multiple of kChunkRows unless none is
// longer. At least one segment a sequence: empty ones pass their state on.
inline SegmentPlan CutIntoSegments(const SelectiveScanArguments& a, int64_t most) {
  SegmentPlan plan;
  plan.one_pass = true;
  int64_t chunk = 0;
  for (int64_t s = 0; s < a.sequences; ++s) {
    plan.first_segments.push_back(static_cast<int64_t>(plan.segments.size()));
    const int64_t length = a.offsets[s + 1] - a.offsets[s];
    const int64_t count = std::max<int64_t>(1, (length + most - 1) / most);
    for (int64_t i = 0; i < count; ++i) {
      Segment& segment = plan.segments.emplace_back();
      std::memset(&segment, 0, sizeof(Segment));  // padding too: tables are compared by bytes
      segment.row = a.offsets[s] + i * most;
      segment.rows = std::min(most, length - i * most);
      segment.chunk = chunk;
      segment.sequence = static_cast<int32_t>(s);
      segment.after = static_cast<int32_t>(count - 1 - i);
      segment.first = i == 0;
      segment.last = i == count - 1;
      chunk += (segment.rows + kChunkRows - 1) / kChunkRows;
    }
    plan.one_pass = plan.one_pass && count == 1;
  }
  plan.first_segments.push_back(static_cast<int64_t>(plan.segments.size()));
  return plan;
}

inline int64_t LongestSequence(const SelectiveScanArguments& a) {
  int64_t longest = 1;
  for (int64_t s = 0; s < a.sequences; ++s) {
    longest = std::max(longest, a.offsets[s + 1] - a.offsets[s]);
  }
  return longest;
}

// `blocks`: of channels; `wanted`: blocks that run at a time, to make the device busy. Two passes
// cost twice one: they pay where the longest sequence is more than `worth` times the rows that each
// of those blocks would do.
inline SegmentPlan PlanSegments(const SelectiveScanArguments& a, int64_t blocks, int64_t wanted,
                                int64_t worth = 4) {
  const int64_t share = std::max<int64_t>((a.rows * blocks + wanted - 1) / wanted, kChunkRows);
  const int64_t longest = LongestSequence(a);
  if (longest <= worth * share) return CutIntoSegments(a, longest);
  // The shortest segments that run all at a time: one more block than fit costs a whole turn. A
  // sequence of few rows takes none: it is done soon, and another block follows it.
  const auto blocks_of = [&](int64_t rows) {
    int64_t count = 0;
    for (int64_t s = 0; s < a.sequences; ++s) {
      const int64_t length = a.offsets[s + 1] - a.offsets[s];
      if (length > rows / 8) count += (length + rows - 1) / rows;
    }
    return count * blocks;
  };
  int64_t most = (share + kChunkRows - 1) / kChunkRows * kChunkRows;
  while (most < longest && blocks_of(most) > wanted) {
    most += std::max(kChunkRows, most / 64 / kChunkRows * kChunkRows);
  }
  return CutIntoSegments(a, std::min(most, longest));
}

// In place of what each segment adds to a state of zero, the state that it begins with: h0 or what
// the segments before it leave. `time`: [segments, D], Σ dt'; `states`: [segments, D, components].
// What a sequence's last segment adds is not read.
void CombineStates(Context& context, const SelectiveScanArguments& a, const SegmentPlan& cut,
                   const float* time, float* states);
// The same of the gradients of the states after each segment, from dhT back: that of a sequence's
// first segment is not read.
void CombineGradients(Context& context, const SelectiveScanBackwardArguments& b,
                      const SegmentPlan& cut, const float* time, float* gradients);

// The operator for up to 16 real states, as every published Mamba has: kernels of its own.
inline bool HasSixteenStates(const SelectiveScanArguments& a) {
  return !a.is_complex && a.states <= 16;
}
void SelectiveScanSixteen(Context& context, const SelectiveScanArguments& a);
// Sequences of one row each with 16 states, and no states to save for a backward.
bool IsScanStep(const SelectiveScanArguments& a);
void SelectiveScanStep(Context& context, const SelectiveScanArguments& a);
// Whether a block of the backward's fits on the device: devices other than data centres' have less
// shared memory, and take the kernels of any number of states.
bool HasRoomForBackwardSixteen(const Context& context);
void SelectiveScanBackwardSixteen(Context& context, const SelectiveScanBackwardArguments& b);
// The gradients of the states after each segment but a sequence's last, [segments, D, N];
// `segments` is the plan's table on the device.
void FindSegmentGradients(Context& context, const SelectiveScanBackwardArguments& b,
                          const SegmentPlan& cut, const Segment* segments, float* gradients);

// Throws kUnsupported for more states than the kernels take.
inline void CheckStates(const SelectiveScanArguments& a) {
  constexpr int64_t kMostStates = 256;
  if (a.states <= kMostStates) return;
  throw Error(ErrorCode::kUnsupported, "selective_scan: A has " + std::to_string(a.states) +
                                           " states, CUDA takes at most " +
                                           std::to_string(kMostStates));
}

template <class V>
const V* TableOf(Context& context, const std::vector<V>& values) {
  return static_cast<const V*>(
      context.Table(values.data(), static_cast<int64_t>(values.size() * sizeof(V))));
}

// The pieces that a matrix's rows can be copied by, given where its columns are read from.
inline int UnitOf(const Rows& rows, int64_t column_step) {
  const int64_t size = rows.dtype == DType::kF32 ? 4 : 2;
  for (const int unit : {16, 4}) {
    if (AlignedTo(unit, rows.data, rows.stride, size) && column_step * size % unit == 0) {
      return unit;
    }
  }
  return 2;
}

}  // namespace adder::cuda
