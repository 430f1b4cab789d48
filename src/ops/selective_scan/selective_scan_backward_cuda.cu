// selective_scan on CUDA, backward.
//
// As the forward (selective_scan_cuda.cu), a block owns kChannels channels and a thread a part of
// one's states, here in chunks from the last to the first. Each chunk is read twice: from its saved
// state on, to find the state before each tile of kRows rows, and then tile by tile from the last
// to the first, where a tile's decays and states are computed once more, into registers, and the
// gradient of the state is carried through them from the end:
//
//     G += C · dy',  dC = h · dy',  dB = G · v,  dv = Σ G · B,  W = G · a · h_before,
//     dA += t · W,  dt = Σ A · W,  G = a · G          (complex: conj(a), and W with conj(a · h))
//
// with t = dt', v = t · x, a = exp(t · A), dy' = dy · silu(z). Sums over a channel's states meet in
// shared memory. Sums over channels (dB, dC) are formed by lanes that exchange halves of their
// values until each holds the warp's sum of some, then added per block to a partial result that one
// last kernel sums over blocks: no atomics, the same bits in every run.
//
// Models of more states than a block holds are taken in slices, launch after launch, whose sums
// over states are added in between. Where sequences and channels do not fill the device, segments
// of rows are found their last gradients of the state first, as the forward does with states.
#include "adder/backend/cuda/column_sums.cuh"
#include "adder/ops/selective_scan/selective_scan_cuda.cuh"

namespace adder::cuda {
namespace {

constexpr int kChannels = 64;
constexpr int kRows = 8;
constexpr int kCount = 4;  // numbers of a state's part: 4 real or 2 complex states
constexpr int kMostParts = 4;
constexpr int kTilesPerChunk = static_cast<int>(kChunkRows) / kRows;
constexpr int kSums = 3;  // over states: dv, dt, y
constexpr int kQuads = kChannels / 4;
constexpr int kTogether = 4;  // rows whose sums are written together

// What a kernel needs to know.
struct Plan {
  SelectiveScanBackwardArguments b;
  const Segment* segments;
  int64_t blocks_per_group;
  int64_t slice;  // the first component of this launch's
  int parts;      // of those
  int width;      // parts · kCount
  bool last_slice;
  const float* first;   // [segments, D, components]: gradient of a segment's last state, or null
  float* added;         // gradients-only pass: [segments, D, components]
  float* time;          // gradients-only pass: [segments, D], Σ dt'
  float* slice_sums;    // [rows, D, kSums], or null where there is one slice
  float* dA;            // [segments, D, components] partial sums; these may be null
  float* dD;            // [segments, D]
  float* d_dt_bias;     // [segments, D]
  float* d_projection;  // [blocks, rows, 2, components]: of dB and dC
  float* d_interval;    // [blocks, rows]
  int x_unit, dt_unit, z_unit, dy_unit, B_unit, C_unit;
};

// Shared memory of a block, in bytes from its start.
struct Offsets {
  int x, dt, z, dy, B, C;  // of one stage
  int stage;
  int step;            // float2 [kRows][kChannels]: t, v
  int dy_gated;        // float [kRows][kChannels]
  int B_rows, C_rows;  // float [kRows][width]
  int sums;            // float [kSums][parts][kRows][kChannels]
  int states;          // float [kTilesPerChunk - 1][kCount][threads]: before each tile but one
  int d_projection;    // float [channel halves][kRows][2][width]
  int total;
};
template <class T>
__host__ __device__ inline Offsets OffsetsOf(int parts, int width, int projection_bytes) {
  Offsets o;
  const int tile = kRows * kChannels * static_cast<int>(sizeof(T));
  const int projection = kRows * ((width * projection_bytes + 15) / 16 * 16);
  const int floats = kRows * kChannels * 4;
  o.x = 0;
  o.dt = o.x + tile;
  o.z = o.dt + tile;
  o.dy = o.z + tile;
  o.B = o.dy + tile;
  o.C = o.B + projection;
  o.stage = o.C + projection;
  o.step = 2 * o.stage;
  o.dy_gated = o.step + 2 * floats;
  o.B_rows = o.dy_gated + floats;
  o.C_rows = o.B_rows + kRows * width * 4;
  o.sums = o.C_rows + kRows * width * 4;
  o.states = o.sums + kSums * parts * floats;
  o.d_projection = o.states + (kTilesPerChunk - 1) * kCount * kChannels * parts * 4;
  o.total = o.d_projection + kChannels / 32 * kRows * 2 * width * 4;
  return o;
}

// A tile's turn: to advance the states to its end, or to carry the gradients to its beginning.
struct Turn {
  int64_t row;  // of the segment
  int64_t chunk;
  int tile;  // in the chunk
  int rows;
  bool advance;
};
// Turns of a chunk of `tiles` tiles: 0 ... tiles-2 forwards, then tiles-1 ... 0 backwards.
template <bool kGradientsOnly>
__device__ inline int TurnsOf(int tiles) {
  return kGradientsOnly ? tiles : 2 * tiles - 1;
}
template <bool kGradientsOnly>
__device__ inline Turn TurnAt(int64_t index, int64_t rows) {
  const int64_t last_chunk = (rows - 1) / kChunkRows;
  const int last_tiles = static_cast<int>((rows - last_chunk * kChunkRows + kRows - 1) / kRows);
  Turn turn;
  int tiles = last_tiles;
  int within = static_cast<int>(index);
  turn.chunk = last_chunk;
  if (const int turns = TurnsOf<kGradientsOnly>(last_tiles); index >= turns) {
    constexpr int kFull = kGradientsOnly ? kTilesPerChunk : 2 * kTilesPerChunk - 1;
    const int64_t rest = index - turns;
    turn.chunk = last_chunk - 1 - rest / kFull;
    within = static_cast<int>(rest % kFull);
    tiles = kTilesPerChunk;
  }
  turn.advance = !kGradientsOnly && within < tiles - 1;
  turn.tile = turn.advance ? within : TurnsOf<kGradientsOnly>(tiles) - 1 - within;
  turn.row = turn.chunk * kChunkRows + turn.tile * kRows;
  turn.rows = static_cast<int>(min(int64_t{kRows}, rows - turn.row));
  return turn;
}

// Sums over a warp's lanes of each of 64 values, of which a lane gets two: values[2 · lane] and the
// next. Lanes exchange the halves that they do not keep, then halves of those.
template <int kHalf = 32>
__device__ __forceinline__ void SumOverLanes(float (&values)[64]) {
  const bool upper = (threadIdx.x & (kHalf / 2)) != 0;
#pragma unroll
  for (int i = 0; i < kHalf; ++i) {
    const float keep = upper ? values[i + kHalf] : values[i];
    const float give = upper ? values[i] : values[i + kHalf];
    values[i] = keep + __shfl_xor_sync(0xffffffffu, give, kHalf / 2);
  }
  if constexpr (kHalf > 2) SumOverLanes<kHalf / 2>(values);
}

template <class T, bool kComplex, bool kGradientsOnly>
__global__ void __launch_bounds__(kChannels* kMostParts, 2)
    ScanBackwardKernel(const __grid_constant__ Plan p) {
  extern __shared__ __align__(16) char shared[];
  const SelectiveScanBackwardArguments& b = p.b;
  const SelectiveScanArguments& a = b.forward;
  const int tid = static_cast<int>(threadIdx.x);
  const int threads = static_cast<int>(blockDim.x);
  const int projection_bytes = a.B.dtype == DType::kF32 ? 4 : 2;
  const Offsets o = OffsetsOf<T>(p.parts, p.width, projection_bytes);
  const int projection_stride = (p.width * projection_bytes + 15) / 16 * 16;

  const int64_t blocks = a.groups * p.blocks_per_group;
  const int64_t index = blockIdx.x / blocks;
  const Segment segment = p.segments[index];
  const int64_t block = blockIdx.x % blocks;
  const int64_t group = block / p.blocks_per_group;
  const int64_t group_channels = a.channels / a.groups;
  const int64_t within = block % p.blocks_per_group * kChannels;
  const int64_t channel0 = group * group_channels + within;
  const int count = static_cast<int>(min(int64_t{kChannels}, group_channels - within));
  const int64_t components = a.components();
  // Of this slice, and their place in a row of B.
  const int columns = static_cast<int>(min(int64_t{p.width}, components - p.slice));
  const int64_t column0 = group * components + p.slice;

  const int part = tid / kChannels;
  const int c = tid % kChannels;
  const bool owns = c < count;
  const int64_t channel = channel0 + c;
  const int own = owns ? max(0, min(kCount, columns - part * kCount)) : 0;  // numbers that exist
  const int64_t begin = p.slice + part * kCount;

  const auto load = [&](const float* from, int64_t row, float(&to)[kCount]) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      to[i] = from != nullptr && i < own
                  ? from[(row * a.channels + channel) * components + begin + i]
                  : 0.0f;
    }
  };
  const auto store = [&](const float(&from)[kCount], float* to, int64_t row) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (i < own) to[(row * a.channels + channel) * components + begin + i] = from[i];
    }
  };

  float rate[kCount], G[kCount], h[kCount] = {}, dA[kCount] = {};
  load(a.A, 0, rate);
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    rate[i] = kComplex && i % 2 == 1 ? ImaginaryRate(rate[i]) : RealRate(rate[i]);
  }
  if (kGradientsOnly) {
    load(nullptr, 0, G);
  } else if (p.first != nullptr) {
    load(p.first, index, G);
  } else {
    load(b.dhT, segment.sequence, G);
  }
  float time = 0;

  // The quad of channels this thread prepares and finishes.
  const int quad = tid % kQuads * 4;
  float bias[4], skip[4], dD[4] = {}, dbias[4] = {};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const bool given = quad + i < count;
    bias[i] = given && a.dt_bias != nullptr ? a.dt_bias[channel0 + quad + i] : 0.0f;
    skip[i] = given && a.D != nullptr ? a.D[channel0 + quad + i] : 0.0f;
  }

  const auto copy = [&](const Turn& turn, int stage) {
    char* to = shared + stage * o.stage;
    const int64_t row = segment.row + turn.row;
    const auto activation = [&](const Rows& from, int offset, int unit) {
      CopyRows(to + offset, kChannels * static_cast<int>(sizeof(T)),
               static_cast<const char*>(from.data) +
                   (row * from.stride + channel0) * static_cast<int64_t>(sizeof(T)),
               from.stride * static_cast<int64_t>(sizeof(T)), turn.rows,
               count * static_cast<int>(sizeof(T)), unit);
    };
    const auto projection = [&](const Rows& from, int offset, int unit) {
      CopyRows(
          to + offset, projection_stride,
          static_cast<const char*>(from.data) + (row * from.stride + column0) * projection_bytes,
          from.stride * projection_bytes, turn.rows, columns * projection_bytes, unit);
    };
    activation(a.dt, o.dt, p.dt_unit);
    if (!kGradientsOnly) {
      activation(a.x, o.x, p.x_unit);
      projection(a.B, o.B, p.B_unit);
    }
    if (turn.advance) return;
    activation(b.dy, o.dy, p.dy_unit);
    if (a.z.data != nullptr) activation(a.z, o.z, p.z_unit);
    projection(a.C, o.C, p.C_unit);
  };
  auto* step = reinterpret_cast<float2*>(shared + o.step);
  auto* dy_gated = reinterpret_cast<float*>(shared + o.dy_gated);
  auto* B_rows = reinterpret_cast<float*>(shared + o.B_rows);
  auto* C_rows = reinterpret_cast<float*>(shared + o.C_rows);
  auto* sums = reinterpret_cast<float*>(shared + o.sums);
  auto* tile_states = reinterpret_cast<float*>(shared + o.states);
  auto* d_projection = reinterpret_cast<float*>(shared + o.d_projection);
  const auto quad_of = [&](const char* tile, int row, float(&to)[4]) {
    Load<4>(reinterpret_cast<const T*>(tile) + row * kChannels + quad, to);
  };
  const auto interval_at = [&](const Turn& turn, int row) {
    return a.interval == nullptr ? 1.0f : a.interval[segment.row + turn.row + row];
  };

  const int projection_quads = p.width / 4;
  const int projection_rows = threads / projection_quads;  // prepared at a time
  const int projection_row = tid / projection_quads;
  const int projection_column = tid % projection_quads * 4;

  // Rows that the tile and channels that the block lacks become ones that change nothing.
  const auto prepare = [&](const Turn& turn, int stage) {
    const char* from = shared + stage * o.stage;
    for (int i = tid; i < kRows * kQuads; i += threads) {
      const int row = i / kQuads;
      float t[4] = {}, v[4] = {}, g[4] = {};
      if (row < turn.rows) {
        float dt[4];
        quad_of(from + o.dt, row, dt);
        const float interval = interval_at(turn, row);
#pragma unroll
        for (int k = 0; k < 4; ++k) t[k] = Softplus(dt[k] + bias[k]) * interval;
        if (!kGradientsOnly) {
          quad_of(from + o.x, row, v);
#pragma unroll
          for (int k = 0; k < 4; ++k) v[k] *= t[k];
        }
        if (!turn.advance) {
          quad_of(from + o.dy, row, g);
          if (a.z.data != nullptr) {
            float z[4];
            quad_of(from + o.z, row, z);
#pragma unroll
            for (int k = 0; k < 4; ++k) g[k] *= z[k] * Sigmoid(z[k]);
          }
        }
      }
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (quad + k >= count) t[k] = v[k] = g[k] = 0;
      }
      // Each thread replaces what it alone read of the tile before, in finish.
      float4* to = reinterpret_cast<float4*>(step + row * kChannels + quad);
      to[0] = {t[0], v[0], t[1], v[1]};
      to[1] = {t[2], v[2], t[3], v[3]};
      if (!turn.advance) {
        *reinterpret_cast<float4*>(dy_gated + row * kChannels + quad) = {g[0], g[1], g[2], g[3]};
      }
    }
    // Four columns at a time, which stay the same ones in every row.
    if (tid >= projection_rows * projection_quads) return;
    for (int row = projection_row; row < kRows; row += projection_rows) {
      const int at = row * projection_stride;
      const int end = row < turn.rows ? columns : 0;
      float four[4];
      if (!kGradientsOnly) {
        LoadFour(from + o.B + at, projection_column, end, a.B.dtype, four);
        Store<4>(four, B_rows + row * p.width + projection_column);
      }
      if (turn.advance) continue;
      LoadFour(from + o.C + at, projection_column, end, a.B.dtype, four);
      if (kComplex) {
#pragma unroll
        for (int k = 0; k < 4; ++k) four[k] *= k % 2 == 0 ? 2.0f : -2.0f;
      }
      Store<4>(four, C_rows + row * p.width + projection_column);
    }
  };

  // What a tile's rows give to x, dt and z, from the sums over states.
  const auto finish = [&](const Turn& turn, int stage) {
    const char* from = shared + stage * o.stage;
    for (int i = tid; i < kRows * kQuads; i += threads) {
      const int row = i / kQuads;
      // All lanes take part in the sum over channels below.
      float d_interval = 0;
      if (row < turn.rows) {
        float s[kSums][4] = {};
        for (int q = 0; q < p.parts; ++q) {
#pragma unroll
          for (int k = 0; k < kSums; ++k) {
            const float4 sum = *reinterpret_cast<const float4*>(
                sums + ((k * p.parts + q) * kRows + row) * kChannels + quad);
            s[k][0] += sum.x;
            s[k][1] += sum.y;
            s[k][2] += sum.z;
            s[k][3] += sum.w;
          }
        }
        const int64_t global_row = segment.row + turn.row + row;
        if (p.slice_sums != nullptr) {
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            if (quad + k >= count) continue;
            float* kept = p.slice_sums + (global_row * a.channels + channel0 + quad + k) * kSums;
#pragma unroll
            for (int j = 0; j < kSums; ++j) {
              if (p.slice > 0) s[j][k] += kept[j];
              if (!p.last_slice) kept[j] = s[j][k];
            }
          }
        }
        if (p.last_slice) {
          float x[4], dt[4], dy[4], z[4] = {};
          quad_of(from + o.x, row, x);
          quad_of(from + o.dt, row, dt);
          quad_of(from + o.dy, row, dy);
          if (a.z.data != nullptr) quad_of(from + o.z, row, z);
          const float4 g4 = *reinterpret_cast<const float4*>(dy_gated + row * kChannels + quad);
          const float g[4] = {g4.x, g4.y, g4.z, g4.w};
          const float4* steps = reinterpret_cast<const float4*>(step + row * kChannels + quad);
          const float t[4] = {steps[0].x, steps[0].z, steps[1].x, steps[1].z};
          const float interval = interval_at(turn, row);
          float dx[4], ddt[4], dz[4];
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            const bool given = quad + k < count;
            dx[k] = fmaf(s[0][k], t[k], skip[k] * g[k]);
            const float dt_step = fmaf(s[0][k], x[k], s[1][k]);
            const float u = dt[k] + bias[k];
            ddt[k] = dt_step * interval * Sigmoid(u);
            if (given) {
              dD[k] = fmaf(g[k], x[k], dD[k]);
              dbias[k] += ddt[k];
              if (p.d_interval != nullptr) d_interval = fmaf(dt_step, Softplus(u), d_interval);
            }
            const float y = fmaf(skip[k], x[k], s[2][k]);
            const float sigmoid = Sigmoid(z[k]);
            dz[k] = dy[k] * y * sigmoid * fmaf(z[k], 1.0f - sigmoid, 1.0f);
          }
          const auto write = [&](const float(&values)[4], const Rows& to) {
            if (to.data == nullptr) return;
            T* at = static_cast<T*>(to.data) + global_row * to.stride + channel0 + quad;
            if (quad + 4 <= count && reinterpret_cast<uintptr_t>(at) % (4 * sizeof(T)) == 0) {
              Store<4>(values, at);
            } else {
#pragma unroll
              for (int k = 0; k < 4; ++k) {
                if (quad + k < count) at[k] = FromFloat<T>(values[k]);
              }
            }
          };
          write(dx, b.dx);
          write(ddt, b.ddt);
          write(dz, b.dz);
        }
      }
      if (p.d_interval != nullptr && p.last_slice) {
        // kQuads lanes that follow each other have one row.
#pragma unroll
        for (int distance = kQuads / 2; distance > 0; distance /= 2) {
          d_interval += __shfl_xor_sync(0xffffffffu, d_interval, distance);
        }
        if (quad == 0 && row < turn.rows) {
          p.d_interval[block * a.rows + segment.row + turn.row + row] = d_interval;
        }
      }
    }
    if (p.d_projection != nullptr) {
      // [row][dB, dC][width], four columns at a time.
      for (int line = projection_row; line < turn.rows * 2; line += projection_rows) {
        if (tid >= projection_rows * projection_quads) break;
        float sum[4] = {};
#pragma unroll
        for (int half = 0; half < kChannels / 32; ++half) {
          const float4 part_sum = *reinterpret_cast<const float4*>(
              d_projection + half * kRows * 2 * p.width + line * p.width + projection_column);
          sum[0] += part_sum.x;
          sum[1] += part_sum.y;
          sum[2] += part_sum.z;
          sum[3] += part_sum.w;
        }
        const int64_t global_row = segment.row + turn.row + line / 2;
        float* to = p.d_projection + ((block * a.rows + global_row) * 2 + line % 2) * components +
                    p.slice + projection_column;
        if (components % 4 == 0) {
          *reinterpret_cast<float4*>(to) = {sum[0], sum[1], sum[2], sum[3]};
        } else {
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            if (projection_column + k < columns) to[k] = sum[k];
          }
        }
      }
    }
  };

  // One row forwards, from h_before to h_after; the decay is kept.
  const auto advance = [&](float t, float v, const float4& B, const float(&before)[kCount],
                           float(&after)[kCount], float(&decays)[kCount]) {
    const float B4[kCount] = {B.x, B.y, B.z, B.w};
    if constexpr (kComplex) {
#pragma unroll
      for (int i = 0; i < kCount; i += 2) {
        const Decay<true> decay(t, rate + i);
        decays[i] = decay.re;
        decays[i + 1] = decay.im;
        const float re = fmaf(decay.re, before[i], -decay.im * before[i + 1]);
        const float im = fmaf(decay.re, before[i + 1], decay.im * before[i]);
        after[i] = fmaf(v, B4[i], re);
        after[i + 1] = fmaf(v, B4[i + 1], im);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        decays[i] = Decay<false>(t, rate + i).re;
        after[i] = fmaf(decays[i], before[i], v * B4[i]);
      }
    }
  };
  const auto four = [](const float* from) { return *reinterpret_cast<const float4*>(from); };

  const int64_t tile_turns = [&]() -> int64_t {
    if (segment.rows == 0) return 0;
    const int64_t full = (segment.rows - 1) / kChunkRows;
    const int last = static_cast<int>((segment.rows - full * kChunkRows + kRows - 1) / kRows);
    return full * TurnsOf<kGradientsOnly>(kTilesPerChunk) + TurnsOf<kGradientsOnly>(last);
  }();
  const auto turn_at = [&](int64_t i) { return TurnAt<kGradientsOnly>(i, segment.rows); };

  if (tile_turns > 0) {
    copy(turn_at(0), 0);
    CommitCopies();
    WaitForCopies<0>();
    __syncthreads();
    prepare(turn_at(0), 0);
    if (tile_turns > 1) copy(turn_at(1), 1);
    CommitCopies();
    __syncthreads();
  }
  for (int64_t i = 0; i < tile_turns; ++i) {
    const Turn turn = turn_at(i);
    const float* B = B_rows + part * kCount;
    const float* C = C_rows + part * kCount;
    if (kGradientsOnly) {
      for (int row = kRows - 1; row >= 0; --row) {
        const float t = step[row * kChannels + c].x;
        const float g = dy_gated[row * kChannels + c];
        const float4 C4 = four(C + row * p.width);
        time += t;
        G[0] = fmaf(C4.x, g, G[0]);
        G[1] = fmaf(C4.y, g, G[1]);
        G[2] = fmaf(C4.z, g, G[2]);
        G[3] = fmaf(C4.w, g, G[3]);
        if constexpr (kComplex) {
#pragma unroll
          for (int k = 0; k < kCount; k += 2) {
            const Decay<true> decay(t, rate + k);
            const float re = fmaf(decay.re, G[k], decay.im * G[k + 1]);
            G[k + 1] = fmaf(decay.re, G[k + 1], -decay.im * G[k]);
            G[k] = re;
          }
        } else {
#pragma unroll
          for (int k = 0; k < kCount; ++k) G[k] *= Decay<false>(t, rate + k).re;
        }
      }
    } else if (turn.advance) {
      if (turn.tile == 0) load(b.chunk_states, segment.chunk + turn.chunk, h);
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        const float2 s = step[row * kChannels + c];
        float decays[kCount];
        advance(s.x, s.y, four(B + row * p.width), h, h, decays);
      }
#pragma unroll
      for (int k = 0; k < kCount; ++k) tile_states[(turn.tile * kCount + k) * threads + tid] = h[k];
    } else {
      float before[kCount];
      if (turn.tile == 0) {
        load(b.chunk_states, segment.chunk + turn.chunk, before);
      } else {
#pragma unroll
        for (int k = 0; k < kCount; ++k) {
          before[k] = tile_states[((turn.tile - 1) * kCount + k) * threads + tid];
        }
      }
      float states[kRows][kCount], decays[kRows][kCount];
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        const float2 s = step[row * kChannels + c];
        advance(s.x, s.y, four(B + row * p.width), row == 0 ? before : states[row - 1], states[row],
                decays[row]);
      }
      // [row][dB, dC][number]: what SumOverLanes takes.
      float values[kRows * 2 * kCount];
      float row_sums[kRows][kSums];
#pragma unroll
      for (int row = kRows - 1; row >= 0; --row) {
        const float2 s = step[row * kChannels + c];
        const float g = dy_gated[row * kChannels + c];
        const float4 B4 = four(B + row * p.width);
        const float4 C4 = four(C + row * p.width);
        const float Bs[kCount] = {B4.x, B4.y, B4.z, B4.w};
        const float Cs[kCount] = {C4.x, C4.y, C4.z, C4.w};
        const float(&h_before)[kCount] = row == 0 ? before : states[row - 1];
        float dv = 0, dt = 0, y = 0;
#pragma unroll
        for (int k = 0; k < kCount; ++k) {
          G[k] = fmaf(Cs[k], g, G[k]);
          y = fmaf(Cs[k], states[row][k], y);
          dv = fmaf(Bs[k], G[k], dv);
          values[(row * 2) * kCount + k] = G[k] * s.y;
          values[(row * 2 + 1) * kCount + k] = states[row][k] * g;
        }
        if constexpr (kComplex) {
          constexpr float kImaginary = 6.283185307f / 0.6931471806f;  // see ImaginaryRate, RealRate
#pragma unroll
          for (int k = 0; k < kCount; k += 2) {
            const float are = decays[row][k];
            const float aim = decays[row][k + 1];
            // conj(a) · G, and W = conj(h_before) times that.
            const float re = fmaf(are, G[k], aim * G[k + 1]);
            const float im = fmaf(are, G[k + 1], -aim * G[k]);
            const float W_re = fmaf(h_before[k], re, h_before[k + 1] * im);
            const float W_im = fmaf(h_before[k], im, -h_before[k + 1] * re);
            dA[k] = fmaf(s.x, W_re, dA[k]);
            dA[k + 1] = fmaf(s.x, W_im, dA[k + 1]);
            dt = fmaf(rate[k], W_re, dt);
            dt = fmaf(rate[k + 1] * kImaginary, W_im, dt);
            G[k] = re;
            G[k + 1] = im;
          }
        } else {
#pragma unroll
          for (int k = 0; k < kCount; ++k) {
            G[k] *= decays[row][k];
            const float W = G[k] * h_before[k];
            dA[k] = fmaf(s.x, W, dA[k]);
            dt = fmaf(rate[k], W, dt);
          }
        }
        row_sums[row][0] = dv;
        row_sums[row][1] = dt * 0.6931471806f;
        row_sums[row][2] = y;
        // Written some rows at a time: after a store to shared memory the next rows' loads wait.
        if (row % kTogether != 0) continue;
#pragma unroll
        for (int later = row; later < row + kTogether; ++later) {
#pragma unroll
          for (int k = 0; k < kSums; ++k) {
            sums[((k * p.parts + part) * kRows + later) * kChannels + c] = row_sums[later][k];
          }
        }
      }
      if (p.d_projection != nullptr) {
        SumOverLanes(values);
        const int lane = tid % 32;
        // Value i is [row][which][number] of this part.
        float* to = d_projection + (c / 32) * kRows * 2 * p.width + part * kCount;
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          const int value = 2 * lane + k;
          to[value / kCount * p.width + value % kCount] = values[k];
        }
      }
    }
    WaitForCopies<0>();
    __syncthreads();
    if (!kGradientsOnly && !turn.advance) {
      finish(turn, static_cast<int>(i & 1));
    }
    if (i + 1 < tile_turns) prepare(turn_at(i + 1), static_cast<int>((i + 1) & 1));
    __syncthreads();
    if (i + 2 < tile_turns) copy(turn_at(i + 2), static_cast<int>(i & 1));
    CommitCopies();
  }

  if (kGradientsOnly) {
    store(G, p.added, index);
    if (part == 0 && owns) p.time[index * a.channels + channel] = time;
    return;
  }
  if (segment.first && b.dh0 != nullptr) store(G, b.dh0, segment.sequence);
  if (p.dA != nullptr) store(dA, p.dA, index);
  if (!p.last_slice || (p.dD == nullptr && p.d_dt_bias == nullptr)) return;
  // Threads of one quad: every kQuads-th. Their sums meet in shared memory, and one adds them.
  __syncthreads();
  float* all = sums;  // [threads][8]
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    all[tid * 8 + k] = dD[k];
    all[tid * 8 + 4 + k] = dbias[k];
  }
  __syncthreads();
  if (tid >= kQuads) return;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    if (quad + k >= count) continue;
    float sum_D = 0;
    float sum_bias = 0;
    for (int other = tid; other < threads; other += kQuads) {
      sum_D += all[other * 8 + k];
      sum_bias += all[other * 8 + 4 + k];
    }
    const int64_t at = index * a.channels + channel0 + quad + k;
    if (p.dD != nullptr) p.dD[at] = sum_D;
    if (p.d_dt_bias != nullptr) p.d_dt_bias[at] = sum_bias;
  }
}

// dB and dC: sums over the blocks of each group.
template <bool kComplex>
__global__ void ProjectionGradientKernel(const __grid_constant__ Plan p) {
  const SelectiveScanArguments& a = p.b.forward;
  const int64_t components = a.components();
  const int64_t width = 2 * components;
  const int64_t all = a.rows * a.groups * width;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < all;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t column = i % width;
    const int64_t row = i / width % a.rows;
    const int64_t group = i / width / a.rows;
    const float* from =
        p.d_projection + (group * p.blocks_per_group * a.rows + row) * width + column;
    float sum = 0;
#pragma unroll 4
    for (int64_t block = 0; block < p.blocks_per_group; ++block) {
      sum += from[block * a.rows * width];
    }
    const bool of_C = column >= components;
    const int64_t n = of_C ? column - components : column;
    if (kComplex && of_C) sum *= n % 2 == 0 ? 2.0f : -2.0f;
    const Rows& to = of_C ? p.b.dC : p.b.dB;
    if (to.data != nullptr) {
      StoreOne(sum, to.data, row * to.stride + group * components + n, to.dtype);
    }
  }
}

template <class T, bool kComplex>
void Launch(Context& context, const SelectiveScanBackwardArguments& b) {
  const SelectiveScanArguments& a = b.forward;
  Plan plan = {};
  plan.b = b;
  const int64_t components = a.components();
  const int64_t group_channels = a.channels / a.groups;
  plan.blocks_per_group = (group_channels + kChannels - 1) / kChannels;
  const int64_t blocks = a.groups * plan.blocks_per_group;
  constexpr int64_t kSlice = kMostParts * kCount;
  const int64_t activation_step = a.groups > 1 ? group_channels : kChannels;
  const int64_t projection_step = a.groups > 1 ? components : kSlice;
  plan.x_unit = UnitOf(a.x, activation_step);
  plan.dt_unit = UnitOf(a.dt, activation_step);
  plan.z_unit = UnitOf(a.z, activation_step);
  plan.dy_unit = UnitOf(b.dy, activation_step);
  plan.B_unit = UnitOf(a.B, projection_step);
  plan.C_unit = UnitOf(a.C, projection_step);
  const int64_t rows = a.rows;

  const SegmentPlan cut = PlanSegments(a, blocks, 4 * context.multiprocessors());
  const auto segments = static_cast<int64_t>(cut.segments.size());
  plan.segments = TableOf(context, cut.segments);

  // Launches `kernel` for every slice of the states.
  const auto run = [&](auto kernel) {
    for (plan.slice = 0; plan.slice < components; plan.slice += kSlice) {
      const int64_t numbers = std::min(kSlice, components - plan.slice);
      plan.parts = static_cast<int>((numbers + kCount - 1) / kCount);
      plan.width = plan.parts * kCount;
      plan.last_slice = plan.slice + kSlice >= components;
      const Offsets o = OffsetsOf<T>(plan.parts, plan.width, a.B.dtype == DType::kF32 ? 4 : 2);
      Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, o.total),
            "selective_scan backward's shared memory");
      kernel<<<static_cast<unsigned>(segments * blocks), kChannels * plan.parts,
               static_cast<size_t>(o.total), context.stream()>>>(plan);
      CheckLaunch("selective_scan backward");
    }
  };

  const int64_t state_bytes = segments * a.channels * components * 4;
  const int64_t channel_bytes = segments * a.channels * 4;
  const Scratch carried(context, cut.one_pass ? 0 : state_bytes);
  const Scratch time(context, cut.one_pass ? 0 : channel_bytes);
  if (!cut.one_pass) {
    plan.added = carried.data<float>();
    plan.time = time.data<float>();
    run(ScanBackwardKernel<T, kComplex, true>);
    CombineGradients(context, b, cut, plan.time, plan.added);
    plan.first = carried.data<float>();
  }

  const bool projections = b.dB.data != nullptr || b.dC.data != nullptr;
  const Scratch slice_sums(context, components > kSlice ? rows * a.channels * kSums * 4 : 0);
  const Scratch dA(context, b.dA != nullptr ? state_bytes : 0);
  const Scratch dD(context, b.dD != nullptr ? channel_bytes : 0);
  const Scratch dbias(context, b.d_dt_bias != nullptr ? channel_bytes : 0);
  const Scratch d_projection(context, projections ? blocks * rows * 2 * components * 4 : 0);
  const Scratch d_interval(context, b.d_interval != nullptr ? blocks * rows * 4 : 0);
  if (components > kSlice) plan.slice_sums = slice_sums.data<float>();
  if (b.dA != nullptr) plan.dA = dA.data<float>();
  if (b.dD != nullptr) plan.dD = dD.data<float>();
  if (b.d_dt_bias != nullptr) plan.d_dt_bias = dbias.data<float>();
  if (projections) plan.d_projection = d_projection.data<float>();
  if (b.d_interval != nullptr) plan.d_interval = d_interval.data<float>();
  run(ScanBackwardKernel<T, kComplex, false>);

  const int64_t columns = a.channels * components;
  if (b.dA != nullptr) AddColumnSums(context, plan.dA, segments, columns, columns, b.dA);
  if (b.dD != nullptr) AddColumnSums(context, plan.dD, segments, a.channels, a.channels, b.dD);
  if (b.d_dt_bias != nullptr) {
    AddColumnSums(context, plan.d_dt_bias, segments, a.channels, a.channels, b.d_dt_bias);
  }
  constexpr int64_t kThreads = 256;
  if (projections && rows > 0) {
    const int64_t all = rows * a.groups * 2 * components;
    const int64_t grid = std::min<int64_t>((all + kThreads - 1) / kThreads, 1 << 20);
    ProjectionGradientKernel<kComplex>
        <<<static_cast<unsigned>(grid), kThreads, 0, context.stream()>>>(plan);
    CheckLaunch("selective_scan's dB and dC");
  }
  if (b.d_interval != nullptr && rows > 0) {
    const auto bytes = static_cast<size_t>(rows) * sizeof(float);
    Check(cudaMemsetAsync(b.d_interval, 0, bytes, context.stream()), "clear");
    AddColumnSums(context, plan.d_interval, blocks, rows, rows, b.d_interval);
  }
}

}  // namespace

void SelectiveScanBackward(const SelectiveScanBackwardArguments& b) {
  const SelectiveScanArguments& a = b.forward;
  if (a.sequences == 0 || a.channels == 0) return;
  const ProfilerRange range("selective_scan backward");
  Context& context = ContextOf(a.device);
  CheckStates(a);
  if (HasSixteenStates(a) && HasRoomForBackwardSixteen(context)) {
    return SelectiveScanBackwardSixteen(context, b);
  }
  VisitActivation(a.x.dtype, [&](auto type) {
    using T = decltype(type);
    if (a.is_complex) {
      Launch<T, true>(context, b);
    } else {
      Launch<T, false>(context, b);
    }
  });
}

}  // namespace adder::cuda
