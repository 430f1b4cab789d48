// ssd on CUDA, backward within chunks for bf16 and f16, on tensor cores.
//
// Eight warps: warp (r, c) has rows [16r, 16r + 16) of every product and, of its columns, one half;
// of the triangles by rows and rows, every second block of 16 columns. dB, dC and the gradient of
// C·B stay in registers from head to head; x, dy and the state's gradient of the next head are
// under way to shared memory, and its state to registers, while one head is computed.
#include "adder/ops/ssd/ssd_backward_cuda.cuh"
#include "adder/ops/ssd/ssd_tiles.cuh"

namespace adder::cuda::tensor {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kChannels = 64;  // of a head at a time

// Sums over a head, of rows and columns of what warps have.
struct Sums {
  float columns[4][kSsdRows];   // Σ_{t > s} v[t, s], of each row of blocks
  float rows[2][kSsdRows];      // Σ_{s < t} v[t, s] · dt'[s], of both halves of the blocks
  float diagonal[kSsdRows];     // v[t, t]
  float products[kSsdRows];     // dy[t]·x[t]
  float leaving[2][kSsdRows];   // (dh·B[s])·x[s], of both halves of the channels
  float arriving[2][kSsdRows];  // (dy[t]·h)·C[t], of both halves of the states
  float states[kWarps];         // h·dh
};

template <int kN>
struct Layout {
  // More than 128 states leave no room for a second head.
  static constexpr int kStages = kN <= 128 ? 2 : 1;
  static constexpr int kB = 0;
  static constexpr int kC = Tile<kN>::kBytes;
  static constexpr int kState = 2 * Tile<kN>::kBytes;
  static constexpr int kWeights = 3 * Tile<kN>::kBytes;
  static constexpr int kSums = kWeights + kSsdHalfBlocks * 256;
  static constexpr int kFirstStage = kSums + 2 * ((static_cast<int>(sizeof(Sums)) + 15) / 16 * 16);
  // Of a stage: the state's gradient, x, dy, the steps.
  static constexpr int kX = Tile<kN>::kBytes;
  static constexpr int kDy = kX + Tile<kChannels>::kBytes;
  static constexpr int kSteps = kDy + Tile<kChannels>::kBytes;
  static constexpr int kStage = kSteps + kSsdRows * static_cast<int>(sizeof(SsdStep));
  static constexpr int kTotal = kFirstStage + kStages * kStage;
};

struct Pieces {
  bool x, dy, B, C, states, dx;
  bool state_quads;  // f32 states can be read four at a time
};

// The word of a tile that holds columns 8 · piece + 2q and the next of a row.
template <int kColumns>
__device__ uint32_t& Word(char* tile, int row, int piece, int q) {
  return reinterpret_cast<uint32_t*>(tile + Tile<kColumns>::Offset(row, piece))[q];
}
// The sum over the four lanes of a row.
__device__ float RowSum(float value) {
  value += __shfl_xor_sync(0xffffffffu, value, 1);
  return value + __shfl_xor_sync(0xffffffffu, value, 2);
}
// The sum over the eight lanes of a column.
__device__ float ColumnSum(float value) {
  value += __shfl_xor_sync(0xffffffffu, value, 4);
  value += __shfl_xor_sync(0xffffffffu, value, 8);
  return value + __shfl_xor_sync(0xffffffffu, value, 16);
}
// A left operand's rows g and g + 8, times a number each.
template <class T>
__device__ void ScaleRows(float first, float second, uint32_t (&a)[4]) {
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    const float2 two = UnpackTwo<T>(a[e]);
    const float factor = e % 2 == 0 ? first : second;
    a[e] = PackLimited<T>(two.x * factor, two.y * factor);
  }
}

template <class T, int kN>
__global__ void __launch_bounds__(kThreads, 1)
    BackwardKernel(const __grid_constant__ SsdBackwardWork work,
                   const __grid_constant__ Pieces pieces) {
  using At = Layout<kN>;
  constexpr bool kAhead = At::kStages == 2;
  constexpr int kHalf = kN / 2;         // states of a warp
  constexpr int kStateLoads = kN / 16;  // four states each, of a thread
  extern __shared__ __align__(16) char shared[];
  const SsdArguments& a = work.b.forward;
  const int tid = static_cast<int>(threadIdx.x);
  const int lane = tid % 32;
  const int warp = tid / 32;
  const int g = lane / 4;
  const int q = lane % 4;
  const int half = warp / 4;
  // In the second half rows go the other way: the triangle's long and short rows share a scheduler.
  const int row = half == 0 ? warp : 7 - warp;

  const auto P = static_cast<int>(a.head_dim);
  const auto N = static_cast<int>(a.states);
  const auto groups = static_cast<int>(a.groups);
  const auto splits = static_cast<int>(work.splits);
  const int split = static_cast<int>(blockIdx.x) % splits;
  const int group = static_cast<int>(blockIdx.x) / splits % groups;
  const int64_t chunk_index = blockIdx.x / (splits * groups);
  const SsdChunk chunk = work.chunks[chunk_index];
  const int group_heads = static_cast<int>(a.heads) / groups;
  const int first_head = group * group_heads + group_heads * split / splits;
  const int end_head = group * group_heads + group_heads * (split + 1) / splits;
  const int blocks = (P + kChannels - 1) / kChannels;  // of a head's channels
  const int items = (end_head - first_head) * blocks;

  char* B_tile = shared + At::kB;
  char* C_tile = shared + At::kC;
  char* h_tile = shared + At::kState;
  const unsigned weights = SharedAddress(shared + At::kWeights);

  const auto fill = [&](int item) {
    char* stage = shared + At::kFirstStage + item % At::kStages * At::kStage;
    const int head = first_head + item / blocks;
    const int channel = item % blocks * kChannels;
    const int columns = min(P - channel, kChannels);
    FillTile<T, kChannels, kThreads>(stage + At::kX, a.x, chunk.row, chunk.rows,
                                     static_cast<int64_t>(head) * P + channel, columns, pieces.x);
    FillTile<T, kChannels, kThreads>(stage + At::kDy, work.b.dy, chunk.row, chunk.rows,
                                     static_cast<int64_t>(head) * P + channel, columns, pieces.dy);
    const Rows states = {const_cast<void*>(work.state_gradients), N, a.x.dtype};
    FillTile<T, kN, kThreads>(stage, states, (chunk_index * a.heads + head) * P + channel, columns,
                              0, N, pieces.states);
    if (tid < kSsdRows) {
      CopyPiece(SharedAddress(stage + At::kSteps) + static_cast<unsigned>(tid) * 16,
                work.steps + (chunk_index * a.heads + head) * kSsdRows + tid, true);
    }
  };
  // The state before the chunk: a thread's numbers are states 4 · (tid % (kN / 4)) and the next
  // three of some channels.
  constexpr int kQuads = kN / 4;
  constexpr int kStateRows = kThreads / kQuads;  // channels at a time
  const auto load_state = [&](int item, int k) -> float4 {
    const int head = first_head + item / blocks;
    const int channel = item % blocks * kChannels + tid / kQuads + k * kStateRows;
    const int n = tid % kQuads * 4;
    if (channel >= P || n >= N) return {0, 0, 0, 0};
    const float* from =
        work.b.chunk_states + ((chunk_index * a.heads + head) * P + channel) * N + n;
    if (pieces.state_quads) return *reinterpret_cast<const float4*>(from);
    return {from[0], n + 1 < N ? from[1] : 0.0f, n + 2 < N ? from[2] : 0.0f,
            n + 3 < N ? from[3] : 0.0f};
  };
  float4 ahead[kAhead ? kStateLoads : 1];

  FillTile<T, kN, kThreads>(B_tile, a.B, chunk.row, chunk.rows, group * a.states, N, pieces.B);
  FillTile<T, kN, kThreads>(C_tile, a.C, chunk.row, chunk.rows, group * a.states, N, pieces.C);
  fill(0);
  if constexpr (kAhead) {
#pragma unroll
    for (int k = 0; k < kStateLoads; ++k) ahead[k] = load_state(0, k);
  }

  // The warp's blocks of the triangle: columns [16(half + 2i), + 16) of its rows. Element e of
  // fragment j is row g + e / 2 · 8, column 8j + 2q + e % 2.
  const auto has_block = [&](int i) { return half + 2 * i <= row; };
  float products[2][2][4];  // C·B
  float d_products[2][2][4] = {};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (!has_block(i)) continue;
    const auto* from = reinterpret_cast<const float4*>(
        work.products + (chunk_index * groups + group) * kSsdProducts);
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const float4 four = from[(2 * (SsdFirstBlock(row) + half + 2 * i) + e) * 32 + lane];
      products[i][0][2 * e] = four.x;
      products[i][0][2 * e + 1] = four.y;
      products[i][1][2 * e] = four.z;
      products[i][1][2 * e + 1] = four.w;
    }
  }
  // Stores a triangle's block as weights lie.
  const auto store_block = [&](int i, const float(&values)[2][4]) {
    char* to = shared + At::kWeights + (SsdFirstBlock(row) + half + 2 * i) * 512;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        reinterpret_cast<uint32_t*>(to + e * 256 + j * 128)[lane] =
            PackLimited<T>(values[j][2 * e], values[j][2 * e + 1]);
      }
    }
  };

  float dB[kHalf / 8][4] = {};
  float dC[kHalf / 8][4] = {};
  float dyx[2][2][4];  // dy·x of the triangle's blocks

  // What is known of a head once all its channels were seen.
  const auto finish_rows = [&](int item) {
    if (tid >= kSsdRows) return;
    const int head = first_head + item / blocks;
    const auto& sums = *reinterpret_cast<const Sums*>(
        shared + At::kSums + item / blocks % 2 * ((sizeof(Sums) + 15) / 16 * 16));
    const int64_t at = (chunk_index * a.heads + head) * kSsdRows;
    const SsdStep step = work.steps[at + tid];
    const SsdStep last = work.steps[at + kSsdRows - 1];
    float column = 0;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      if (16 * r + 16 > tid) column += sums.columns[r][tid];
    }
    const float to_state =
        (sums.leaving[0][tid] + sums.leaving[1][tid]) * Exp2(SumBetween(last, step));
    float arriving = sums.rows[0][tid] + sums.rows[1][tid] - step.step * column +
                     (sums.arriving[0][tid] + sums.arriving[1][tid]) * Exp2(step.sum + step.rest);
    if (tid == kSsdRows - 1) {
      float states = 0;
#pragma unroll
      for (int i = 0; i < kWarps; ++i) states += sums.states[i];
      arriving += states * Exp2(last.sum + last.rest);
    }
    work.rows[at + tid] = {arriving, to_state * step.step, 0,
                           column + sums.diagonal[tid] + to_state};
    float skip = tid < 32 ? sums.products[tid] + sums.products[tid + 32] : 0.0f;
    if (tid < 32) {
      skip = WarpSum(skip);
      if (tid == 0) work.dD[chunk_index * a.heads + head] = skip;
    }
  };

#pragma unroll 1
  for (int item = 0; item < items; ++item) {
    const int head = first_head + item / blocks;
    const int block = item % blocks;
    const bool first = block == 0;
    const bool last = block + 1 == blocks;
    char* stage = shared + At::kFirstStage + item % At::kStages * At::kStage;
    const auto* steps = reinterpret_cast<const SsdStep*>(stage + At::kSteps);
    auto& sums = *reinterpret_cast<Sums*>(shared + At::kSums +
                                          item / blocks % 2 * ((sizeof(Sums) + 15) / 16 * 16));
    AwaitCopies();
    __syncthreads();  // the tiles are there, those of the item before are not needed any more
    if (kAhead && item + 1 < items) fill(item + 1);
    if (item > 0 && first) finish_rows(item - 1);

    // The state in 16 bits, and its product with the gradient of the next.
    {
      float dot = 0;
#pragma unroll
      for (int k = 0; k < kStateLoads; ++k) {
        float4 four;
        if constexpr (kAhead) {
          four = ahead[k];
        } else {
          four = load_state(item, k);
        }
        const int p = tid / kQuads + k * kStateRows;
        const int offset = Tile<kN>::Offset(p, tid % kQuads / 2) + tid % 2 * 8;
        *reinterpret_cast<uint2*>(h_tile + offset) = {PackLimited<T>(four.x, four.y),
                                                      PackLimited<T>(four.z, four.w)};
        const uint2 other = *reinterpret_cast<const uint2*>(stage + offset);
        const float2 low = UnpackTwo<T>(other.x);
        const float2 high = UnpackTwo<T>(other.y);
        dot = fmaf(four.x, low.x, fmaf(four.y, low.y, dot));
        dot = fmaf(four.z, high.x, fmaf(four.w, high.y, dot));
      }
      dot = WarpSum(dot);
      if (lane == 0) sums.states[warp] = first ? dot : sums.states[warp] + dot;
    }

    // Within the chunk: dy·x, the weights of x in y.
    {
      const Reader<kChannels> dy_reader(stage + At::kDy, Again(lane));
      const Reader<kChannels> x_reader(stage + At::kX, Again(lane));
      if (first) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
#pragma unroll
          for (int j = 0; j < 2; ++j) {
#pragma unroll
            for (int e = 0; e < 4; ++e) dyx[i][j][e] = 0;
          }
        }
      }
#pragma unroll
      for (int k = 0; k < kChannels / 16; ++k) {
        uint32_t left[4];
        dy_reader.A(16 * row, 2 * k, left);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if (!has_block(i)) continue;
          uint32_t right[4];
          x_reader.TransposedB(16 * (half + 2 * i), 2 * k, right);
          MultiplyAdd<T>(dyx[i][0], left, right[0], right[1]);
          MultiplyAdd<T>(dyx[i][1], left, right[2], right[3]);
        }
      }
    }
    if (first || last) {
      const SsdStep at_t[2] = {steps[16 * row + g], steps[16 * row + g + 8]};
      float rows[2] = {};
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (!has_block(i)) continue;
        float weight[2][4];
        float column[2][2] = {};
#pragma unroll
        for (int j = 0; j < 2; ++j) {
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            const int s = 16 * (half + 2 * i) + 8 * j + 2 * q + c;
            const SsdStep at_s = steps[s];
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              const int t = 16 * row + 8 * e + g;
              const float decay = s <= t ? Exp2(SumBetween(at_t[e], at_s)) : 0.0f;
              const float product = products[i][j][2 * e + c];
              const float other = dyx[i][j][2 * e + c];
              weight[j][2 * e + c] = s <= t ? product * decay * at_s.step : 0.0f;
              if (!last) continue;
              const float v = s <= t ? other * product * decay : 0.0f;
              d_products[i][j][2 * e + c] =
                  fmaf(s <= t ? other * decay : 0.0f, at_s.step, d_products[i][j][2 * e + c]);
              if (s < t) {
                column[j][c] += v;
                rows[e] = fmaf(v, at_s.step, rows[e]);
              } else if (s == t) {
                sums.diagonal[t] = v;
                sums.products[t] = other;
              }
            }
          }
        }
        if (first) store_block(i, weight);
        if (last) {
#pragma unroll
          for (int j = 0; j < 2; ++j) {
#pragma unroll
            for (int c = 0; c < 2; ++c) {
              const float sum = ColumnSum(column[j][c]);
              if (g == 0) sums.columns[row][16 * (half + 2 * i) + 8 * j + 2 * q + c] = sum;
            }
          }
        }
      }
      if (last) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float sum = RowSum(rows[e]);
          if (q == 0) sums.rows[half][16 * row + 8 * e + g] = sum;
        }
      }
    }
    __syncthreads();  // the state and the weights are there
    if constexpr (kAhead) {
      if (item + 1 < items) {
#pragma unroll
        for (int k = 0; k < kStateLoads; ++k) ahead[k] = load_state(item + 1, k);
      }
    }

    // dx[s, p] = weight[s] · dh[p]·B[s] + Σ_{t ≥ s} M[t, s] · dy[t, p] + D · dy[s, p]
    {
      float dx[4][4] = {};
      const Reader<kN> B_reader(B_tile, Again(lane));
      const Reader<kN> dh_reader(stage, Again(lane));
#pragma unroll
      for (int k = 0; k < kN / 16; ++k) {
        uint32_t left[4];
        B_reader.A(16 * row, 2 * k, left);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          uint32_t right[4];
          dh_reader.TransposedB(32 * half + 16 * j, 2 * k, right);
          MultiplyAdd<T>(dx[2 * j], left, right[0], right[1]);
          MultiplyAdd<T>(dx[2 * j + 1], left, right[2], right[3]);
        }
      }
      const float skip = a.D == nullptr ? 0.0f : a.D[head];
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int s = 16 * row + 8 * e + g;
        const float weight = steps[s].weight;
        float dot = 0;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float2 x = UnpackTwo<T>(Word<kChannels>(stage + At::kX, s, 4 * half + j, q));
          const float2 dy = UnpackTwo<T>(Word<kChannels>(stage + At::kDy, s, 4 * half + j, q));
          dot = fmaf(dx[j][2 * e], x.x, fmaf(dx[j][2 * e + 1], x.y, dot));
          dx[j][2 * e] = fmaf(dx[j][2 * e], weight, skip * dy.x);
          dx[j][2 * e + 1] = fmaf(dx[j][2 * e + 1], weight, skip * dy.y);
        }
        dot = RowSum(dot);
        if (q == 0) {
          float& to = sums.leaving[half][s];
          to = first ? dot : to + dot;
        }
      }
      const Reader<kChannels> dy_reader(stage + At::kDy, Again(lane));
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (k < row) continue;
        uint32_t left[4];
        LoadTransposed(weights + static_cast<unsigned>((SsdFirstBlock(k) + row) * 512 + lane * 16),
                       left);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          uint32_t right[4];
          dy_reader.B(16 * k, 4 * half + 2 * j, right);
          MultiplyAdd<T>(dx[2 * j], left, right[0], right[1]);
          MultiplyAdd<T>(dx[2 * j + 1], left, right[2], right[3]);
        }
      }
      if (work.b.dx.data != nullptr) {
        const int channel = block * kChannels + 32 * half;
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int s = 16 * row + 8 * e + g;
          T* to = static_cast<T*>(work.b.dx.data) + (chunk.row + s) * work.b.dx.stride +
                  static_cast<int64_t>(head) * P + channel;
#pragma unroll
          for (int j = 0; j < 4; j += 2) {
            // Of two neighbouring fragments, lanes exchange halves to have four columns together.
            const uint32_t even = PackTwo<T>(dx[j][2 * e], dx[j][2 * e + 1]);
            const uint32_t odd = PackTwo<T>(dx[j + 1][2 * e], dx[j + 1][2 * e + 1]);
            const uint32_t got = __shfl_xor_sync(0xffffffffu, q % 2 == 0 ? odd : even, 1);
            const uint2 four = q % 2 == 0 ? uint2{even, got} : uint2{got, odd};
            const int p = 8 * (j + q % 2) + q / 2 * 4;
            if (s >= chunk.rows) continue;
            if (pieces.dx) {
              if (channel + p < P) *reinterpret_cast<uint2*>(to + p) = four;
            } else {
#pragma unroll
              for (int i = 0; i < 4; ++i) {
                if (channel + p + i < P) to[p + i] = reinterpret_cast<const T*>(&four)[i];
              }
            }
          }
        }
      }
    }

    // dB[s, n] += weight[s] · Σ_p x[s, p] · dh[p, n]
    {
      const float weight[2] = {steps[16 * row + g].weight, steps[16 * row + 8 + g].weight};
      const Reader<kChannels> x_reader(stage + At::kX, Again(lane));
      const Reader<kN> dh_reader(stage, Again(lane));
#pragma unroll
      for (int k = 0; k < kChannels / 16; ++k) {
        uint32_t left[4];
        x_reader.A(16 * row, 2 * k, left);
        ScaleRows<T>(weight[0], weight[1], left);
#pragma unroll
        for (int j = 0; j < kHalf / 16; ++j) {
          uint32_t right[4];
          dh_reader.B(16 * k, half * (kHalf / 8) + 2 * j, right);
          MultiplyAdd<T>(dB[2 * j], left, right[0], right[1]);
          MultiplyAdd<T>(dB[2 * j + 1], left, right[2], right[3]);
        }
      }
    }
    // dC[t, n] += e^a[t] · Σ_p dy[t, p] · h[p, n], some states at a time, whose products with C are
    // what arrives from the state before the chunk.
    {
      float arriving[2] = {};
      const float decay[2] = {Exp2(steps[16 * row + g].sum + steps[16 * row + g].rest),
                              Exp2(steps[16 * row + 8 + g].sum + steps[16 * row + 8 + g].rest)};
      const Reader<kChannels> dy_reader(stage + At::kDy, Again(lane));
      const Reader<kN> h_reader(h_tile, Again(lane));
      constexpr int kTogether = 2;  // pairs of fragments
#pragma unroll
      for (int j0 = 0; j0 < kHalf / 16; j0 += kTogether) {
        float term[2 * kTogether][4] = {};
#pragma unroll
        for (int k = 0; k < kChannels / 16; ++k) {
          uint32_t left[4];
          dy_reader.A(16 * row, 2 * k, left);
#pragma unroll
          for (int j = 0; j < kTogether; ++j) {
            uint32_t right[4];
            h_reader.B(16 * k, half * (kHalf / 8) + 2 * (j0 + j), right);
            MultiplyAdd<T>(term[2 * j], left, right[0], right[1]);
            MultiplyAdd<T>(term[2 * j + 1], left, right[2], right[3]);
          }
        }
#pragma unroll
        for (int j = 0; j < 2 * kTogether; ++j) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const float2 C = UnpackTwo<T>(
                Word<kN>(C_tile, 16 * row + 8 * e + g, half * (kHalf / 8) + 2 * j0 + j, q));
            arriving[e] = fmaf(term[j][2 * e], C.x, fmaf(term[j][2 * e + 1], C.y, arriving[e]));
            float* to = dC[2 * j0 + j];
            to[2 * e] = fmaf(term[j][2 * e], decay[e], to[2 * e]);
            to[2 * e + 1] = fmaf(term[j][2 * e + 1], decay[e], to[2 * e + 1]);
          }
        }
      }
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float sum = RowSum(arriving[e]);
        if (q == 0) {
          float& to = sums.arriving[half][16 * row + 8 * e + g];
          to = first ? sum : to + sum;
        }
      }
    }
    if (!kAhead && item + 1 < items) {
      __syncthreads();
      fill(item + 1);
    }
  }

  // The heads together: through C·B.
  __syncthreads();
  if (items > 0) finish_rows(items - 1);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (has_block(i)) store_block(i, d_products[i]);
  }
  __syncthreads();
  {
    const Reader<kN> B_reader(B_tile, lane);
    const Reader<kN> C_reader(C_tile, lane);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      uint32_t matrices[4];
      if (k <= row) {  // dC[t] += Σ_{s ≤ t} d(C·B)[t, s] · B[s]
        LoadMatrices(weights + static_cast<unsigned>((SsdFirstBlock(row) + k) * 512 + lane * 16),
                     matrices);
        const uint32_t left[4] = {matrices[0], matrices[2], matrices[1], matrices[3]};
#pragma unroll
        for (int j = 0; j < kHalf / 16; ++j) {
          uint32_t right[4];
          B_reader.B(16 * k, half * (kHalf / 8) + 2 * j, right);
          MultiplyAdd<T>(dC[2 * j], left, right[0], right[1]);
          MultiplyAdd<T>(dC[2 * j + 1], left, right[2], right[3]);
        }
      }
      if (k >= row) {  // dB[s] += Σ_{t ≥ s} d(C·B)[t, s] · C[t]
        LoadTransposed(weights + static_cast<unsigned>((SsdFirstBlock(k) + row) * 512 + lane * 16),
                       matrices);
#pragma unroll
        for (int j = 0; j < kHalf / 16; ++j) {
          uint32_t right[4];
          C_reader.B(16 * k, half * (kHalf / 8) + 2 * j, right);
          MultiplyAdd<T>(dB[2 * j], matrices, right[0], right[1]);
          MultiplyAdd<T>(dB[2 * j + 1], matrices, right[2], right[3]);
        }
      }
    }
  }
  const int64_t width = a.groups * a.states;
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    const int t = 16 * row + 8 * e + g;
    if (t >= chunk.rows) continue;
    const int64_t to = (split * a.rows + chunk.row + t) * width + group * a.states;
#pragma unroll
    for (int j = 0; j < kHalf / 8; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int n = half * kHalf + 8 * j + 2 * q + i;
        if (n >= N) continue;
        work.dB[to + n] = dB[j][2 * e + i];
        work.dC[to + n] = dC[j][2 * e + i];
      }
    }
  }
}

template <class T, int kN>
void Launch(Context& context, const SsdBackwardWork& work, int64_t chunks) {
  const SsdArguments& a = work.b.forward;
  const Pieces pieces = {
      .x = ByPieces(a.x, a.head_dim),
      .dy = ByPieces(work.b.dy, a.head_dim),
      .B = ByPieces(a.B, a.states),
      .C = ByPieces(a.C, a.states),
      .states = a.states % 8 == 0,
      .dx = ByPieces(work.b.dx, a.head_dim),
      .state_quads = a.states % 4 == 0 && AlignedTo(16, work.b.chunk_states, 0, 4)};
  constexpr int kShared = Layout<kN>::kTotal;
  const auto kernel = BackwardKernel<T, kN>;
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared),
        "ssd backward's shared memory");
  kernel<<<static_cast<unsigned>(chunks * a.groups * work.splits), kThreads, kShared,
           context.stream()>>>(work, pieces);
  CheckLaunch("ssd backward");
}

template <class T>
void LaunchForStates(Context& context, const SsdBackwardWork& work, int64_t chunks) {
  const int64_t states = work.b.forward.states;
  if (states <= 64) return Launch<T, 64>(context, work, chunks);
  if (states <= 128) return Launch<T, 128>(context, work, chunks);
  Launch<T, 256>(context, work, chunks);
}

}  // namespace

void LaunchSsdBackward(Context& context, const SsdBackwardWork& work, int64_t chunks) {
  if (work.b.forward.x.dtype == DType::kBF16) {
    LaunchForStates<__nv_bfloat16>(context, work, chunks);
  } else {
    LaunchForStates<__half>(context, work, chunks);
  }
}

}  // namespace adder::cuda::tensor
