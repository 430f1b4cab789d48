// selective_scan on CUDA, forward.
//
// A block owns kChannels channels of one group and walks down a segment of rows, tile after tile. A
// channel's states are split into parts of kStates, one thread each; all parts of 32 channels that
// follow each other are warps of their own, so that a thread reads B and C from shared memory as
// its whole warp does, by one broadcast. Around the recurrence, and not once for each part, all
// threads of the block together turn the tile's dt into dt' and the parts' sums into gated y.
//
// The exponential unit is the floor: one exponential a row, channel and state, which leaves time
// for some twenty other instructions each. So nothing is computed twice where sequences and
// channels fill the device. Where they do not (one long sequence), sequences are cut into segments:
// a first pass finds what each adds to a state of zero, a second combines these into the segments'
// first states, and the third is the one pass above.
#include <algorithm>

#include "adder/ops/selective_scan/selective_scan_cuda.cuh"

namespace adder::cuda {
namespace {

// Threads of a block; what SelectiveScan() chooses kernels by keeps to it.
constexpr int MostThreads(int states_of_a_part) { return states_of_a_part == 16 ? 512 : 256; }
constexpr int kAhead = 4;  // rows whose loads and decays are under way at a time

// What a kernel needs to know.
struct Plan {
  SelectiveScanArguments a;
  const Segment* segments;
  int64_t blocks_per_group;
  int parts;           // of a channel's states
  int width;           // floats of a row of B in shared memory: parts · kStates(· 2)
  const float* first;  // [segments, D, components]: states to begin with, or null: h0's
  float* added;        // states-only pass: [segments, D, components], what a state of 0 becomes
  float* time;         // states-only pass: [segments, D], Σ dt'
  int x_unit, dt_unit, z_unit, B_unit, C_unit;  // bytes that rows can be copied by: 16, 4 or 2
};

// State n's part of a channel: A, h and their updates for kStates states of one channel.
template <int kStates, bool kComplex>
struct States {
  static constexpr int kNumbers = kComplex ? 2 : 1;
  static constexpr int kCount = kStates * kNumbers;
  float rate[kCount];
  float h[kCount];

  // `begin`: the first component; `end`: components of the channel. Those past it stay 0.
  __device__ void LoadRates(const float* A, int64_t begin, int64_t end) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float value = begin + i < end ? A[begin + i] : 0.0f;
      rate[i] = kComplex && i % 2 == 1 ? ImaginaryRate(value) : RealRate(value);
    }
  }
  __device__ void LoadStates(const float* from, int64_t begin, int64_t end) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      h[i] = from != nullptr && begin + i < end ? from[begin + i] : 0.0f;
    }
  }
  __device__ void StoreStates(float* to, int64_t begin, int64_t end) const {
    if (kCount % 4 == 0 && end % 4 == 0 && begin + kCount <= end) {
#pragma unroll
      for (int i = 0; i < kCount; i += 4) {
        *reinterpret_cast<float4*>(to + begin + i) = {h[i], h[i + 1], h[i + 2], h[i + 3]};
      }
      return;
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (begin + i < end) to[begin + i] = h[i];
    }
  }

  // A part's B or C, from shared memory.
  __device__ static void LoadProjection(const float* from, float (&to)[kCount]) {
    static_assert(kCount % 4 == 0);
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      const float4 four = *reinterpret_cast<const float4*>(from + i);
      to[i] = four.x;
      to[i + 1] = four.y;
      to[i + 2] = four.z;
      to[i + 3] = four.w;
    }
  }

  // One row: t = dt', v = dt' · x; B of this part.
  __device__ void Advance(float t, float v, const float (&B)[kCount]) {
#pragma unroll
    for (int n = 0; n < kStates; ++n) {
      const Decay<kComplex> decay(t, rate + n * kNumbers);
      if constexpr (kComplex) {
        const float re = fmaf(decay.re, h[2 * n], -decay.im * h[2 * n + 1]);
        const float im = fmaf(decay.re, h[2 * n + 1], decay.im * h[2 * n]);
        h[2 * n] = fmaf(v, B[2 * n], re);
        h[2 * n + 1] = fmaf(v, B[2 * n + 1], im);
      } else {
        h[n] = fmaf(decay.re, h[n], v * B[n]);
      }
    }
  }
  // This part of Σ_n C · h; of complex ones, of the real part (C holds 2 · re, -2 · im).
  __device__ float Output(const float (&C)[kCount]) const {
    float sums[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < kCount; ++i) sums[i % 2] = fmaf(C[i], h[i], sums[i % 2]);
    return sums[0] + sums[1];
  }
};

// Shared memory of a block, in bytes from its start.
struct Offsets {
  int x, dt, z, B, C;  // of one stage: as they lie in device memory
  int stage;           // bytes of a stage; there are two
  int step;            // float2 [kRows][kChannels]: dt', dt' · x
  int B_rows, C_rows;  // float [kRows][width]
  int sums;            // float [parts][kRows][kChannels]
  int total;
};
template <class T, int kChannels, int kRows>
__host__ __device__ inline Offsets OffsetsOf(int parts, int width, int projection_bytes) {
  Offsets o;
  const int tile = kRows * kChannels * static_cast<int>(sizeof(T));
  const int projection = kRows * ((width * projection_bytes + 15) / 16 * 16);
  o.x = 0;
  o.dt = o.x + tile;
  o.z = o.dt + tile;
  o.B = o.z + tile;
  o.C = o.B + projection;
  o.stage = o.C + projection;
  o.step = 2 * o.stage;
  o.B_rows = o.step + kRows * kChannels * 8;
  o.C_rows = o.B_rows + kRows * width * 4;
  o.sums = o.C_rows + kRows * width * 4;
  o.total = o.sums + parts * kRows * kChannels * 4;
  return o;
}

template <class T, int kStates, bool kComplex, int kOwn, int kChannels, int kRows, bool kStatesOnly>
__global__ void __launch_bounds__(MostThreads(kStates)) ScanKernel(const __grid_constant__ Plan p) {
  extern __shared__ __align__(16) char shared[];
  const SelectiveScanArguments& a = p.a;
  constexpr int kCount = States<kStates, kComplex>::kCount;
  const int tid = static_cast<int>(threadIdx.x);
  const int threads = static_cast<int>(blockDim.x);
  const int projection_bytes = a.B.dtype == DType::kF32 ? 4 : 2;
  const Offsets o = OffsetsOf<T, kChannels, kRows>(p.parts, p.width, projection_bytes);
  const int projection_stride = (p.width * projection_bytes + 15) / 16 * 16;

  // Which channels and rows.
  const int64_t blocks = a.groups * p.blocks_per_group;
  const Segment segment = p.segments[blockIdx.x / blocks];
  const int64_t block = blockIdx.x % blocks;
  const int64_t group = block / p.blocks_per_group;
  const int64_t group_channels = a.channels / a.groups;
  const int64_t within = block % p.blocks_per_group * kChannels;
  const int64_t channel0 = group * group_channels + within;
  const int count = static_cast<int>(min(int64_t{kChannels}, group_channels - within));
  const int64_t components = a.components();
  const auto columns = static_cast<int>(components);

  // This thread's part of kOwn channels that follow each other.
  constexpr int kLanes = kChannels / kOwn;
  const int part = tid / kLanes;
  const int c = tid % kLanes * kOwn;
  const int64_t channel = channel0 + c;
  const int64_t index = blockIdx.x / blocks;
  const int64_t begin = int64_t{part} * kCount;
  States<kStates, kComplex> states[kOwn];
#pragma unroll
  for (int k = 0; k < kOwn; ++k) {
    const float* from = nullptr;
    if (c + k < count) {
      if (!kStatesOnly && p.first != nullptr) {
        from = p.first + (index * a.channels + channel + k) * components;
      } else if (!kStatesOnly && a.h0 != nullptr) {
        from = a.h0 + (segment.sequence * a.channels + channel + k) * components;
      }
      states[k].LoadRates(a.A + (channel + k) * components, begin, components);
    } else {
      states[k].LoadRates(a.A, 0, 0);
    }
    states[k].LoadStates(from, begin, components);
  }
  float time[kOwn] = {};

  // The quads of channels this thread prepares and finishes: always the same four.
  constexpr int kQuads = kChannels / 4;
  const int quad = tid % kQuads * 4;
  float bias[4], skip[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const bool given = quad + i < count;
    bias[i] = given && a.dt_bias != nullptr ? a.dt_bias[channel0 + quad + i] : 0.0f;
    skip[i] = given && a.D != nullptr ? a.D[channel0 + quad + i] : 0.0f;
  }

  const auto rows_at = [&](int64_t tile) {
    return static_cast<int>(min(int64_t{kRows}, segment.rows - tile * kRows));
  };
  const auto copy = [&](int64_t tile, int stage) {
    char* to = shared + stage * o.stage;
    const int64_t row = segment.row + tile * kRows;
    const int rows = rows_at(tile);
    const auto activation = [&](const Rows& from, int offset, int unit) {
      CopyRows(to + offset, kChannels * static_cast<int>(sizeof(T)),
               static_cast<const char*>(from.data) +
                   (row * from.stride + channel0) * static_cast<int64_t>(sizeof(T)),
               from.stride * static_cast<int64_t>(sizeof(T)), rows,
               count * static_cast<int>(sizeof(T)), unit);
    };
    const auto projection = [&](const Rows& from, int offset, int unit) {
      CopyRows(to + offset, projection_stride,
               static_cast<const char*>(from.data) +
                   (row * from.stride + group * components) * projection_bytes,
               from.stride * projection_bytes, rows, columns * projection_bytes, unit);
    };
    activation(a.x, o.x, p.x_unit);
    activation(a.dt, o.dt, p.dt_unit);
    projection(a.B, o.B, p.B_unit);
    if (!kStatesOnly) {
      if (a.z.data != nullptr) activation(a.z, o.z, p.z_unit);
      projection(a.C, o.C, p.C_unit);
    }
  };
  auto* step = reinterpret_cast<float2*>(shared + o.step);
  auto* B_rows = reinterpret_cast<float*>(shared + o.B_rows);
  auto* C_rows = reinterpret_cast<float*>(shared + o.C_rows);
  auto* sums = reinterpret_cast<float*>(shared + o.sums);

  const int projection_quads = p.width / 4;
  const int projection_rows = threads / projection_quads;  // prepared at a time
  const int projection_row = tid / projection_quads;
  const int projection_column = tid % projection_quads * 4;

  // dt' and dt' · x of a tile, its B and C as f32.
  const auto prepare = [&](int64_t tile, int stage) {
    const char* from = shared + stage * o.stage;
    const int rows = rows_at(tile);
    for (int i = tid; i < rows * kQuads; i += threads) {
      const int row = i / kQuads;
      float x[4], dt[4];
      Load<4>(reinterpret_cast<const T*>(from + o.x) + row * kChannels + quad, x);
      Load<4>(reinterpret_cast<const T*>(from + o.dt) + row * kChannels + quad, dt);
      const float interval =
          a.interval == nullptr ? 1.0f : a.interval[segment.row + tile * kRows + row];
      float4* to = reinterpret_cast<float4*>(step + row * kChannels + quad);
      float t[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) t[k] = Softplus(dt[k] + bias[k]) * interval;
      to[0] = {t[0], t[0] * x[0], t[1], t[1] * x[1]};
      to[1] = {t[2], t[2] * x[2], t[3], t[3] * x[3]};
    }
    // Four columns at a time, which stay the same ones in every row.
    if (tid < projection_rows * projection_quads) {
      for (int row = projection_row; row < rows; row += projection_rows) {
        const int at = row * projection_stride;
        float four[4];
        LoadFour(from + o.B + at, projection_column, columns, a.B.dtype, four);
        Store<4>(four, B_rows + row * p.width + projection_column);
        if (kStatesOnly) continue;
        LoadFour(from + o.C + at, projection_column, columns, a.B.dtype, four);
        if (kComplex) {
#pragma unroll
          for (int k = 0; k < 4; ++k) four[k] *= k % 2 == 0 ? 2.0f : -2.0f;
        }
        Store<4>(four, C_rows + row * p.width + projection_column);
      }
    }
  };
  // y of a tile, from the parts' sums.
  const auto finish = [&](int64_t tile, int stage) {
    const char* from = shared + stage * o.stage;
    const int rows = rows_at(tile);
    for (int i = tid; i < rows * kQuads; i += threads) {
      const int row = i / kQuads;
      float y[4];
      {
        float x[4];
        Load<4>(reinterpret_cast<const T*>(from + o.x) + row * kChannels + quad, x);
#pragma unroll
        for (int k = 0; k < 4; ++k) y[k] = skip[k] * x[k];
      }
      for (int q = 0; q < p.parts; ++q) {
        const float4 sum =
            *reinterpret_cast<const float4*>(sums + (q * kRows + row) * kChannels + quad);
        y[0] += sum.x;
        y[1] += sum.y;
        y[2] += sum.z;
        y[3] += sum.w;
      }
      if (a.z.data != nullptr) {
        float z[4];
        Load<4>(reinterpret_cast<const T*>(from + o.z) + row * kChannels + quad, z);
#pragma unroll
        for (int k = 0; k < 4; ++k) y[k] *= z[k] * Sigmoid(z[k]);
      }
      T* to = static_cast<T*>(a.y.data) + (segment.row + tile * kRows + row) * a.y.stride +
              channel0 + quad;
      if (quad + 4 <= count && reinterpret_cast<uintptr_t>(to) % (4 * sizeof(T)) == 0) {
        Store<4>(y, to);
      } else {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          if (quad + k < count) to[k] = FromFloat<T>(y[k]);
        }
      }
    }
  };

  const int64_t tiles = (segment.rows + kRows - 1) / kRows;
  if (tiles > 0) {
    copy(0, 0);
    CommitCopies();
    WaitForCopies<0>();
    __syncthreads();
    prepare(0, 0);
    if (tiles > 1) copy(1, 1);
    CommitCopies();
    __syncthreads();
  }
  for (int64_t tile = 0; tile < tiles; ++tile) {
    if (!kStatesOnly && a.chunk_states != nullptr && tile * kRows % kChunkRows == 0) {
      const int64_t chunk = segment.chunk + tile * kRows / kChunkRows;
#pragma unroll
      for (int k = 0; k < kOwn; ++k) {
        if (c + k >= count) continue;
        states[k].StoreStates(a.chunk_states + (chunk * a.channels + channel + k) * components,
                              begin, components);
      }
    }
    const int rows = rows_at(tile);
    const float* B_part = B_rows + begin;
    const float* C_part = C_rows + begin;
    float* sum = sums + part * kRows * kChannels + c;
    const auto advance = [&](int row, float(&y)[kOwn]) {
      float2 s[kOwn];
#pragma unroll
      for (int k = 0; k < kOwn; ++k) s[k] = step[row * kChannels + c + k];
      float B[kCount], C[kCount];
      States<kStates, kComplex>::LoadProjection(B_part + row * p.width, B);
      if (!kStatesOnly) States<kStates, kComplex>::LoadProjection(C_part + row * p.width, C);
#pragma unroll
      for (int k = 0; k < kOwn; ++k) {
        states[k].Advance(s[k].x, s[k].y, B);
        if (kStatesOnly) {
          time[k] += s[k].x;
        } else {
          y[k] = states[k].Output(C);
        }
      }
    };
    // The sums of some rows are written together: between them, stores to shared memory would keep
    // the next rows' loads and decays from beginning early.
    int row = 0;
    for (; row + kAhead <= rows; row += kAhead) {
      float y[kAhead][kOwn];
#pragma unroll
      for (int j = 0; j < kAhead; ++j) advance(row + j, y[j]);
      if (!kStatesOnly) {
#pragma unroll
        for (int j = 0; j < kAhead; ++j) Store<kOwn>(y[j], sum + (row + j) * kChannels);
      }
    }
    for (; row < rows; ++row) {
      float y[kOwn];
      advance(row, y);
      if (!kStatesOnly) Store<kOwn>(y, sum + row * kChannels);
    }
    WaitForCopies<0>();
    __syncthreads();
    if (!kStatesOnly) finish(tile, static_cast<int>(tile & 1));
    if (tile + 1 < tiles) prepare(tile + 1, static_cast<int>((tile + 1) & 1));
    __syncthreads();
    if (tile + 2 < tiles) copy(tile + 2, static_cast<int>(tile & 1));
    CommitCopies();
  }

#pragma unroll
  for (int k = 0; k < kOwn; ++k) {
    if (c + k >= count) continue;
    if (kStatesOnly) {
      states[k].StoreStates(p.added + (index * a.channels + channel + k) * components, begin,
                            components);
      if (part == 0) p.time[index * a.channels + channel + k] = time[k];
    } else if (segment.last && a.hT != nullptr) {
      states[k].StoreStates(a.hT + (segment.sequence * a.channels + channel + k) * components,
                            begin, components);
    }
  }
}

template <class T, int kStates, bool kComplex, int kOwn, int kChannels, int kRows>
void Launch(Context& context, const SelectiveScanArguments& a) {
  constexpr int kCount = States<kStates, kComplex>::kCount;
  Plan plan = {};
  plan.a = a;
  plan.parts = static_cast<int>((a.components() + kCount - 1) / kCount);
  plan.width = plan.parts * kCount;
  const int64_t group_channels = a.channels / a.groups;
  plan.blocks_per_group = (group_channels + kChannels - 1) / kChannels;
  const int64_t blocks = a.groups * plan.blocks_per_group;
  const int64_t activation_step = a.groups > 1 ? group_channels : kChannels;
  const int64_t projection_step = a.groups > 1 ? a.components() : 0;
  plan.x_unit = UnitOf(a.x, activation_step);
  plan.dt_unit = UnitOf(a.dt, activation_step);
  plan.z_unit = UnitOf(a.z, activation_step);
  plan.B_unit = UnitOf(a.B, projection_step);
  plan.C_unit = UnitOf(a.C, projection_step);

  const auto run = [&](auto kernel, const Plan& p, size_t segments) {
    const Offsets o =
        OffsetsOf<T, kChannels, kRows>(p.parts, p.width, a.B.dtype == DType::kF32 ? 4 : 2);
    Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, o.total),
          "selective_scan's shared memory");
    kernel<<<static_cast<unsigned>(static_cast<int64_t>(segments) * blocks),
             kChannels / kOwn * p.parts, static_cast<size_t>(o.total), context.stream()>>>(p);
    CheckLaunch("selective_scan");
  };

  const SegmentPlan cut = PlanSegments(a, blocks, 4 * context.multiprocessors());
  const int64_t segments = static_cast<int64_t>(cut.segments.size());
  plan.segments = TableOf(context, cut.segments);
  if (cut.one_pass) {
    run(ScanKernel<T, kStates, kComplex, kOwn, kChannels, kRows, false>, plan, cut.segments.size());
    return;
  }
  const Scratch states(context, segments * a.channels * a.components() * 4);
  const Scratch time(context, segments * a.channels * 4);
  plan.added = states.data<float>();
  plan.time = time.data<float>();
  run(ScanKernel<T, kStates, kComplex, kOwn, kChannels, kRows, true>, plan, cut.segments.size());
  CombineStates(context, a, cut, plan.time, plan.added);
  plan.first = states.data<float>();
  run(ScanKernel<T, kStates, kComplex, kOwn, kChannels, kRows, false>, plan, cut.segments.size());
}

}  // namespace

void SelectiveScan(const SelectiveScanArguments& a) {
  if (a.sequences == 0 || a.channels == 0) return;
  const ProfilerRange range("selective_scan");
  Context& context = ContextOf(a.device);
  CheckStates(a);
  if (IsScanStep(a)) return SelectiveScanStep(context, a);
  if (HasSixteenStates(a)) return SelectiveScanSixteen(context, a);
  VisitActivation(a.x.dtype, [&](auto type) {
    using T = decltype(type);
    if (!a.is_complex) {
      if (a.states <= 32) {
        Launch<T, 8, false, 1, 64, 16>(context, a);
      } else {
        Launch<T, 16, false, 1, 32, 8>(context, a);
      }
    } else if (a.states <= 16) {
      Launch<T, 4, true, 1, 64, 16>(context, a);
    } else {
      Launch<T, 16, true, 1, 32, 8>(context, a);
    }
  });
}

}  // namespace adder::cuda
