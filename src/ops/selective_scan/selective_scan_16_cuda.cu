// selective_scan on CUDA, forward, for up to 16 real states.
//
// A warp owns 16 channels, a lane half the states of one, in registers, and walks down a segment of
// rows. Blocks copy a tile of x, dt and z to shared memory while they compute the one before; B and
// C of the tile are turned to f32 there once for all channels. Of two rows that follow each other
// one lane of a channel prepares (dt', dt' · x) and finishes (D, gate) the first and the other the
// second, so that nothing is computed twice: 16 exponentials a row and channel for the states and
// three for softplus and gate.
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
constexpr int kTogether = 4;  // rows whose loads and exponentials are under way at a time
constexpr int kQuads = 2 * kSixteen / 4;  // of a row of B and C
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

// What a row of a channel is computed with.
struct Step {
  float t;  // dt'
  float v;  // dt' · x
};

template <class T, bool kStatesOnly>
__global__ void __launch_bounds__(kThreads, kBlocks) ScanKernel(const __grid_constant__ Plan p) {
  __shared__ __align__(16) T x_tile[2][kRows][kChannels];
  __shared__ __align__(16) T dt_tile[2][kRows][kChannels];
  __shared__ __align__(16) T z_tile[2][kRows][kChannels];
  __shared__ __align__(16) float B_rows[2][kRows][kSixteen];
  __shared__ __align__(16) float C_rows[2][kRows][kSixteen];
  __shared__ Step steps[kWarps][kRows][kWarpChannels];
  const SelectiveScanArguments& a = p.a;
  const Place place = PlaceOf<kChannels>(a, p.segments, p.blocks_per_group);
  const Segment& segment = place.segment;
  const int tid = static_cast<int>(threadIdx.x);
  const int warp = tid / 32;
  const int half = tid % 32 / kWarpChannels;  // which states, and which of two rows
  const int w = tid % kWarpChannels;
  const int c = warp * kWarpChannels + w;
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
  const bool gated = !kStatesOnly && a.z.data != nullptr;
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
    if (gated) activation(a.z, z_tile[stage], p.z_unit);
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
  const auto put = [&](uint4 bits, int stage) {
    float* to = quad_of_C ? C_rows[stage][quad_row] : B_rows[stage][quad_row];
    *reinterpret_cast<float4*>(to + quad) = ConvertFour(bits, projection.dtype);
  };

  // This lane's rows of a tile. Those that the tile or the block lacks change nothing.
  const auto prepare = [&](int64_t tile, int stage) {
    constexpr int kOwn = kRows / 2;
    const int rows = rows_at(tile);
    float interval[kOwn];
#pragma unroll
    for (int i = 0; i < kOwn; ++i) interval[i] = 1;
    if (a.interval != nullptr) {
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
        const int row = 2 * i + half;
        if (row < rows) interval[i] = a.interval[segment.row + tile * kRows + row];
      }
    }
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const int row = 2 * i + half;
      const bool exists = owns && row < rows;
      const float softplus = Softplus(ToFloat(dt_tile[stage][row][c]) + bias);
      const float t = exists ? softplus * interval[i] : 0.0f;
      steps[warp][row][w] = {t, exists ? t * ToFloat(x_tile[stage][row][c]) : 0.0f};
      if (kStatesOnly) time += t;
    }
    __syncwarp();
  };

  // Rows [row, row + kTogether) of a tile.
  const auto advance = [&](int64_t tile, int stage, int row) {
    float sums[kTogether];
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      const Step step = steps[warp][row + j][w];
      float sum[2] = {0, 0};  // of four states each, as SelectiveScanStep adds them up
#pragma unroll
      for (int q = 0; q < kStates; q += 4) {
        const float4 B4 = *reinterpret_cast<const float4*>(&B_rows[stage][row + j][state0 + q]);
        float4 C4 = {};
        if (!kStatesOnly) {
          C4 = *reinterpret_cast<const float4*>(&C_rows[stage][row + j][state0 + q]);
        }
        const float B[4] = {B4.x, B4.y, B4.z, B4.w};
        const float C[4] = {C4.x, C4.y, C4.z, C4.w};
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          float& state = h[q + k];
          state = fmaf(Exp2(step.t * rate[q + k]), state, step.v * B[k]);
          sum[q / 4] = fmaf(C[k], state, sum[q / 4]);
        }
      }
      sums[j] = sum[0] + sum[1];
    }
    if constexpr (!kStatesOnly) {
      // A lane gets both lanes' sums of its row of two, and gives its own of the other one.
      float y[kTogether / 2];
#pragma unroll
      for (int i = 0; i < kTogether / 2; ++i) {
        const float mine = half == 1 ? sums[2 * i + 1] : sums[2 * i];
        const float other = half == 1 ? sums[2 * i] : sums[2 * i + 1];
        y[i] = mine + __shfl_xor_sync(0xffffffffu, other, kWarpChannels);
        y[i] = fmaf(skip, ToFloat(x_tile[stage][row + 2 * i + half][c]), y[i]);
      }
      if (gated) {
#pragma unroll
        for (int i = 0; i < kTogether / 2; ++i) {
          const float z = ToFloat(z_tile[stage][row + 2 * i + half][c]);
          y[i] *= z * Sigmoid(z);
        }
      }
      T* to = static_cast<T*>(a.y.data) + (segment.row + tile * kRows + row + half) * a.y.stride +
              channel;
#pragma unroll
      for (int i = 0; i < kTogether / 2; ++i) {
        if (owns && row + 2 * i + half < rows_at(tile)) to[2 * i * a.y.stride] = FromFloat<T>(y[i]);
      }
    }
  };

  const int64_t count = (segment.rows + kRows - 1) / kRows;
  if (count > 0) {
    copy(0, 0);
    put(fetch(0), 0);
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
    prepare(tile, stage);
    const int rows = rows_at(tile);
#pragma unroll 1
    for (int row = 0; row < rows; row += kTogether) advance(tile, stage, row);
    if (tile + 1 < count) put(bits, stage ^ 1);
  }

  if constexpr (kStatesOnly) {
    store_states(p.added, place.index);
    time += __shfl_xor_sync(0xffffffffu, time, kWarpChannels);
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
  if (cut.one_pass) return run(ScanKernel<T, false>);
  const Scratch states(context, segments * a.channels * a.states * 4);
  const Scratch time(context, segments * a.channels * 4);
  plan.added = states.data<float>();
  plan.time = time.data<float>();
  run(ScanKernel<T, true>);
  CombineStates(context, a, cut, plan.time, plan.added);
  plan.first = plan.added;
  run(ScanKernel<T, false>);
}

}  // namespace

void SelectiveScanSixteen(Context& context, const SelectiveScanArguments& a) {
  VisitActivation(a.x.dtype, [&](auto type) { Launch<decltype(type)>(context, a); });
}

}  // namespace adder::cuda
