// selective_scan on CUDA, backward, for up to 16 real states.
//
// A warp owns 16 channels, a lane half the states of one. It walks back over a segment, chunk after
// chunk (of kChunkRows rows, each from its saved state): a sweep forward finds the state before
// each tile of kRows rows, and then tile by tile from the last to the first a tile's decays and
// states are computed once more, into registers, and the gradient of the state is carried through
// them:
//
//     G += C · dy',  dC = h · dy',  dB = G · v,  dv = Σ G · B,  W = a · G · h_before,
//     dA += t · W,  dt = Σ A · W,  G = a · G
//
// with t = dt', v = t · x, a = exp(t · A), dy' = dy · silu(z). Of two rows that follow each other
// one lane of a channel prepares and finishes the first and the other the second.
//
// dB and dC are sums over channels. The tensor cores form them: the terms of a row are a matrix
// [channels, terms] in shared memory, and its transpose times a matrix whose one column of ones is
// the row's number adds up all channels of a warp into that row's column of the result. The terms
// are rounded to bf16 for that where dB and dC are bf16, whose own rounding hides it; otherwise
// they are split into two or three bf16 numbers that carry all their digits. Warps are added in a
// block, blocks by one last kernel: no atomics, the same bits in every run.
//
// Where channels and sequences do not fill the device, segments of rows are found their last
// gradients of the state first, as the forward does with states. Where they fill it more than once,
// but its last turn badly, sequences are cut into segments that are done one after the other: a
// block waits for the one that does the rows behind its own, which began a turn before.
#include <algorithm>
#include <utility>
#include <vector>

#include "adder/backend/cuda/column_sums.cuh"
#include "adder/ops/selective_scan/selective_scan_16_cuda.cuh"

namespace adder::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kWarpChannels = 16;
constexpr int kChannels = kWarps * kWarpChannels;  // of a block
constexpr int kBlocks = 2;                         // of a multiprocessor, at a time
constexpr int kStates = kSixteen / 2;              // of a lane
constexpr int kRows = 8;                           // of a tile
constexpr int kTiles = static_cast<int>(kChunkRows) / kRows;
constexpr int kBatch = 4;             // rows whose terms of dB and dC are summed together
constexpr int kTerms = 2 * kSixteen;  // of a row and channel: of dB, then of dC
constexpr int kSums = 3;              // over states: dv, dt, y
constexpr int kOwnRows = kRows / 2;   // of a tile, prepared and finished by one lane of a channel
constexpr float kLn2 = 0.6931471806f;

struct Plan {
  SelectiveScanBackwardArguments b;
  const Segment* segments;
  int64_t blocks_per_group;
  const float* first;  // [segments, D, N]: gradient of a segment's last state, or null: dhT
  // Where segments are done one after the other, otherwise null: the gradient that a sequence's
  // segment hands on to the one before, [sequences, D, N], and how many of them have, [sequences,
  // blocks].
  float* handed_on;
  unsigned* done;
  float* d_projection;  // [blocks, rows, kTerms]: dB, dC
  float* dA;            // [segments, D, N] partial sums; these and the following may be null
  float* dD;            // [segments, D]
  float* d_dt_bias;     // [segments, D]
  float* d_interval;    // [blocks · kWarps, rows]
  int x_unit, dt_unit, z_unit, dy_unit;
  bool B_in_fours, C_in_fours;
};

template <class T, int kSplits>
struct Tiles {
  T x[kChunkRows][kChannels];
  T dt[kChunkRows][kChannels];
  T z[kChunkRows][kChannels];
  T dy[kChunkRows][kChannels];
  // The state before each tile, [2][32] quads of a warp's lanes; once the tile is done the sums of
  // its terms over the warp's channels, [kRows][kTerms] floats.
  float4 slots[kTiles][kWarps][2][32];
  // [kBatch][channel][kTerms], in pieces of 16 bytes whose places are changed so that eight lanes
  // always find eight different banks: see Piece.
  uint4 terms[kSplits][kWarps][kBatch][kWarpChannels][4];
};
static_assert(sizeof(float4) * 2 * 32 == sizeof(float) * kRows * kTerms);

__device__ inline int Piece(int channel, int piece) { return piece ^ (channel / 2 & 3); }

// What a row of a channel is computed with.
struct Step {
  float t;         // dt'
  float v;         // dt' · x
  float g;         // dy'
  float softplus;  // dt' before the interval
};

__device__ inline void LoadTransposed(const uint4* from, uint32_t (&to)[4]) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(from));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}

// sums += a · b, of shapes [16, 16] and [16, 8]; both registers of b are `b`.
__device__ inline void MultiplyAdd(float (&sums)[4], const uint32_t (&a)[4], uint32_t b) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %8}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b));
}

// Eight numbers as bf16; what rounding took is left in them.
__device__ inline uint4 TakeRounded(float (&values)[kStates]) {
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __nv_bfloat162 two = __floats2bfloat162_rn(values[2 * i], values[2 * i + 1]);
    words[i] = *reinterpret_cast<const uint32_t*>(&two);
    values[2 * i] -= __uint_as_float(words[i] << 16);
    values[2 * i + 1] -= __uint_as_float(words[i] & 0xffff0000u);
  }
  return {words[0], words[1], words[2], words[3]};
}

__device__ inline void Unpack(const float4& low, const float4& high, float (&to)[kStates]) {
  to[0] = low.x;
  to[1] = low.y;
  to[2] = low.z;
  to[3] = low.w;
  to[4] = high.x;
  to[5] = high.y;
  to[6] = high.z;
  to[7] = high.w;
}
__device__ inline void EightOf(const float* from, float (&to)[kStates]) {
  const auto* quads = reinterpret_cast<const float4*>(from);
  Unpack(quads[0], quads[1], to);
}

template <class T>
__device__ inline T* OutputAt(const Rows& rows, int64_t row, int64_t channel) {
  return rows.data == nullptr ? nullptr : static_cast<T*>(rows.data) + row * rows.stride + channel;
}

// Whether another block has counted up to `count`. Blocks begin in their order, and the one that is
// waited for comes before: it runs or has run.
__device__ inline void AwaitCount(const unsigned* counter, unsigned count) {
  if (threadIdx.x == 0) {
    unsigned value = 0;
    do {
      asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
    } while (value != count);
  }
  __syncthreads();
}
// After all of the block's stores.
__device__ inline void SetCount(unsigned* counter, unsigned count) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(counter), "r"(count) : "memory");
  }
}

// kSplits: bf16 numbers that a term of dB or dC is split into.
template <class T, int kSplits, bool kGated>
__global__ void __launch_bounds__(kThreads, kBlocks)
    ScanBackwardKernel(const __grid_constant__ Plan p) {
  extern __shared__ __align__(16) char shared[];
  // Of their own, so that the compiler knows what other stores to shared memory leave alone.
  __shared__ float B_rows[kChunkRows][kSixteen];
  __shared__ float C_rows[kChunkRows][kSixteen];
  __shared__ Step steps[kWarps][kRows][kWarpChannels];
  __shared__ float intervals[kChunkRows];
  auto& tiles = *reinterpret_cast<Tiles<T, kSplits>*>(shared);
  const SelectiveScanBackwardArguments& b = p.b;
  const SelectiveScanArguments& a = b.forward;
  const Place place = PlaceOf<kChannels>(a, p.segments, p.blocks_per_group);
  const Segment& segment = place.segment;
  const int tid = static_cast<int>(threadIdx.x);
  const int warp = tid / 32;
  const int lane = tid % 32;
  const int half = lane / kWarpChannels;  // which states, and which of two rows
  const int w = lane % kWarpChannels;
  const int c = warp * kWarpChannels + w;
  const bool owns = c < place.count;
  const int64_t channel = place.channel0 + c;
  const auto states = static_cast<int>(a.states);
  const int state0 = half * kStates;

  // This lane's states of its channel in [index, D, N].
  const auto load = [&](const float* from, int64_t index, float(&to)[kStates]) {
    const float* own = from + (index * a.channels + channel) * states + state0;
    if (owns && states == kSixteen) return EightOf(own, to);
#pragma unroll
    for (int k = 0; k < kStates; ++k) to[k] = owns && state0 + k < states ? own[k] : 0.0f;
  };
  const auto store = [&](const float(&from)[kStates], float* to, int64_t index) {
    float* own = to + (index * a.channels + channel) * states + state0;
#pragma unroll
    for (int k = 0; k < kStates; ++k) {
      if (owns && state0 + k < states) own[k] = from[k];
    }
  };

  float rate[kStates], G[kStates] = {}, dA[kStates] = {};
  load(a.A, 0, rate);
#pragma unroll
  for (int k = 0; k < kStates; ++k) rate[k] = RealRate(rate[k]);
  const auto counter = [&] {
    const int64_t blocks = a.groups * p.blocks_per_group;
    return p.done + segment.sequence * blocks + blockIdx.x % blocks;
  };
  if (p.first != nullptr) {
    load(p.first, place.index, G);
  } else if (!segment.last) {
    AwaitCount(counter(), static_cast<unsigned>(segment.after));
    // Past the first level's cache, which may hold what another segment handed on.
    const float* own = p.handed_on + (segment.sequence * a.channels + channel) * states + state0;
#pragma unroll
    for (int k = 0; k < kStates; ++k) G[k] = owns && state0 + k < states ? __ldcg(own + k) : 0.0f;
  } else if (b.dhT != nullptr) {
    load(b.dhT, segment.sequence, G);
  }
  const float bias = owns && a.dt_bias != nullptr ? a.dt_bias[channel] : 0.0f;
  const float skip = owns && a.D != nullptr ? a.D[channel] : 0.0f;
  float dD = 0;
  float dbias = 0;

  for (int64_t chunk = (segment.rows - 1) / kChunkRows; segment.rows > 0 && chunk >= 0; --chunk) {
    const int64_t row0 = segment.row + chunk * kChunkRows;
    const int rows = static_cast<int>(min(kChunkRows, segment.rows - chunk * kChunkRows));
    const int tile_count = (rows + kRows - 1) / kRows;
    __syncthreads();  // the chunk before has been read
    const auto copy = [&](const Rows& from, T(&to)[kChunkRows][kChannels], int unit) {
      CopyTile<kThreads>(to, static_cast<const T*>(from.data) + row0 * from.stride + place.channel0,
                         from.stride, rows, place.count, unit);
    };
    copy(a.x, tiles.x, p.x_unit);
    copy(a.dt, tiles.dt, p.dt_unit);
    copy(b.dy, tiles.dy, p.dy_unit);
    if (kGated) copy(a.z, tiles.z, p.z_unit);
    CommitCopies();
    if (tid < kChunkRows) {
      intervals[tid] = a.interval != nullptr && tid < rows ? a.interval[row0 + tid] : 1.0f;
    }
    {
      constexpr int kQuads = kTerms / 4;  // of a row
      constexpr int kMine = static_cast<int>(kChunkRows) * kQuads / kThreads;
      const bool of_C = tid % kQuads >= kQuads / 2;
      const int column = tid % (kQuads / 2) * 4;
      const Rows& from = of_C ? a.C : a.B;
      uint4 bits[kMine];
#pragma unroll
      for (int i = 0; i < kMine; ++i) {
        const int row = i * (kThreads / kQuads) + tid / kQuads;
        bits[i] = FetchFour(from, row0 + row, place.group * states, column, row < rows ? states : 0,
                            of_C ? p.C_in_fours : p.B_in_fours);
      }
#pragma unroll
      for (int i = 0; i < kMine; ++i) {
        const int row = i * (kThreads / kQuads) + tid / kQuads;
        float* to = of_C ? C_rows[row] : B_rows[row];
        *reinterpret_cast<float4*>(to + column) = ConvertFour(bits[i], from.dtype);
      }
    }
    AwaitCopies();
    __syncthreads();

    // This lane's rows of a tile: what they are computed with. Those that the chunk or the block
    // lacks change nothing.
    const auto row_of = [&](int tile, int i) { return tile * kRows + 2 * i + half; };
    const auto prepare = [&](int tile, auto with_gradient) {
      float g[kOwnRows] = {};
      if constexpr (with_gradient()) {
#pragma unroll
        for (int i = 0; i < kOwnRows; ++i) g[i] = ToFloat(tiles.dy[row_of(tile, i)][c]);
        if (kGated) {
#pragma unroll
          for (int i = 0; i < kOwnRows; ++i) {
            const float z = ToFloat(tiles.z[row_of(tile, i)][c]);
            g[i] *= z * Sigmoid(z);
          }
        }
      }
#pragma unroll
      for (int i = 0; i < kOwnRows; ++i) {
        const int row = row_of(tile, i);
        const bool exists = owns && row < rows;
        const float softplus = Softplus(ToFloat(tiles.dt[row][c]) + bias);
        const float t = exists ? softplus * intervals[row] : 0.0f;
        const float v = exists ? t * ToFloat(tiles.x[row][c]) : 0.0f;
        steps[warp][2 * i + half][w] = {t, v, exists ? g[i] : 0.0f, softplus};
      }
      __syncwarp();
    };

    const auto keep = [&](int tile, const float(&h)[kStates]) {
      tiles.slots[tile][warp][0][lane] = {h[0], h[1], h[2], h[3]};
      tiles.slots[tile][warp][1][lane] = {h[4], h[5], h[6], h[7]};
    };
    const auto kept = [&](int tile, float(&h)[kStates]) {
      Unpack(tiles.slots[tile][warp][0][lane], tiles.slots[tile][warp][1][lane], h);
    };
    float swept[kStates];
    load(b.chunk_states, segment.chunk + chunk, swept);
    keep(0, swept);
    for (int tile = 0; tile + 1 < tile_count; ++tile) {
      prepare(tile, std::false_type());
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        const Step step = steps[warp][row][w];
        float B[kStates];
        EightOf(&B_rows[tile * kRows + row][state0], B);
#pragma unroll
        for (int k = 0; k < kStates; ++k) {
          swept[k] = fmaf(Exp2(step.t * rate[k]), swept[k], step.v * B[k]);
        }
      }
      keep(tile + 1, swept);
      __syncwarp();  // the steps have been read
    }

    for (int tile = tile_count - 1; tile >= 0; --tile) {
      prepare(tile, std::true_type());
      float h[kRows][kStates], decay[kRows][kStates];
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        const Step step = steps[warp][row][w];
        float B[kStates], before[kStates];
        EightOf(&B_rows[tile * kRows + row][state0], B);
        if (row == 0) kept(tile, before);
#pragma unroll
        for (int k = 0; k < kStates; ++k) {
          decay[row][k] = Exp2(step.t * rate[k]);
          const float last = row == 0 ? before[k] : h[max(row - 1, 0)][k];
          h[row][k] = fmaf(decay[row][k], last, step.v * B[k]);
        }
      }

      float projections[2][4] = {};   // of each half of the states; see MultiplyAdd
      float totals[kOwnRows][kSums];  // of this lane's rows
      float later[kSums];             // of the later one of two rows
#pragma unroll
      for (int row = kRows - 1; row >= 0; --row) {
        const Step step = steps[warp][row][w];
        float B[kStates], C[kStates], dB[kStates], dC[kStates], before[kStates];
        EightOf(&B_rows[tile * kRows + row][state0], B);
        EightOf(&C_rows[tile * kRows + row][state0], C);
        if (row == 0) kept(tile, before);
        float sums[kSums] = {0, 0, 0};
#pragma unroll
        for (int k = 0; k < kStates; ++k) {
          G[k] = fmaf(C[k], step.g, G[k]);
          sums[0] = fmaf(B[k], G[k], sums[0]);
          sums[2] = fmaf(C[k], h[row][k], sums[2]);
          dB[k] = G[k] * step.v;
          dC[k] = h[row][k] * step.g;
          G[k] *= decay[row][k];
          const float W = G[k] * (row == 0 ? before[k] : h[max(row - 1, 0)][k]);
          dA[k] = fmaf(step.t, W, dA[k]);
          sums[1] = fmaf(rate[k], W, sums[1]);
        }
        // A lane gets both lanes' sums of its row of two, and gives its own of the other one.
        if (row % 2 == 1) {
#pragma unroll
          for (int i = 0; i < kSums; ++i) later[i] = sums[i];
        } else {
#pragma unroll
          for (int i = 0; i < kSums; ++i) {
            const float mine = half == 1 ? later[i] : sums[i];
            const float other = half == 1 ? sums[i] : later[i];
            totals[row / 2][i] = mine + __shfl_xor_sync(0xffffffffu, other, kWarpChannels);
          }
        }
#pragma unroll
        for (int s = 0; s < kSplits; ++s) {
          uint4* to = tiles.terms[s][warp][row % kBatch][w];
          to[Piece(w, 2 * half)] = TakeRounded(dB);
          to[Piece(w, 2 * half + 1)] = TakeRounded(dC);
        }
        if (row % kBatch != 0) continue;
        __syncwarp();
#pragma unroll
        for (int r = 0; r < kBatch; ++r) {
          // The column of the row's number: 1 in bf16, twice in a register.
          const uint32_t ones = lane / 4 == row + r ? 0x3f803f80u : 0u;
          const int from = lane / 16 * 8 + lane % 8;  // the channel that this lane addresses
          const int which = lane / 8 % 2;
#pragma unroll
          for (int s = 0; s < kSplits; ++s) {
#pragma unroll
            for (int part = 0; part < 2; ++part) {
              uint32_t words[4];
              LoadTransposed(&tiles.terms[s][warp][r][from][Piece(from, 2 * part + which)], words);
              MultiplyAdd(projections[part], words, ones);
            }
          }
        }
        __syncwarp();  // before the next rows' terms
      }

      // Where the tile's state was are now the sums of its terms: row, then dB or dC, then state.
      float* sums_of_terms = reinterpret_cast<float*>(tiles.slots[tile][warp]);
#pragma unroll
      for (int part = 0; part < 2; ++part) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row = lane % 4 * 2 + i % 2;
          const int term = i / 2 * kSixteen + part * kStates + lane / 4;
          sums_of_terms[row * kTerms + term] = projections[part][i];
        }
      }

      float of_interval[kOwnRows], d_gate[kOwnRows] = {};
      if (kGated) {
#pragma unroll
        for (int i = 0; i < kOwnRows; ++i) {
          const int row = row_of(tile, i);
          const float z = ToFloat(tiles.z[row][c]);
          const float sigmoid = Sigmoid(z);
          const float y = fmaf(skip, ToFloat(tiles.x[row][c]), totals[i][2]);
          d_gate[i] = ToFloat(tiles.dy[row][c]) * y * sigmoid * fmaf(z, 1.0f - sigmoid, 1.0f);
        }
      }
      const int64_t first = row0 + row_of(tile, 0);
      T* dx = OutputAt<T>(b.dx, first, channel);
      T* ddt = OutputAt<T>(b.ddt, first, channel);
      T* dz = kGated ? OutputAt<T>(b.dz, first, channel) : nullptr;
#pragma unroll
      for (int i = 0; i < kOwnRows; ++i) {
        const int row = row_of(tile, i);
        const bool exists = owns && row < rows;
        const Step step = steps[warp][2 * i + half][w];
        const float x = ToFloat(tiles.x[row][c]);
        const float dv = totals[i][0];
        const float d_t = fmaf(dv, x, totals[i][1] * kLn2);
        const float d_dt = d_t * intervals[row] * Sigmoid(ToFloat(tiles.dt[row][c]) + bias);
        if (exists && dx != nullptr) {
          dx[2 * i * b.dx.stride] = FromFloat<T>(fmaf(dv, step.t, skip * step.g));
        }
        if (exists && ddt != nullptr) ddt[2 * i * b.ddt.stride] = FromFloat<T>(d_dt);
        if (exists && dz != nullptr) dz[2 * i * b.dz.stride] = FromFloat<T>(d_gate[i]);
        dbias += exists ? d_dt : 0.0f;
        dD += exists ? step.g * x : 0.0f;
        of_interval[i] = exists ? d_t * step.softplus : 0.0f;
      }
      if (p.d_interval != nullptr) {
        const int64_t block = blockIdx.x % (a.groups * p.blocks_per_group);
        float* to = p.d_interval + (block * kWarps + warp) * a.rows + row0;
#pragma unroll
        for (int i = 0; i < kOwnRows; ++i) {
#pragma unroll
          for (int distance = kWarpChannels / 2; distance > 0; distance /= 2) {
            of_interval[i] += __shfl_xor_sync(0xffffffffu, of_interval[i], distance);
          }
          if (w == 0 && row_of(tile, i) < rows) to[row_of(tile, i)] = of_interval[i];
        }
      }
      __syncwarp();  // the steps have been read
    }

    __syncthreads();
    const int64_t blocks = a.groups * p.blocks_per_group;
    float* to = p.d_projection + (blockIdx.x % blocks * a.rows + row0) * kTerms;
    for (int i = tid; i < rows * kTerms / 4; i += kThreads) {
      const int tile = i / (kRows * kTerms / 4);
      const int quad = i % (kRows * kTerms / 4);
      float4 sum = {0, 0, 0, 0};
#pragma unroll
      for (int other = 0; other < kWarps; ++other) {
        const float4 four = tiles.slots[tile][other][quad / 32][quad % 32];
        sum.x += four.x;
        sum.y += four.y;
        sum.z += four.z;
        sum.w += four.w;
      }
      *reinterpret_cast<float4*>(to + i * 4) = sum;
    }
  }

  if (segment.first && b.dh0 != nullptr) store(G, b.dh0, segment.sequence);
  if (p.handed_on != nullptr && !segment.first) {
    store(G, p.handed_on, segment.sequence);
    SetCount(counter(), static_cast<unsigned>(segment.after) + 1);
  }
  if (p.dA != nullptr) store(dA, p.dA, place.index);
  dD += __shfl_xor_sync(0xffffffffu, dD, kWarpChannels);
  dbias += __shfl_xor_sync(0xffffffffu, dbias, kWarpChannels);
  if (half != 0 || !owns) return;
  if (p.dD != nullptr) p.dD[place.index * a.channels + channel] = dD;
  if (p.d_dt_bias != nullptr) p.d_dt_bias[place.index * a.channels + channel] = dbias;
}

// What a segment makes of a gradient of zero after its last row, and its Σ dt'. A thread owns a
// channel, as in the forward.
constexpr int kPassChannels = 128;
constexpr int kPassRows = 16;
constexpr int kPassTogether = 4;

struct Pass {
  SelectiveScanBackwardArguments b;
  const Segment* segments;
  int64_t blocks_per_group;
  float* added;  // [segments, D, N]
  float* time;   // [segments, D]
  int dt_unit, z_unit, dy_unit;
  bool C_in_fours;
};

template <class T>
struct PassTiles {
  T dt[2][kPassRows][kPassChannels];
  T z[2][kPassRows][kPassChannels];
  T dy[2][kPassRows][kPassChannels];
  float C[2][kPassRows][kSixteen];
};

template <class T>
__global__ void __launch_bounds__(kPassChannels, 3)
    GradientPassKernel(const __grid_constant__ Pass p) {
  extern __shared__ __align__(16) char shared[];
  auto& tiles = *reinterpret_cast<PassTiles<T>*>(shared);
  const SelectiveScanArguments& a = p.b.forward;
  const Place place = PlaceOf<kPassChannels>(a, p.segments, p.blocks_per_group);
  const Segment& segment = place.segment;
  const int c = static_cast<int>(threadIdx.x);
  const bool owns = c < place.count;
  const int64_t channel = place.channel0 + c;
  const auto states = static_cast<int>(a.states);
  const bool gated = a.z.data != nullptr;
  float rate[kSixteen], G[kSixteen] = {};
#pragma unroll
  for (int n = 0; n < kSixteen; ++n) {
    rate[n] = owns && n < states ? RealRate(a.A[channel * states + n]) : 0.0f;
  }
  const float bias = owns && a.dt_bias != nullptr ? a.dt_bias[channel] : 0.0f;
  const float* interval = a.interval == nullptr ? nullptr : a.interval + segment.row;
  float time = 0;

  const auto rows_at = [&](int64_t tile) {
    return static_cast<int>(min(int64_t{kPassRows}, segment.rows - tile * kPassRows));
  };
  const auto copy = [&](int64_t tile, int stage) {
    const int64_t row = segment.row + tile * kPassRows;
    const auto activation = [&](const Rows& from, T(&to)[kPassRows][kPassChannels], int unit) {
      CopyTile<kPassChannels>(to,
                              static_cast<const T*>(from.data) + row * from.stride + place.channel0,
                              from.stride, rows_at(tile), place.count, unit);
    };
    activation(a.dt, tiles.dt[stage], p.dt_unit);
    activation(p.b.dy, tiles.dy[stage], p.dy_unit);
    if (gated) activation(a.z, tiles.z[stage], p.z_unit);
  };
  // A quad of C for half of the threads.
  const int quad_row = c / (kSixteen / 4);
  const int quad = c % (kSixteen / 4) * 4;
  const auto fetch = [&](int64_t tile) {
    return FetchFour(a.C, segment.row + tile * kPassRows + quad_row, place.group * states, quad,
                     quad_row < rows_at(tile) ? states : 0, p.C_in_fours);
  };
  const auto put = [&](uint4 bits, int stage) {
    if (quad_row >= kPassRows) return;
    *reinterpret_cast<float4*>(&tiles.C[stage][quad_row][quad]) = ConvertFour(bits, a.C.dtype);
  };
  // Rows (row - kCount, row] of a tile, from the last on.
  const auto retreat = [&](auto count, int64_t tile, int stage, int row) {
    constexpr int kCount = decltype(count)::value;
    float t[kCount], g[kCount];
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      t[j] = Softplus(ToFloat(tiles.dt[stage][row - j][c]) + bias);
      g[j] = ToFloat(tiles.dy[stage][row - j][c]);
    }
    if (interval != nullptr) {
#pragma unroll
      for (int j = 0; j < kCount; ++j) t[j] *= interval[tile * kPassRows + row - j];
    }
    if (gated) {
#pragma unroll
      for (int j = 0; j < kCount; ++j) {
        const float z = ToFloat(tiles.z[stage][row - j][c]);
        g[j] *= z * Sigmoid(z);
      }
    }
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const auto* C = reinterpret_cast<const float4*>(tiles.C[stage][row - j]);
#pragma unroll
      for (int q = 0; q < kSixteen / 4; ++q) {
        const float4 C4 = C[q];
        const float Cs[4] = {C4.x, C4.y, C4.z, C4.w};
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          float& gradient = G[q * 4 + k];
          gradient = fmaf(Cs[k], g[j], gradient) * Exp2(t[j] * rate[q * 4 + k]);
        }
      }
      time += t[j];
    }
  };

  const int64_t count = (segment.rows + kPassRows - 1) / kPassRows;
  if (count > 0) {
    copy(count - 1, 0);
    put(fetch(count - 1), 0);
  }
  CommitCopies();
  for (int64_t i = 0; i < count; ++i) {
    const int64_t tile = count - 1 - i;
    const int stage = static_cast<int>(i & 1);
    AwaitCopies();
    __syncthreads();  // the tile is there, and nobody reads the one before any more
    uint4 bits = {};
    if (tile > 0) {
      copy(tile - 1, stage ^ 1);
      bits = fetch(tile - 1);
    }
    CommitCopies();
    int row = rows_at(tile) - 1;
#pragma unroll 1
    for (; row + 1 >= kPassTogether; row -= kPassTogether) {
      retreat(std::integral_constant<int, kPassTogether>(), tile, stage, row);
    }
#pragma unroll 1
    for (; row >= 0; --row) retreat(std::integral_constant<int, 1>(), tile, stage, row);
    if (tile > 0) put(bits, stage ^ 1);
  }
  if (!owns) return;
#pragma unroll
  for (int n = 0; n < kSixteen; ++n) {
    if (n < states) p.added[(place.index * a.channels + channel) * states + n] = G[n];
  }
  p.time[place.index * a.channels + channel] = time;
}

// dB and dC: sums over the blocks of each group. A thread for each four terms of a row.
__global__ void ProjectionGradientKernel(const __grid_constant__ Plan p) {
  const SelectiveScanArguments& a = p.b.forward;
  constexpr int kQuads = kTerms / 4;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t group = blockIdx.y;
  if (i >= a.rows * kQuads) return;
  const auto quad = static_cast<int>(i % kQuads);
  const int64_t row = i / kQuads;
  const float* from = p.d_projection + group * p.blocks_per_group * a.rows * kTerms + i * 4;
  float sums[4] = {0, 0, 0, 0};
#pragma unroll 8
  for (int64_t block = 0; block < p.blocks_per_group; ++block) {
    const float4 four = *reinterpret_cast<const float4*>(from + block * a.rows * kTerms);
    sums[0] += four.x;
    sums[1] += four.y;
    sums[2] += four.z;
    sums[3] += four.w;
  }
  const Rows& to = quad >= kQuads / 2 ? p.b.dC : p.b.dB;
  if (to.data == nullptr) return;
  const int state0 = quad % (kQuads / 2) * 4;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    if (state0 + k >= a.states) continue;
    StoreOne(sums[k], to.data, row * to.stride + group * a.states + state0 + k, to.dtype);
  }
}

__global__ void IntervalGradientKernel(const float* partial, int64_t count, int64_t rows,
                                       float* to) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row >= rows) return;
  float sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += partial[i * rows + row];
  to[row] = sum;
}

template <class Kernel, class Argument>
void Run(Context& context, Kernel kernel, int64_t blocks, int threads, size_t shared_bytes,
         const Argument& argument) {
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shared_bytes)),
        "selective_scan backward's shared memory");
  kernel<<<static_cast<unsigned>(blocks), threads, shared_bytes, context.stream()>>>(argument);
  CheckLaunch("selective_scan backward");
}

// The most rows of a segment where all are done one after the other: the device does `at_a_time`
// blocks at a time, and a turn takes as long as its longest segment.
int64_t RowsOfATurn(const SelectiveScanArguments& a, int64_t blocks, int64_t at_a_time) {
  constexpr int64_t kMostParts = 8;  // of the longest sequence
  constexpr int64_t kSetUp = 12;     // rows that a segment takes as long as to begin and to end
  const int64_t longest = LongestSequence(a);
  int64_t best_rows = longest;
  int64_t best_time = 0;
  for (int64_t parts = 1; parts <= kMostParts; ++parts) {
    const int64_t rows =
        parts == 1 ? longest
                   : (longest + parts * kChunkRows - 1) / (parts * kChunkRows) * kChunkRows;
    int64_t count = 0;
    for (int64_t s = 0; s < a.sequences; ++s) {
      count += std::max<int64_t>(1, (a.offsets[s + 1] - a.offsets[s] + rows - 1) / rows);
    }
    const int64_t turns = (count * blocks + at_a_time - 1) / at_a_time;
    const int64_t time = turns * (std::min(rows, longest) + kSetUp);
    if (parts == 1 || time < best_time) {
      best_rows = rows;
      best_time = time;
    }
  }
  return best_rows;
}

template <int kCount>
using Splits = std::integral_constant<int, kCount>;

template <class T>
void Launch(Context& context, const SelectiveScanBackwardArguments& b) {
  const SelectiveScanArguments& a = b.forward;
  const int64_t group_channels = a.channels / a.groups;
  const int64_t rows = a.rows;
  Plan plan = {};
  plan.b = b;
  plan.blocks_per_group = (group_channels + kChannels - 1) / kChannels;
  const int64_t blocks = a.groups * plan.blocks_per_group;
  // Both kernels' blocks begin at multiples of kChannels.
  const int64_t step = a.groups > 1 ? group_channels : kChannels;
  plan.x_unit = UnitOf(a.x, step);
  plan.dt_unit = UnitOf(a.dt, step);
  plan.z_unit = UnitOf(a.z, step);
  plan.dy_unit = UnitOf(b.dy, step);
  plan.B_in_fours = InFours(a.B, a);
  plan.C_in_fours = InFours(a.C, a);

  const int64_t at_a_time = int64_t{kBlocks} * context.multiprocessors();
  SegmentPlan cut = PlanSegments(a, blocks, at_a_time);
  bool in_turns = false;
  if (cut.one_pass) {
    cut = CutIntoSegments(a, RowsOfATurn(a, blocks, at_a_time));
    in_turns = !std::exchange(cut.one_pass, true);
    if (in_turns) {
      std::stable_sort(cut.segments.begin(), cut.segments.end(),
                       [](const Segment& x, const Segment& y) { return x.after < y.after; });
    }
  }
  const auto segments = static_cast<int64_t>(cut.segments.size());
  plan.segments = TableOf(context, cut.segments);
  const Scratch handed_on(context, in_turns ? a.sequences * a.channels * a.states * 4 : 0);
  const Scratch done(context, in_turns ? a.sequences * blocks * 4 : 0);
  if (in_turns) {
    plan.handed_on = handed_on.data<float>();
    plan.done = done.data<unsigned>();
    Check(cudaMemsetAsync(plan.done, 0, static_cast<size_t>(a.sequences * blocks * 4),
                          context.stream()),
          "clear");
  }

  const int64_t state_bytes = segments * a.channels * a.states * 4;
  const int64_t channel_bytes = segments * a.channels * 4;
  const Scratch carried(context, cut.one_pass ? 0 : state_bytes);
  const Scratch time(context, cut.one_pass ? 0 : channel_bytes);
  if (!cut.one_pass) {
    Pass pass = {};
    pass.b = b;
    pass.segments = plan.segments;
    pass.blocks_per_group = (group_channels + kPassChannels - 1) / kPassChannels;
    pass.added = carried.data<float>();
    pass.time = time.data<float>();
    pass.dt_unit = plan.dt_unit;
    pass.z_unit = plan.z_unit;
    pass.dy_unit = plan.dy_unit;
    pass.C_in_fours = plan.C_in_fours;
    Run(context, GradientPassKernel<T>, segments * a.groups * pass.blocks_per_group, kPassChannels,
        sizeof(PassTiles<T>), pass);
    CombineGradients(context, b, cut, pass.time, pass.added);
    plan.first = pass.added;
  }

  const Scratch dA(context, b.dA != nullptr ? state_bytes : 0);
  const Scratch dD(context, b.dD != nullptr ? channel_bytes : 0);
  const Scratch dbias(context, b.d_dt_bias != nullptr ? channel_bytes : 0);
  const Scratch d_projection(context, blocks * rows * kTerms * 4);
  const Scratch d_interval(context, b.d_interval != nullptr ? blocks * kWarps * rows * 4 : 0);
  if (b.dA != nullptr) plan.dA = dA.data<float>();
  if (b.dD != nullptr) plan.dD = dD.data<float>();
  if (b.d_dt_bias != nullptr) plan.d_dt_bias = dbias.data<float>();
  plan.d_projection = d_projection.data<float>();
  if (b.d_interval != nullptr) plan.d_interval = d_interval.data<float>();
  const auto run = [&](auto splits) {
    const auto kernel = a.z.data == nullptr ? ScanBackwardKernel<T, splits(), false>
                                            : ScanBackwardKernel<T, splits(), true>;
    Run(context, kernel, segments * blocks, kThreads, sizeof(Tiles<T, splits()>), plan);
  };
  // As many digits as the results have; f32's activations come with few other projections.
  const bool wide = a.B.dtype == DType::kF32;
  if constexpr (std::is_same_v<T, float>) {
    run(Splits<3>());
  } else if constexpr (std::is_same_v<T, __half>) {
    wide ? run(Splits<3>()) : run(Splits<2>());
  } else {
    a.B.dtype == DType::kBF16 ? run(Splits<1>()) : run(Splits<3>());
  }

  const int64_t columns = a.channels * a.states;
  if (b.dA != nullptr) AddColumnSums(context, plan.dA, segments, columns, columns, b.dA);
  if (b.dD != nullptr) AddColumnSums(context, plan.dD, segments, a.channels, a.channels, b.dD);
  if (b.d_dt_bias != nullptr) {
    AddColumnSums(context, plan.d_dt_bias, segments, a.channels, a.channels, b.d_dt_bias);
  }
  constexpr int64_t kRowThreads = 256;
  if (rows > 0 && (b.dB.data != nullptr || b.dC.data != nullptr)) {
    const dim3 grid(static_cast<unsigned>((rows * kTerms / 4 + kRowThreads - 1) / kRowThreads),
                    static_cast<unsigned>(a.groups));
    ProjectionGradientKernel<<<grid, kRowThreads, 0, context.stream()>>>(plan);
    CheckLaunch("selective_scan's dB and dC");
  }
  if (b.d_interval != nullptr && rows > 0) {
    IntervalGradientKernel<<<static_cast<unsigned>((rows + kRowThreads - 1) / kRowThreads),
                             kRowThreads, 0, context.stream()>>>(plan.d_interval, blocks * kWarps,
                                                                 rows, b.d_interval);
    CheckLaunch("selective_scan's d_interval");
  }
}

}  // namespace

void SelectiveScanBackwardSixteen(Context& context, const SelectiveScanBackwardArguments& b) {
  VisitActivation(b.forward.x.dtype, [&](auto type) { Launch<decltype(type)>(context, b); });
}

}  // namespace adder::cuda
