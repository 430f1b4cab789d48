// selective_scan on CUDA, forward, for up to 16 real states.
//
// A warp owns 16 channels and walks down a segment of rows. Four lanes share two channels: each
// keeps a quarter of the states of both, so that a row's B and C are read by two loads. What is
// done once for a row and channel (dt', dt' · x, D, gate) is shared out too: of two rows that
// follow each other each of the four lanes prepares and finishes one row of one channel, and dt',
// dt' · x and the sums over states go from lane to lane by shuffles.
//
// A row costs a lane 8 exponentials for the states and one and a half for softplus and gate, which
// is what the kernel should wait for. To that end two rows are prepared while the states advance by
// the two before them, and finished while they advance by the two after, from the segment's first
// row to its last; and blocks are small, so that the multiprocessors have about as many each: with
// eight sequences of 2048 channels a scheduler has two warps, with 5120 five.
//
// Blocks of 64 channels copy tiles of x, dt and z to a ring in shared memory, two tiles ahead; B
// and C are turned to f32 there once for all channels.
//
// Where channels and sequences do not fill the device, sequences are cut into segments: a first
// pass finds what each adds to a state of zero, CombineStates turns that into the states that the
// segments begin with, and the last pass is the one above.
#include <cmath>

#include "adder/ops/selective_scan/selective_scan_16_cuda.cuh"

namespace adder::cuda {
namespace {

constexpr unsigned kThreads = 128;
constexpr unsigned kWarpChannels = 16;
constexpr unsigned kChannels = kThreads / 32 * kWarpChannels;  // of a block
constexpr unsigned kPairs = kWarpChannels / 2;  // lanes between those of two channels
constexpr unsigned kStates = 4;                 // of each of a lane's two channels
constexpr int kBlocks = 5;              // of a multiprocessor, that registers leave room for
constexpr unsigned kStages = 3;         // tiles of the ring
constexpr int64_t kWorthTwoPasses = 5;  // see PlanSegments

struct Plan {
  SelectiveScanArguments a;
  const Segment* segments;
  int64_t blocks_per_group;
  const float* first;  // [segments, D, N]: states to begin with, or null: h0's
  float* added;        // states-only pass: [segments, D, N], what a state of 0 becomes
  float* time;         // states-only pass: [segments, D], Σ dt'
  int x_unit, dt_unit, z_unit;
  bool B_in_fours, C_in_fours;
  bool regular;  // 16 states; x, dt, z and y can be moved by 16 bytes, B and C by fours
  // Bytes from a tile to the next.
  int64_t x_step, dt_step, z_step, y_step, B_step, C_step;
};

// kStages tiles, which follow each other round and round.
template <class T>
struct Ring {
  static constexpr unsigned kTile = sizeof(T) == 2 ? 16 : 8;  // rows
  static constexpr unsigned kRows = kStages * kTile;
  // Of a row. A warp reads its channels of two rows at a time: from different banks.
  static constexpr unsigned kPitch = kChannels + kWarpChannels;
  T x[kRows * kPitch];
  T dt[kRows * kPitch];
  T z[kRows * kPitch];                      // of rows that are finished: y
  float projections[kRows * 2 * kSixteen];  // of each row ln 2 · B, C
  float interval[kRows];
  // What is wanted once a tile: registers are for what each row needs.
  Place place;
  struct {
    const char* x;
    const char* dt;
    const char* z;
    char* y;
    const char* quad;
  } next[kThreads];  // where each thread's piece of the next tile is
};

enum class Pass { kStates, kPlain, kGated };  // to find states only; without and with z

// kInterval: whether it is given.
template <class T, Pass kPass, bool kInterval>
__global__ void __launch_bounds__(kThreads, kBlocks) ScanKernel(const __grid_constant__ Plan p) {
  constexpr bool kStatesOnly = kPass == Pass::kStates;
  constexpr unsigned kTile = Ring<T>::kTile;
  constexpr unsigned kRing = Ring<T>::kRows;
  constexpr unsigned kPitch = Ring<T>::kPitch;
  constexpr unsigned kGroup = kTile / 2;  // rows that code without branches advances by
  static_assert(kGroup % 2 == 0 && kChunkRows % kTile == 0);
  __shared__ __align__(16) Ring<T> ring;
  const SelectiveScanArguments& a = p.a;
  if (threadIdx.x == 0) ring.place = PlaceOf<kChannels>(a, p.segments, p.blocks_per_group);
  __syncthreads();
  const Place& place = ring.place;
  const Segment& segment = place.segment;
  if (kStatesOnly && segment.last) return;  // no segment begins with its state
  const auto count = static_cast<unsigned>(place.count);
  // Unsigned, of which quotients and remainders by powers of two are one instruction.
  const unsigned tid = threadIdx.x;
  const unsigned lane = tid % 32;
  const unsigned warp_column = tid / 32 * kWarpChannels;
  // Of the two channels of this and three other lanes, whose numbers differ by kPairs: which states
  // of both are this lane's, which channel is its own, and which of two rows.
  const unsigned quarter = lane / kPairs;
  const unsigned column = warp_column + lane % (2 * kPairs);
  const unsigned parity = lane / (2 * kPairs);
  const unsigned state0 = quarter * kStates;
  const auto states = static_cast<unsigned>(a.states);
  const unsigned own = parity * kPitch + column;  // the place in two rows of the ring
  const bool owns = column < count;
  const int64_t channel = place.channel0 + column;

  // Calls visit(i, offset of its states in [index, D, N]) for each of the two channels that there
  // is: 0, the lane's own, and 1, the other.
  const auto visit_channels = [&](int64_t index, auto visit) {
#pragma unroll
    for (unsigned i = 0; i < 2; ++i) {
      const unsigned its = column ^ (i * kPairs);
      if (its >= count) continue;
      visit(i, (index * a.channels + place.channel0 + its) * states + state0);
    }
  };
  const auto load_states = [&](const float* from, int64_t index, float(&to)[2][kStates]) {
    visit_channels(index, [&](int i, int64_t offset) {
#pragma unroll
      for (unsigned k = 0; k < kStates; ++k) {
        to[i][k] = state0 + k < states ? from[offset + k] : 0.0f;
      }
    });
  };
  float rate[2][kStates] = {}, h[2][kStates] = {};
  load_states(a.A, 0, rate);
  const auto store_states = [&](float* to, int64_t index) {
    visit_channels(index, [&](int i, int64_t offset) {
      if (states == kSixteen) {
        *reinterpret_cast<float4*>(to + offset) = {h[i][0], h[i][1], h[i][2], h[i][3]};
        return;
      }
#pragma unroll
      for (unsigned k = 0; k < kStates; ++k) {
        if (state0 + k < states) to[offset + k] = h[i][k];
      }
    });
  };
  const float bias = owns && a.dt_bias != nullptr ? a.dt_bias[channel] * kLog2E : 0.0f;
  const float skip = owns && a.D != nullptr ? a.D[channel] : 0.0f;

  const auto tiles = static_cast<unsigned>((segment.rows + kTile - 1) / kTile);
  const auto last_rows = static_cast<unsigned>((segment.rows - 1) % kTile + 1);
  const auto rows_at = [&](unsigned tile) { return tile + 1 < tiles ? kTile : last_rows; };
  const auto row_of = [&](unsigned tile) { return segment.row + int64_t{tile} * kTile; };
  // Tiles that are moved by whole pieces of 16 bytes, one a thread of x, dt and z, one a lane of y,
  // and a quad a thread of B and C: in the usual case all but the last. Pointers are to the next.
  constexpr unsigned kPiece = 16 / sizeof(T);
  constexpr unsigned kPieces = kChannels / kPiece;          // of a row
  constexpr unsigned kWarpPieces = kWarpChannels / kPiece;  // of a warp's part of it
  constexpr unsigned kQuads = 2 * kSixteen / 4;             // of a row of B and C
  static_assert(kTile * kPieces == kThreads && kTile * kWarpPieces == 32);
  static_assert(kTile * kQuads <= kThreads);
  const auto regular_tiles =
      p.regular && count == kChannels ? static_cast<unsigned>(segment.rows / kTile) : 0;
  const unsigned piece = tid / kPieces * kPitch + tid % kPieces * kPiece;  // in the ring
  const unsigned y_piece = lane / kWarpPieces * kPitch + warp_column + lane % kWarpPieces * kPiece;
  const unsigned quad_row = tid / kQuads;
  const bool quad_of_C = tid % kQuads >= kQuads / 2;
  const unsigned quad = tid % (kQuads / 2) * 4;
  const Rows& projection = quad_of_C ? a.C : a.B;
  const bool has_quad = quad_row < kTile && !(kStatesOnly && quad_of_C);
  auto& from = ring.next[tid];  // of its own: no other thread reads it
  const auto at_piece = [&](const Rows& rows, unsigned row, unsigned column) {
    return static_cast<char*>(rows.data) +
           ((segment.row + row) * rows.stride + place.channel0 + column) * sizeof(T);
  };
  from.x = at_piece(a.x, tid / kPieces, tid % kPieces * kPiece);
  from.dt = at_piece(a.dt, tid / kPieces, tid % kPieces * kPiece);
  if (kPass == Pass::kGated) from.z = at_piece(a.z, tid / kPieces, tid % kPieces * kPiece);
  if (!kStatesOnly) {
    from.y = at_piece(a.y, lane / kWarpPieces, warp_column + lane % kWarpPieces * kPiece);
  }
  from.quad = static_cast<const char*>(projection.data) +
              ((segment.row + quad_row) * projection.stride + place.group * kSixteen + quad) *
                  (projection.dtype == DType::kF32 ? 4 : 2);

  // Of these functions `at` is the ring's row that the tile begins at.
  const auto copy = [&](unsigned tile, unsigned at) {
    if (tile < regular_tiles) {
      const char* x = from.x;
      const char* dt = from.dt;
      const char* z = kPass == Pass::kGated ? from.z : nullptr;
      from.x = x + p.x_step;
      from.dt = dt + p.dt_step;
      if (kPass == Pass::kGated) from.z = z + p.z_step;
      CopyPiece(ring.x + at * kPitch + piece, x);
      CopyPiece(ring.dt + at * kPitch + piece, dt);
      if (kPass == Pass::kGated) CopyPiece(ring.z + at * kPitch + piece, z);
      return;
    }
    const unsigned rows = rows_at(tile);
    const auto activation = [&](const Rows& rows_from, T* to, int unit) {
      constexpr int kSize = static_cast<int>(sizeof(T));
      CopyRows(reinterpret_cast<char*>(to + at * kPitch), kPitch * kSize,
               static_cast<const char*>(rows_from.data) +
                   (row_of(tile) * rows_from.stride + place.channel0) * kSize,
               rows_from.stride * kSize, static_cast<int>(rows), place.count * kSize, unit);
    };
    activation(a.x, ring.x, p.x_unit);
    activation(a.dt, ring.dt, p.dt_unit);
    if (kPass == Pass::kGated) activation(a.z, ring.z, p.z_unit);
    // Rows that the tile lacks take no time, and so change nothing.
    for (unsigned i = rows * kChannels + tid; i < kTile * kChannels; i += kThreads) {
      const unsigned to = (at + i / kChannels) * kPitch + i % kChannels;
      ring.x[to] = FromFloat<T>(0.0f);
      ring.dt[to] = FromFloat<T>(-INFINITY);
    }
  };
  const auto fetch = [&](unsigned tile) {
    if (tile >= regular_tiles) {
      return FetchFour(projection, row_of(tile) + quad_row, place.group * states,
                       static_cast<int>(quad),
                       has_quad && quad_row < rows_at(tile) ? static_cast<int>(states) : 0,
                       quad_of_C ? p.C_in_fours : p.B_in_fours);
    }
    uint4 bits = {};
    if (has_quad) {
      if (projection.dtype == DType::kF32) {
        bits = __ldg(reinterpret_cast<const uint4*>(from.quad));
      } else {
        const uint2 two = __ldg(reinterpret_cast<const uint2*>(from.quad));
        bits.x = two.x;
        bits.y = two.y;
      }
    }
    from.quad += quad_of_C ? p.C_step : p.B_step;
    return bits;
  };
  const auto put = [&](unsigned tile, uint4 bits, unsigned at) {
    if (quad_row < kTile) {
      const float4 four = ConvertFour(bits, projection.dtype);
      const float factor = quad_of_C ? 1.0f : kLn2;
      *reinterpret_cast<float4*>(ring.projections + at * kQuads * 4 + tid * 4) = {
          factor * four.x, factor * four.y, factor * four.z, factor * four.w};
    }
    if (kInterval && tid < kTile) {
      ring.interval[at + tid] = tid < rows_at(tile) ? a.interval[row_of(tile) + tid] : 1.0f;
    }
  };
  // A tile's y, from where its z was; each warp that of its channels.
  const auto write = [&](unsigned tile, unsigned at) {
    __syncwarp();
    if (tile < regular_tiles) {
      __stwb(reinterpret_cast<uint4*>(from.y),
             *reinterpret_cast<const uint4*>(ring.z + at * kPitch + y_piece));
      from.y += p.y_step;
    } else if (owns) {
      const unsigned rows = rows_at(tile);
      T* to = static_cast<T*>(a.y.data) + row_of(tile) * a.y.stride + channel;
      for (unsigned row = parity; row < rows; row += 2) {
        to[row * a.y.stride] = ring.z[(at + row) * kPitch + column];
      }
    }
  };

  // What two rows are computed with. An element of an array: row, channel.
  struct Steps {
    float t[2][2];  // dt' / ln 2
    float v[2][2];  // and that times x
    float x;        // of the own row and channel
  };
  // What the four lanes have of their rows and channels, as each wants it.
  const unsigned other = lane % (2 * kPairs) ^ kPairs;
  const auto share = [&](float value, float(&to)[2][2]) {
    constexpr unsigned kAll = 0xffffffffu;
    to[0][0] = __shfl_up_sync(kAll, value, 2 * kPairs);  // its own where the first row is
    to[1][0] = __shfl_down_sync(kAll, value, 2 * kPairs);
    to[0][1] = __shfl_sync(kAll, value, static_cast<int>(other));
    to[1][1] = __shfl_sync(kAll, value, static_cast<int>(other + 2 * kPairs));
  };
  // Rows [row, row + 2) of the ring.
  const auto prepare = [&](unsigned row) {
    Steps steps;
    steps.x = ToFloat(ring.x[row * kPitch + own]);
    float t = SoftplusOfTwo(fmaf(ToFloat(ring.dt[row * kPitch + own]), kLog2E, bias));
    if (kInterval) t *= ring.interval[row + parity];
    share(t, steps.t);
    share(t * steps.x, steps.v);
    return steps;
  };
  float time = 0;
  // Returns Σ C · h of the own row and channel, whose quads of states are added up as
  // SelectiveScanStep adds them.
  const auto advance = [&](const Steps& steps, unsigned row) {
    float halves[2];  // of the own channel: sums over this lane's states and another quarter
#pragma unroll
    for (unsigned r = 0; r < 2; ++r) {
      float B[4], C[4] = {}, sums[2] = {};
      Load<4>(ring.projections + (row + r) * 2 * kSixteen + state0, B);
      if (!kStatesOnly) Load<4>(ring.projections + ((row + r) * 2 + 1) * kSixteen + state0, C);
#pragma unroll
      for (unsigned i = 0; i < 2; ++i) {
#pragma unroll
        for (unsigned k = 0; k < kStates; ++k) {
          h[i][k] = fmaf(Exp2(steps.t[r][i] * rate[i][k]), h[i][k], steps.v[r][i] * B[k]);
          sums[i] = fmaf(C[k], h[i][k], sums[i]);
        }
      }
      if constexpr (kStatesOnly) {
        time += steps.t[r][0];
      } else {
        halves[r] = sums[0] + __shfl_xor_sync(0xffffffffu, sums[1], kPairs);
      }
    }
    if constexpr (kStatesOnly) {
      return 0.0f;
    } else {
      const float others = parity == 0 ? halves[1] : halves[0];
      return (parity == 0 ? halves[0] : halves[1]) +
             __shfl_xor_sync(0xffffffffu, others, 2 * kPairs);
    }
  };
  // The own one of rows [row, row + 2).
  const auto finish = [&](float sum, float x, unsigned row) {
    float result = fmaf(skip, x, sum);
    if constexpr (kPass == Pass::kGated) {
      const float z = ToFloat(ring.z[row * kPitch + own]);
      result *= z * Sigmoid(z);
    }
    return FromFloat<T>(result);
  };

  // The ring's rows of this tile, of the next, and of the one before it or after the next.
  unsigned here = 0, next = kTile, spare = 2 * kTile;
  uint4 bits = {};  // of the next tile's B or C
#pragma unroll 1
  for (unsigned tile = 0; tile < min(tiles, 2u); ++tile) copy(tile, tile * kTile);
  CommitCopies();
  if (tiles > 0) put(0, fetch(0), here);
  if (tiles > 1) bits = fetch(1);
  if constexpr (!kStatesOnly) {
    if (p.first != nullptr) {
      load_states(p.first, place.index, h);
    } else if (a.h0 != nullptr) {
      load_states(a.h0, segment.sequence, h);
    }
  }
  WaitForCopies<0>();
  __syncthreads();

  Steps steps = {};  // of the two rows that are next
  if (tiles > 0) steps = prepare(here);
  float sum = 0, x = 0;         // of the two rows before them, which are not finished,
  unsigned before = kRing - 2;  // and where in the ring these are; at first nobody's
  for (unsigned tile = 0; tile < tiles; ++tile) {
    constexpr unsigned kChunkTiles = kChunkRows / kTile;
    if (!kStatesOnly && a.chunk_states != nullptr && tile % kChunkTiles == 0) {
      store_states(a.chunk_states, segment.chunk + tile / kChunkTiles);
    }
    const unsigned rows = rows_at(tile);
#pragma unroll 1
    for (unsigned row = 0; row < rows; row += kGroup) {
      const bool last = row == kTile - kGroup;
      if (last) {  // whose rows ahead are the next tile's
        if (tile + 1 < tiles) put(tile + 1, bits, next);
        if (!kStatesOnly && tile > 0) write(tile - 1, spare);
        WaitForCopies<0>();
        __syncthreads();  // the next tile is there, and nobody needs the one before any more
        if (tile + 2 < tiles) {
          copy(tile + 2, spare);
          bits = fetch(tile + 2);
        }
        CommitCopies();
      }
      const unsigned at = here + row;
      const unsigned after = last ? next : at + kGroup;
      T y[kGroup / 2];
#pragma unroll
      for (unsigned j = 0; j < kGroup; j += 2) {
        const Steps ahead = prepare(j + 2 < kGroup ? at + j + 2 : after);
        const float next_sum = advance(steps, at + j);
        if constexpr (!kStatesOnly) y[j / 2] = finish(sum, x, j == 0 ? before : at + j - 2);
        sum = next_sum;
        x = steps.x;
        steps = ahead;
      }
      // All behind the loads above, which the compiler would not move before a store.
      if constexpr (!kStatesOnly) {
#pragma unroll
        for (unsigned j = 0; j < kGroup; j += 2) {
          ring.z[(j == 0 ? before : at + j - 2) * kPitch + own] = y[j / 2];
        }
      }
      before = at + kGroup - 2;
    }
    const unsigned done = here;
    here = next;
    next = spare;
    spare = done;
  }

  if constexpr (kStatesOnly) {
    store_states(p.added, place.index);
    if (owns && parity == 0) p.time[place.index * a.channels + channel] = kLn2 * time;
  } else {
    if (segment.last && a.hT != nullptr) store_states(a.hT, segment.sequence);
    if (tiles == 0) return;
    ring.z[before * kPitch + own] = finish(sum, x, before);
    // The tile before the last is written where the last one's last group begins.
    if (rows_at(tiles - 1) <= kTile - kGroup && tiles > 1) write(tiles - 2, next);
    write(tiles - 1, spare);
  }
}

template <class T, Pass kPass>
void Run(Context& context, const Plan& plan, int64_t blocks) {
  const auto kernel =
      plan.a.interval == nullptr ? ScanKernel<T, kPass, false> : ScanKernel<T, kPass, true>;
  kernel<<<static_cast<unsigned>(blocks), kThreads, 0, context.stream()>>>(plan);
  CheckLaunch("selective_scan");
}

// Blocks that a multiprocessor does at a time.
template <class T>
int BlocksAtATime() {
  static const int blocks = [] {
    int count = 0;
    Check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&count, ScanKernel<T, Pass::kGated, false>,
                                                        static_cast<int>(kThreads), 0),
          "selective_scan's occupancy");
    return count;
  }();
  return blocks;
}

template <class T>
void Launch(Context& context, const SelectiveScanArguments& a) {
  Plan plan = {};
  plan.a = a;
  const int64_t group_channels = a.channels / a.groups;
  plan.blocks_per_group = (group_channels + kChannels - 1) / kChannels;
  const int64_t blocks = a.groups * plan.blocks_per_group;
  const int64_t step = a.groups > 1 ? group_channels : kChannels;
  plan.x_unit = UnitOf(a.x, step);
  plan.dt_unit = UnitOf(a.dt, step);
  plan.z_unit = UnitOf(a.z, step);
  plan.B_in_fours = InFours(a.B, a);
  plan.C_in_fours = InFours(a.C, a);
  plan.regular = plan.x_unit == 16 && plan.dt_unit == 16 && UnitOf(a.y, step) == 16 &&
                 (a.z.data == nullptr || plan.z_unit == 16) && a.states == kSixteen &&
                 plan.B_in_fours && plan.C_in_fours;
  const auto tile_bytes = [](const Rows& rows) {
    return Ring<T>::kTile * rows.stride * (rows.dtype == DType::kF32 ? 4 : 2);
  };
  plan.x_step = tile_bytes(a.x);
  plan.dt_step = tile_bytes(a.dt);
  plan.z_step = tile_bytes(a.z);
  plan.y_step = tile_bytes(a.y);
  plan.B_step = tile_bytes(a.B);
  plan.C_step = tile_bytes(a.C);

  const SegmentPlan cut =
      PlanSegments(a, blocks, BlocksAtATime<T>() * context.multiprocessors(), kWorthTwoPasses);
  const auto segments = static_cast<int64_t>(cut.segments.size());
  plan.segments = TableOf(context, cut.segments);
  const auto run_last = [&] {
    a.z.data == nullptr ? Run<T, Pass::kPlain>(context, plan, segments * blocks)
                        : Run<T, Pass::kGated>(context, plan, segments * blocks);
  };
  if (cut.one_pass) return run_last();
  const Scratch states(context, segments * a.channels * a.states * 4);
  const Scratch time(context, segments * a.channels * 4);
  plan.added = states.data<float>();
  plan.time = time.data<float>();
  Run<T, Pass::kStates>(context, plan, segments * blocks);
  CombineStates(context, a, cut, plan.time, plan.added);
  plan.first = plan.added;
  run_last();
}

}  // namespace

void SelectiveScanSixteen(Context& context, const SelectiveScanArguments& a) {
  VisitActivation(a.x.dtype, [&](auto type) { Launch<decltype(type)>(context, a); });
}

}  // namespace adder::cuda
