// selective_scan on CUDA, forward, for up to 16 real states.
//
// A thread owns a channel: its states are registers, and it walks down a segment of rows. Blocks of
// 128 channels copy a tile of x, dt and z to shared memory while they compute the one before; B and
// C of the tile are turned to f32 there once for all channels. A row costs a thread 16 exponentials
// for the states and three for softplus and gate, which is what the kernel should wait for. With
// 2048 channels and eight sequences a scheduler has one warp, so that nothing hides what this warp
// waits for but its own other work: rows go in groups, and while a group's states advance, the
// group after it is prepared (dt', dt' · x) and the one before it finished (D, gate), in one
// stretch of code without branches.
//
// Where channels and sequences do not fill the device, sequences are cut into segments: a first
// pass finds what each adds to a state of zero, CombineStates turns that into the states that the
// segments begin with, and the last pass is the one above.
#include "adder/ops/selective_scan/selective_scan_16_cuda.cuh"

namespace adder::cuda {
namespace {

constexpr int kChannels = 128;  // of a block: a thread each
constexpr int kBlocks = 3;      // of a multiprocessor, at a time
constexpr int kGroup = 4;       // rows; kRows is a multiple

struct Plan {
  SelectiveScanArguments a;
  const Segment* segments;
  int64_t blocks_per_group;
  const float* first;  // [segments, D, N]: states to begin with, or null: h0's
  float* added;        // states-only pass: [segments, D, N], what a state of 0 becomes
  float* time;         // states-only pass: [segments, D], Σ dt'
  int x_unit, dt_unit, z_unit;
  bool B_in_fours, C_in_fours;
};

// Rows of a tile.
template <class T>
inline constexpr int kTileRows = sizeof(T) == 2 ? 32 : 16;

template <class T>
struct Tiles {
  static constexpr int kRows = kTileRows<T>;
  T x[2][kRows][kChannels];
  T dt[2][kRows][kChannels];
  T z[2][kRows][kChannels];
  float B[2][kRows][kSixteen];
  float C[2][kRows][kSixteen];
  float interval[2][kRows];
};

enum class Pass { kStates, kPlain, kGated };  // to find states only; without and with z

template <class T, Pass kPass>
__global__ void __launch_bounds__(kChannels, kBlocks) ScanKernel(const __grid_constant__ Plan p) {
  constexpr bool kStatesOnly = kPass == Pass::kStates;
  constexpr int kRows = kTileRows<T>;
  extern __shared__ __align__(16) char shared[];
  auto& tiles = *reinterpret_cast<Tiles<T>*>(shared);
  const SelectiveScanArguments& a = p.a;
  const Place place = PlaceOf<kChannels>(a, p.segments, p.blocks_per_group);
  const Segment& segment = place.segment;
  const int c = static_cast<int>(threadIdx.x);
  const bool owns = c < place.count;
  const int64_t channel = place.channel0 + c;
  const auto states = static_cast<int>(a.states);

  float rate[kSixteen], h[kSixteen];
  const float* h_from = nullptr;
  if (!kStatesOnly && p.first != nullptr) {
    h_from = p.first + (place.index * a.channels + channel) * states;
  } else if (!kStatesOnly && a.h0 != nullptr) {
    h_from = a.h0 + (segment.sequence * a.channels + channel) * states;
  }
#pragma unroll
  for (int n = 0; n < kSixteen; ++n) {
    const bool exists = owns && n < states;
    rate[n] = exists ? RealRate(a.A[channel * states + n]) : 0.0f;
    h[n] = exists && h_from != nullptr ? h_from[n] : 0.0f;
  }
  const auto store_states = [&](float* to) {
    if (!owns) return;
    if (states == kSixteen) {
#pragma unroll
      for (int n = 0; n < kSixteen; n += 4) {
        *reinterpret_cast<float4*>(to + n) = {h[n], h[n + 1], h[n + 2], h[n + 3]};
      }
      return;
    }
#pragma unroll
    for (int n = 0; n < kSixteen; ++n) {
      if (n < states) to[n] = h[n];
    }
  };
  const float bias = owns && a.dt_bias != nullptr ? a.dt_bias[channel] : 0.0f;
  const float skip = owns && a.D != nullptr ? a.D[channel] : 0.0f;
  T* y = static_cast<T*>(a.y.data) + segment.row * a.y.stride + channel;
  float time = 0;

  const auto rows_at = [&](int64_t tile) {
    return static_cast<int>(min(int64_t{kRows}, segment.rows - tile * kRows));
  };
  const auto copy = [&](int64_t tile, int stage) {
    const int64_t row = segment.row + tile * kRows;
    const auto activation = [&](const Rows& from, T(&to)[kRows][kChannels], int unit) {
      CopyTile<kChannels>(to, static_cast<const T*>(from.data) + row * from.stride + place.channel0,
                          from.stride, rows_at(tile), place.count, unit);
    };
    activation(a.x, tiles.x[stage], p.x_unit);
    activation(a.dt, tiles.dt[stage], p.dt_unit);
    if (kPass == Pass::kGated) activation(a.z, tiles.z[stage], p.z_unit);
  };
  // This thread's quads of a tile's B or C: one in every kQuadRows rows.
  constexpr int kQuads = 2 * kSixteen / 4;  // of a row
  constexpr int kQuadRows = kChannels / kQuads;
  constexpr int kMine = kRows / kQuadRows;
  const int quad_row = c / kQuads;
  const bool quad_of_C = c % kQuads >= kQuads / 2;
  const int quad = c % (kQuads / 2) * 4;
  const Rows& projection = quad_of_C ? a.C : a.B;
  const auto fetch = [&](int64_t tile, uint4(&bits)[kMine]) {
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
      const int row = i * kQuadRows + quad_row;
      const bool wanted = row < rows_at(tile) && !(kStatesOnly && quad_of_C);
      bits[i] = FetchFour(projection, segment.row + tile * kRows + row, place.group * states, quad,
                          wanted ? states : 0, quad_of_C ? p.C_in_fours : p.B_in_fours);
    }
  };
  const auto put = [&](int64_t tile, const uint4(&bits)[kMine], int stage) {
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
      const int row = i * kQuadRows + quad_row;
      float* to = quad_of_C ? tiles.C[stage][row] : tiles.B[stage][row];
      *reinterpret_cast<float4*>(to + quad) = ConvertFour(bits[i], projection.dtype);
    }
    if (c < kRows) {
      const bool given = a.interval != nullptr && c < rows_at(tile);
      tiles.interval[stage][c] = given ? a.interval[segment.row + tile * kRows + c] : 1.0f;
    }
  };

  struct Group {
    float t[kGroup];  // dt'
    float v[kGroup];  // dt' · x
  };
  // Rows that a tile which is not full lacks change nothing.
  const auto prepare = [&](auto full, int stage, int row, int rows) {
    Group group;
#pragma unroll
    for (int j = 0; j < kGroup; ++j) {
      const float softplus = Softplus(ToFloat(tiles.dt[stage][row + j][c]) + bias);
      const bool exists = full() || row + j < rows;
      group.t[j] = exists ? softplus * tiles.interval[stage][row + j] : 0.0f;
      group.v[j] = exists ? group.t[j] * ToFloat(tiles.x[stage][row + j][c]) : 0.0f;
    }
    return group;
  };
  const auto advance = [&](const Group& group, int stage, int row, float(&sums)[kGroup]) {
#pragma unroll
    for (int j = 0; j < kGroup; ++j) {
      float sum[kSixteen / 4] = {};  // of four states each, as SelectiveScanStep adds them up
#pragma unroll
      for (int q = 0; q < kSixteen / 4; ++q) {
        float B[4], C[4] = {};
        Load<4>(&tiles.B[stage][row + j][4 * q], B);
        if (!kStatesOnly) Load<4>(&tiles.C[stage][row + j][4 * q], C);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          float& state = h[4 * q + k];
          state = fmaf(Exp2(group.t[j] * rate[4 * q + k]), state, group.v[j] * B[k]);
          sum[q] = fmaf(C[k], state, sum[q]);
        }
      }
      sums[j] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
      if (kStatesOnly) time += group.t[j];
    }
  };
  // Row j of the group is written where writes(j).
  const auto finish = [&](const float(&sums)[kGroup], int stage, int row, auto writes) {
#pragma unroll
    for (int j = 0; j < kGroup; ++j) {
      float result = fmaf(skip, ToFloat(tiles.x[stage][row + j][c]), sums[j]);
      if constexpr (kPass == Pass::kGated) {
        const float z = ToFloat(tiles.z[stage][row + j][c]);
        result *= z * Sigmoid(z);
      }
      if (writes(j)) y[j * a.y.stride] = FromFloat<T>(result);
    }
  };
  const auto walk = [&](auto full, int stage, int rows) {
    Group group = prepare(full, stage, 0, rows);
    float sums[kGroup] = {};
    const int last = full() ? kRows - kGroup : (rows - 1) / kGroup * kGroup;
#pragma unroll 1
    for (int row = 0; row <= last; row += kGroup) {
      // In the first turn nothing is finished, in the last one nothing needs preparing.
      const Group after = prepare(full, stage, min(row + kGroup, last), rows);
      float own[kGroup];
      advance(group, stage, row, own);
      if constexpr (!kStatesOnly) {
        finish(sums, stage, max(row - kGroup, 0), [&](int) { return owns && row > 0; });
        if (row > 0) y += kGroup * a.y.stride;
      }
      group = after;
#pragma unroll
      for (int j = 0; j < kGroup; ++j) sums[j] = own[j];
    }
    if constexpr (!kStatesOnly) {
      finish(sums, stage, last, [&](int j) { return owns && (full() || last + j < rows); });
      y += kGroup * a.y.stride;
    }
  };

  const int64_t count = (segment.rows + kRows - 1) / kRows;
  if (count > 0) {
    uint4 bits[kMine];
    copy(0, 0);
    fetch(0, bits);
    put(0, bits, 0);
  }
  CommitCopies();
  for (int64_t tile = 0; tile < count; ++tile) {
    const int stage = static_cast<int>(tile & 1);
    const int next = stage ^ 1;
    AwaitCopies();
    __syncthreads();  // the tile is there, and nobody reads the one before any more
    uint4 bits[kMine];
    if (tile + 1 < count) {
      copy(tile + 1, next);
      fetch(tile + 1, bits);
    }
    CommitCopies();
    if (!kStatesOnly && a.chunk_states != nullptr && tile * kRows % kChunkRows == 0) {
      const int64_t chunk = segment.chunk + tile * kRows / kChunkRows;
      store_states(a.chunk_states + (chunk * a.channels + channel) * states);
    }
    const int rows = rows_at(tile);
    rows == kRows ? walk(std::true_type(), stage, rows) : walk(std::false_type(), stage, rows);
    if (tile + 1 < count) put(tile + 1, bits, next);
  }

  if constexpr (kStatesOnly) {
    store_states(p.added + (place.index * a.channels + channel) * states);
    if (owns) p.time[place.index * a.channels + channel] = time;
  } else if (segment.last && a.hT != nullptr) {
    store_states(a.hT + (segment.sequence * a.channels + channel) * states);
  }
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

  const SegmentPlan cut = PlanSegments(a, blocks, kBlocks * context.multiprocessors());
  const auto segments = static_cast<int64_t>(cut.segments.size());
  plan.segments = TableOf(context, cut.segments);
  const auto run = [&](auto kernel) {
    constexpr int kBytes = static_cast<int>(sizeof(Tiles<T>));
    Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
          "selective_scan's shared memory");
    kernel<<<static_cast<unsigned>(segments * blocks), kChannels, kBytes, context.stream()>>>(plan);
    CheckLaunch("selective_scan");
  };
  const auto run_last = [&] {
    a.z.data == nullptr ? run(ScanKernel<T, Pass::kPlain>) : run(ScanKernel<T, Pass::kGated>);
  };
  if (cut.one_pass) return run_last();
  const Scratch states(context, segments * a.channels * a.states * 4);
  const Scratch time(context, segments * a.channels * 4);
  plan.added = states.data<float>();
  plan.time = time.data<float>();
  run(ScanKernel<T, Pass::kStates>);
  CombineStates(context, a, cut, plan.time, plan.added);
  plan.first = plan.added;
  run_last();
}

}  // namespace

void SelectiveScanSixteen(Context& context, const SelectiveScanArguments& a) {
  VisitActivation(a.x.dtype, [&](auto type) { Launch<decltype(type)>(context, a); });
}

}  // namespace adder::cuda
