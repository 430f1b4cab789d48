// selective_scan on CUDA, forward, for up to 16 real states.
//
// A warp owns 16 channels, a lane half the states of one, in registers, and walks down a segment of
// rows. Blocks copy a tile of x, dt and z to shared memory while they compute the one before; B and
// C of the tile are turned to f32 there once for all channels. Of two rows that follow each other
// one lane of a channel prepares (dt', dt' · x) and finishes (D, gate) the first and the other the
// second, so that nothing is computed twice: 16 exponentials a row and channel for the states and
// three for softplus and gate. With 2048 channels and eight sequences a scheduler has two warps, so
// that little hides what a warp waits for but its own other work: rows go in groups, and while a
// group's states advance, the group after it is prepared and the one before it finished, in one
// stretch of code without branches.
//
// Where channels and sequences do not fill the device, sequences are cut into segments: a first
// pass finds what each adds to a state of zero, CombineStates turns that into the states that the
// segments begin with, and the last pass is the one above.
#include "adder/ops/selective_scan/selective_scan_16_cuda.cuh"

namespace adder::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kWarpChannels = 16;
constexpr int kChannels = kWarps * kWarpChannels;  // of a block
constexpr int kBlocks = 5;                         // of a multiprocessor, at a time
constexpr int kStates = kSixteen / 2;              // of a lane
constexpr int kRows = 16;                          // of a tile
constexpr int kGroup = 4;                          // rows; kRows is a multiple
constexpr int kOwn = kGroup / 2;                   // of them, prepared and finished by one lane
constexpr int kQuads = 2 * kSixteen / 4;           // of a row of B and C
static_assert(kRows * kQuads == kThreads);

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

enum class Pass { kStates, kPlain, kGated };  // to find states only; without and with z

template <class T, Pass kPass>
__global__ void __launch_bounds__(kThreads, kBlocks) ScanKernel(const __grid_constant__ Plan p) {
  constexpr bool kStatesOnly = kPass == Pass::kStates;
  __shared__ __align__(16) T x_tile[2][kRows][kChannels];
  __shared__ __align__(16) T dt_tile[2][kRows][kChannels];
  __shared__ __align__(16) T z_tile[2][kRows][kChannels];
  __shared__ __align__(16) float B_rows[2][kRows][kSixteen];
  __shared__ __align__(16) float C_rows[2][kRows][kSixteen];
  __shared__ float intervals[2][kRows];
  const SelectiveScanArguments& a = p.a;
  const Place place = PlaceOf<kChannels>(a, p.segments, p.blocks_per_group);
  const Segment& segment = place.segment;
  const int tid = static_cast<int>(threadIdx.x);
  const int half = tid % 32 / kWarpChannels;  // which states, and which of two rows
  const int c = tid / 32 * kWarpChannels + tid % kWarpChannels;
  const bool owns = c < place.count;
  const int64_t channel = place.channel0 + c;
  const auto states = static_cast<int>(a.states);
  const int state0 = half * kStates;

  // This lane's states of its channel in [index, D, N].
  const auto load = [&](const float* from, int64_t index, float(&to)[kStates]) {
    const float* own = from + (index * a.channels + channel) * states + state0;
#pragma unroll
    for (int k = 0; k < kStates; ++k) to[k] = owns && state0 + k < states ? own[k] : 0.0f;
  };
  float rate[kStates], h[kStates] = {};
  load(a.A, 0, rate);
#pragma unroll
  for (int k = 0; k < kStates; ++k) rate[k] = RealRate(rate[k]);
  if (!kStatesOnly && p.first != nullptr) {
    load(p.first, place.index, h);
  } else if (!kStatesOnly && a.h0 != nullptr) {
    load(a.h0, segment.sequence, h);
  }
  const auto store_states = [&](float* to, int64_t index) {
    float* own = to + (index * a.channels + channel) * states + state0;
    if (owns && states == kSixteen) {
      *reinterpret_cast<float4*>(own) = {h[0], h[1], h[2], h[3]};
      *reinterpret_cast<float4*>(own + 4) = {h[4], h[5], h[6], h[7]};
      return;
    }
#pragma unroll
    for (int k = 0; k < kStates; ++k) {
      if (owns && state0 + k < states) own[k] = h[k];
    }
  };
  const float bias = owns && a.dt_bias != nullptr ? a.dt_bias[channel] : 0.0f;
  const float skip = owns && a.D != nullptr ? a.D[channel] : 0.0f;
  T* y = static_cast<T*>(a.y.data) + (segment.row + half) * a.y.stride + channel;
  float time = 0;

  const auto rows_at = [&](int64_t tile) {
    return static_cast<int>(min(int64_t{kRows}, segment.rows - tile * kRows));
  };
  const auto copy = [&](int64_t tile, int stage) {
    const int64_t row = segment.row + tile * kRows;
    const auto activation = [&](const Rows& from, T(&to)[kRows][kChannels], int unit) {
      CopyTile<kThreads>(to, static_cast<const T*>(from.data) + row * from.stride + place.channel0,
                         from.stride, rows_at(tile), place.count, unit);
    };
    activation(a.x, x_tile[stage], p.x_unit);
    activation(a.dt, dt_tile[stage], p.dt_unit);
    if (kPass == Pass::kGated) activation(a.z, z_tile[stage], p.z_unit);
  };
  // This thread's quad of a tile's B or C.
  const int quad_row = tid / kQuads;
  const bool quad_of_C = tid % kQuads >= kQuads / 2;
  const int quad = tid % (kQuads / 2) * 4;
  const Rows& projection = quad_of_C ? a.C : a.B;
  const auto fetch = [&](int64_t tile) {
    const bool wanted = quad_row < rows_at(tile) && !(kStatesOnly && quad_of_C);
    return FetchFour(projection, segment.row + tile * kRows + quad_row, place.group * states, quad,
                     wanted ? states : 0, quad_of_C ? p.C_in_fours : p.B_in_fours);
  };
  const auto put = [&](int64_t tile, uint4 bits, int stage) {
    float* to = quad_of_C ? C_rows[stage][quad_row] : B_rows[stage][quad_row];
    *reinterpret_cast<float4*>(to + quad) = ConvertFour(bits, projection.dtype);
    if (tid < kRows) {
      const bool given = a.interval != nullptr && tid < rows_at(tile);
      intervals[stage][tid] = given ? a.interval[segment.row + tile * kRows + tid] : 1.0f;
    }
  };

  // A lane has its own of two numbers and gets the other lane's: they become those of two rows.
  const auto exchange = [&](float own, float& first, float& second) {
    const float other = __shfl_xor_sync(0xffffffffu, own, kWarpChannels);
    first = half == 0 ? own : other;
    second = half == 0 ? other : own;
  };
  struct Group {
    float t[kGroup];  // dt'
    float v[kGroup];  // dt' · x
  };
  // Rows that the tile lacks change nothing.
  const auto prepare = [&](int stage, int row, int rows) {
    Group group;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const int own = row + 2 * i + half;
      const float softplus = Softplus(ToFloat(dt_tile[stage][own][c]) + bias);
      const float t = own < rows ? softplus * intervals[stage][own] : 0.0f;
      const float v = own < rows ? t * ToFloat(x_tile[stage][own][c]) : 0.0f;
      exchange(t, group.t[2 * i], group.t[2 * i + 1]);
      exchange(v, group.v[2 * i], group.v[2 * i + 1]);
    }
    return group;
  };
  const auto advance = [&](const Group& group, int stage, int row, float(&sums)[kGroup]) {
#pragma unroll
    for (int j = 0; j < kGroup; ++j) {
      float sum[kStates / 4] = {};  // of four states each, as SelectiveScanStep adds them up
#pragma unroll
      for (int q = 0; q < kStates / 4; ++q) {
        float B[4], C[4] = {};
        Load<4>(&B_rows[stage][row + j][state0 + 4 * q], B);
        if (!kStatesOnly) Load<4>(&C_rows[stage][row + j][state0 + 4 * q], C);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          float& state = h[4 * q + k];
          state = fmaf(Exp2(group.t[j] * rate[4 * q + k]), state, group.v[j] * B[k]);
          sum[q] = fmaf(C[k], state, sum[q]);
        }
      }
      sums[j] = sum[0] + sum[1];
      if (kStatesOnly) time += group.t[j];
    }
  };
  // Rows from `end` on are not written.
  const auto finish = [&](const float(&sums)[kGroup], int stage, int row, int end) {
    if constexpr (!kStatesOnly) {
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
        const int own = row + 2 * i + half;
        // A lane gets both lanes' sums of its row of two, and gives its own of the other one.
        const float mine = half == 0 ? sums[2 * i] : sums[2 * i + 1];
        const float other = half == 0 ? sums[2 * i + 1] : sums[2 * i];
        float result = mine + __shfl_xor_sync(0xffffffffu, other, kWarpChannels);
        result = fmaf(skip, ToFloat(x_tile[stage][own][c]), result);
        if constexpr (kPass == Pass::kGated) {
          const float z = ToFloat(z_tile[stage][own][c]);
          result *= z * Sigmoid(z);
        }
        if (owns && own < end) *y = FromFloat<T>(result);
        y += 2 * a.y.stride;
      }
    }
  };

  const int64_t count = (segment.rows + kRows - 1) / kRows;
  if (count > 0) {
    copy(0, 0);
    put(0, fetch(0), 0);
  }
  CommitCopies();
  for (int64_t tile = 0; tile < count; ++tile) {
    const int stage = static_cast<int>(tile & 1);
    AwaitCopies();
    __syncthreads();  // the tile is there, and nobody reads the one before any more
    uint4 bits = {};
    if (tile + 1 < count) {
      copy(tile + 1, stage ^ 1);
      bits = fetch(tile + 1);
    }
    CommitCopies();
    if (!kStatesOnly && a.chunk_states != nullptr && tile * kRows % kChunkRows == 0) {
      store_states(a.chunk_states, segment.chunk + tile * kRows / kChunkRows);
    }
    const int rows = rows_at(tile);
    if (rows == kRows) {
      Group group = prepare(stage, 0, kRows);
      float sums[kGroup] = {};
#pragma unroll
      for (int row = 0; row < kRows; row += kGroup) {
        Group after = {};
        if (row + kGroup < kRows) after = prepare(stage, row + kGroup, kRows);
        float own[kGroup];
        advance(group, stage, row, own);
        if (row > 0) finish(sums, stage, row - kGroup, kRows);
        group = after;
#pragma unroll
        for (int j = 0; j < kGroup; ++j) sums[j] = own[j];
      }
      finish(sums, stage, kRows - kGroup, kRows);
    } else {
#pragma unroll 1
      for (int row = 0; row < rows; row += kGroup) {
        float sums[kGroup];
        advance(prepare(stage, row, rows), stage, row, sums);
        finish(sums, stage, row, rows);
      }
    }
    if (tile + 1 < count) put(tile + 1, bits, stage ^ 1);
  }

  if constexpr (kStatesOnly) {
    store_states(p.added, place.index);
    if (owns && half == 0) p.time[place.index * a.channels + channel] = time;
  } else if (segment.last && a.hT != nullptr) {
    store_states(a.hT, segment.sequence);
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
    kernel<<<static_cast<unsigned>(segments * blocks), kThreads, 0, context.stream()>>>(plan);
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
