// ssd on CUDA: the walks for bf16 and f16, on tensor cores.
//
// A warp keeps the states of kParts · 16 channels in registers, as sums of products of fragments:
// f32 [channels, states]. Rounded to 16 bits they are at once the left operand of the output,
//     yᵀ[p, t] = e^a[t] Σ_n h[p, n] · C[t, n]  +  Σ_{s ≤ t} xᵀ[p, s] · M[t, s],
// and x transposed, which stays in registers for a chunk, is that of M and of the next state:
//     h[p, n] = e^a[last] · h[p, n] + Σ_s (xᵀ[p, s] · weight[s]) · B[s, n].
// So a state never leaves its registers, and all that passes through shared memory are tiles of C,
// B and x, each of which feeds kParts products for every load, and M, which all warps of a head
// make together.
#include "adder/ops/ssd/ssd_tiles.cuh"

namespace adder::cuda::tensor {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;
constexpr int kSlotChannels = 64;  // of one head: what a slot of a block takes

// Whether tiles can be filled, and y written, by pieces.
struct Pieces {
  bool values, projection, readout, y;
};

// Where things lie in a block's shared memory. kN: states, with those that are 0.
template <int kN, int kParts, bool kOutput>
struct Layout {
  static constexpr int kSlots = kParts;  // kWarps · 16 · kParts / kSlotChannels
  static constexpr int kReadout = Tile<kN>::kBytes;
  static constexpr int kValues = kReadout + (kOutput ? Tile<kN>::kBytes : 0);
  static constexpr int kSteps = kValues + kSlots * Tile<kSlotChannels>::kBytes;
  static constexpr int kStage = kSteps + kSlots * kSsdRows * static_cast<int>(sizeof(SsdStep));
  // Weights M of each slot, by blocks as products are; 2^sum of each row.
  static constexpr int kSlotWeights = kSsdHalfBlocks * 256;
  static constexpr int kWeights = 2 * kStage;
  static constexpr int kFromStart = kWeights + kSlots * kSlotWeights;
  static constexpr int kTotal = kOutput ? kFromStart + kSlots * kSsdRows * 4 : kWeights;
};

// States that blocks hand on, as they lie in registers.
template <int kParts, int kTiles>
__device__ void HandOn(const float (&h)[kParts][kTiles][4], float* states, int* ready) {
  auto* to = reinterpret_cast<float4*>(states) + threadIdx.x;
#pragma unroll
  for (int m = 0; m < kParts; ++m) {
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      to[(m * kTiles + j) * kThreads] = {h[m][j][0], h[m][j][1], h[m][j][2], h[m][j][3]};
    }
  }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) atomicExch(ready, 1);
}
template <int kParts, int kTiles>
__device__ void GoOn(const float* states, int* ready, float (&h)[kParts][kTiles][4]) {
  if (threadIdx.x == 0) {
    while (atomicAdd(ready, 0) == 0) __nanosleep(64);
    __threadfence();
  }
  __syncthreads();
  const auto* from = reinterpret_cast<const float4*>(states) + threadIdx.x;
#pragma unroll
  for (int m = 0; m < kParts; ++m) {
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      const float4 four = __ldcg(from + (m * kTiles + j) * kThreads);
      h[m][j][0] = four.x;
      h[m][j][1] = four.y;
      h[m][j][2] = four.z;
      h[m][j][3] = four.w;
    }
  }
}

// Chunks of one of the walks of a sequence, or of a segment of it. `piece` is in shared memory, so
// that it takes no registers while it is not looked at.
template <class T, int kN, int kParts, bool kOutput>
__device__ __forceinline__ void Walk(const SsdWalk& w, const Pieces& pieces, const SsdPiece& piece,
                                     int segment_index) {
  using At = Layout<kN, kParts, kOutput>;
  constexpr int kSlots = At::kSlots;
  constexpr int kTiles = kN / 8;  // of 8 states
  extern __shared__ __align__(16) char shared[];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int g = lane / 4;
  const int q = lane % 4;

  const SsdSegment& segment = piece.segment;
  // The walk's group and slots. A slot past the group's last repeats it and writes
  // nothing.
  const auto groups = static_cast<int>(w.groups);
  const int group_heads = static_cast<int>(w.heads) / groups;
  const int head_slots = (static_cast<int>(w.head_dim) + kSlotChannels - 1) / kSlotChannels;
  const int group_slots = group_heads * head_slots;
  const int group_blocks = (group_slots + kSlots - 1) / kSlots;
  const auto block = static_cast<int>(piece.block);
  const int group = block / group_blocks;
  const int first_slot = block % group_blocks * kSlots;
  const auto head_of = [&](int slot) {
    return group * group_heads + min(first_slot + slot, group_slots - 1) / head_slots;
  };
  const auto channel_of = [&](int slot) {  // within the head
    return min(first_slot + slot, group_slots - 1) % head_slots * kSlotChannels;
  };
  const int own_slot = warp * kSlots / kWarps;
  const bool active = first_slot + own_slot < group_slots;
  const int head = head_of(own_slot);
  const int in_slot = warp % (kWarps / kSlots) * 16 * kParts;  // the warp's first channel there
  const int channel = channel_of(own_slot) + in_slot;          // and in the head
  const auto P = static_cast<int>(w.head_dim);
  const auto N = static_cast<int>(w.states);
  const int64_t state_size = w.head_dim * w.states;
  const int64_t state_offset = head * state_size + static_cast<int64_t>(channel) * N;

  // The states: of channels 16m + g (+ 8), states 8j + 2q and + 1.
  float h[kParts][kTiles][4];
  const bool pairs = N % 2 == 0;
  const auto for_each_pair = [&](const auto& visit) {  // visit(offset, number of states, pair)
#pragma unroll
    for (int m = 0; m < kParts; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int p = 16 * m + 8 * half + g;
        if (channel + p >= P) continue;
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {
          const int n = 8 * j + 2 * q;
          if (n < N) visit(p * N + n, N - n, h[m][j][2 * half], h[m][j][2 * half + 1]);
        }
      }
    }
  };
  const auto store_states = [&](float* to) {
    for_each_pair([&](int offset, int count, float first, float second) {
      if (pairs) {
        *reinterpret_cast<float2*>(to + offset) = {first, second};
      } else {
        to[offset] = first;
        if (count > 1) to[offset + 1] = second;
      }
    });
  };
#pragma unroll
  for (int m = 0; m < kParts; ++m) {
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) h[m][j][i] = 0;
    }
  }
  constexpr int64_t kHandedOn = static_cast<int64_t>(kParts) * kTiles * 4 * kThreads;
  if (piece.from >= 0) {
    GoOn(w.handed + piece.from * kHandedOn, w.ready + piece.from, h);
  } else if (w.first != nullptr && (w.first_of_segments || w.Begins(segment))) {
    const int64_t index = w.first_of_segments ? segment_index : segment.sequence;
    const float* from = w.first + index * w.heads * state_size + state_offset;
    for_each_pair([&](int offset, int count, float& first, float& second) {
      first = from[offset];
      if (count > 1) second = from[offset + 1];
    });
  }

  const auto chunks = static_cast<int>((segment.rows + kSsdRows - 1) / kSsdRows);
  const auto chunk_at = [&](int i) { return w.reverse ? chunks - 1 - i : i; };
  const auto rows_of = [&](int c) {
    return static_cast<int>(
        min(segment.rows - static_cast<int64_t>(c) * kSsdRows, static_cast<int64_t>(kSsdRows)));
  };
  const auto fill = [&](int c, char* stage) {
    const int64_t row = segment.row + static_cast<int64_t>(c) * kSsdRows;
    const int rows = rows_of(c);
    if (kOutput) {
      FillTile<T, kN, kThreads>(stage + At::kReadout, w.readout, row, rows, group * w.states, N,
                                pieces.readout);
    }
#pragma unroll 1
    for (int slot = 0; slot < kSlots; ++slot) {
      const int first = channel_of(slot);
      FillTile<T, kSlotChannels, kThreads>(stage + At::kValues + slot * Tile<kSlotChannels>::kBytes,
                                           w.values, row, rows, head_of(slot) * w.head_dim + first,
                                           min(P - first, kSlotChannels), pieces.values);
    }
    for (int i = static_cast<int>(threadIdx.x); i < kSlots * kSsdRows; i += kThreads) {
      const SsdStep* from =
          w.steps + ((segment.chunk + c) * w.heads + head_of(i / kSsdRows)) * kSsdRows;
      CopyPiece(SharedAddress(stage + At::kSteps) + static_cast<unsigned>(i) * 16,
                from + i % kSsdRows, true);
    }
    FillTile<T, kN, kThreads>(stage, w.projection, row, rows, group * w.states, N,
                              pieces.projection);
  };

  // A warp's half blocks of the products: every fourth.
  constexpr int kOwn = kSsdHalfBlocks / kWarps;
  float4 products[kOwn];
  const auto load_products = [&](int c) {
    const auto* from = reinterpret_cast<const float4*>(
        w.products + ((segment.chunk + c) * w.groups + group) * kSsdProducts);
#pragma unroll
    for (int i = 0; i < kOwn; ++i) products[i] = from[(warp + i * kWarps) * 32 + lane];
  };
  // M[t, s] = (C[t]·B[s]) · 2^(sum[t] - sum[s]) · dt'[s], 0 where s > t.
  const auto make_weights = [&](const char* stage) {
    const int g = Again(lane) / 4;
    const int q = Again(lane) % 4;
#pragma unroll 1
    for (int slot = 0; slot < kSlots; ++slot) {
      const auto* steps = reinterpret_cast<const SsdStep*>(stage + At::kSteps) + slot * kSsdRows;
      char* to = shared + At::kWeights + slot * At::kSlotWeights;
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
        const int half_block = warp + i * kWarps;
        const int row = SsdBlockRow(half_block / 2);
        const int t = 16 * row + half_block % 2 * 8 + g;
        const int s = 16 * (half_block / 2 - SsdFirstBlock(row)) + 2 * q;
        const SsdStep at_t = steps[t];
        const auto weight = [&](float product, int column) {
          const SsdStep at_s = steps[column];
          return column <= t ? product * Exp2(SumBetween(at_t, at_s)) * at_s.step : 0.0f;
        };
        auto* matrices = reinterpret_cast<uint32_t*>(to + half_block * 256);
        matrices[lane] = PackLimited<T>(weight(products[i].x, s), weight(products[i].y, s + 1));
        matrices[32 + lane] =
            PackLimited<T>(weight(products[i].z, s + 8), weight(products[i].w, s + 9));
      }
    }
    for (int i = static_cast<int>(threadIdx.x); i < kSlots * kSsdRows; i += kThreads) {
      const SsdStep step = reinterpret_cast<const SsdStep*>(stage + At::kSteps)[i];
      reinterpret_cast<float*>(shared + At::kFromStart)[i] = Exp2(step.sum + step.rest);
    }
  };

  float total = 0;
  if (chunks > 0) {
    fill(chunk_at(0), shared);
    if (kOutput) load_products(chunk_at(0));
    AwaitCopies();
    __syncthreads();
    if (kOutput) make_weights(shared);
  }
  for (int i = 0; i < chunks; ++i) {
    const int c = chunk_at(i);
    char* stage = shared + (i & 1) * At::kStage;
    char* next = shared + (i & 1 ^ 1) * At::kStage;
    if (kOutput) __syncthreads();  // the weights are there
    if (i + 1 < chunks) fill(chunk_at(i + 1), next);

    if (kOutput && active && w.chunk_states != nullptr) {
      store_states(w.chunk_states + (segment.chunk + c) * w.heads * state_size + state_offset);
    }
    if (!kOutput && active && w.activation_states != nullptr) {
      T* to = static_cast<T*>(w.activation_states) + (segment.chunk + c) * w.heads * state_size +
              state_offset;
      // Of two neighbouring fragments, lanes exchange halves to have four states together.
      const bool fours = N % 4 == 0;
#pragma unroll
      for (int m = 0; m < kParts; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int p = 16 * m + 8 * half + g;
#pragma unroll
          for (int j = 0; j < kTiles; j += 2) {
            const auto own = [&](int k) {
              return PackLimited<T>(h[m][j + k][2 * half], h[m][j + k][2 * half + 1]);
            };
            const uint32_t even = own(0);
            const uint32_t odd = own(1);
            const uint32_t got = __shfl_xor_sync(0xffffffffu, q % 2 == 0 ? odd : even, 1);
            const uint2 four = q % 2 == 0 ? uint2{even, got} : uint2{got, odd};
            const int n = 8 * (j + q % 2) + q / 2 * 4;
            if (channel + p >= P || n >= N) continue;
            if (fours) {
              *reinterpret_cast<uint2*>(to + p * N + n) = four;
            } else {
              for (int i = 0; i < min(N - n, 4); ++i) {
                const uint32_t word = i < 2 ? four.x : four.y;
                const auto bits = static_cast<uint16_t>(word >> (i % 2 * 16));
                to[p * N + n + i] = *reinterpret_cast<const T*>(&bits);
              }
            }
          }
        }
      }
    }

    char* values = stage + At::kValues + own_slot * Tile<kSlotChannels>::kBytes;
    const Reader<kSlotChannels> values_reader(values, Again(lane));
    const auto load_x = [&](int m, int k, uint32_t(&x)[4]) {
      values_reader.TransposedA(16 * k, (in_slot + 16 * m) / 8, x);
    };

    // yᵀ of channels 16m + g (+ 8), rows 8j + 2q and + 1.
    float y[kOutput ? kParts : 1][8][4];
    if constexpr (kOutput) {
#pragma unroll
      for (int m = 0; m < kParts; ++m) {
#pragma unroll
        for (int j = 0; j < 8; ++j) {
#pragma unroll
          for (int e = 0; e < 4; ++e) y[m][j][e] = 0;
        }
      }
      const Reader<kN> reader(stage + At::kReadout, Again(lane));
#pragma unroll
      for (int k = 0; k < kN / 16; ++k) {
        uint32_t a[kParts][4];
#pragma unroll
        for (int m = 0; m < kParts; ++m) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const float* two = &h[m][2 * k + e / 2][e % 2 * 2];
            a[m][e] = PackLimited<T>(two[0], two[1]);
          }
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          uint32_t b[4];
          reader.TransposedB(16 * j, 2 * k, b);
#pragma unroll
          for (int m = 0; m < kParts; ++m) {
            MultiplyAdd<T>(y[m][2 * j], a[m], b[0], b[1]);
            MultiplyAdd<T>(y[m][2 * j + 1], a[m], b[2], b[3]);
          }
        }
      }
      const auto* from_start =
          reinterpret_cast<const float*>(shared + At::kFromStart) + own_slot * kSsdRows;
      const unsigned weights = SharedAddress(shared + At::kWeights + own_slot * At::kSlotWeights) +
                               static_cast<unsigned>(lane) * 16;
      const float skip = w.D == nullptr ? 0.0f : w.D[head];
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const float2 decay = *reinterpret_cast<const float2*>(from_start + 8 * j + 2 * q);
#pragma unroll
        for (int m = 0; m < kParts; ++m) {
#pragma unroll
          for (int e = 0; e < 4; ++e) y[m][j][e] *= e % 2 == 0 ? decay.x : decay.y;
        }
      }
#pragma unroll
      for (int k = 0; k < 4; ++k) {  // blocks of rows s
        uint32_t x[kParts][4];
#pragma unroll
        for (int m = 0; m < kParts; ++m) {
          load_x(m, k, x[m]);
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const float2 two = UnpackTwo<T>(x[m][e]);
            float* to = &y[m][2 * k + e / 2][e % 2 * 2];
            to[0] = fmaf(skip, two.x, to[0]);
            to[1] = fmaf(skip, two.y, to[1]);
          }
        }
#pragma unroll
        for (int j = k; j < 4; ++j) {  // of rows t
          uint32_t b[4];
          LoadMatrices(weights + static_cast<unsigned>(SsdFirstBlock(j) + k) * 512, b);
#pragma unroll
          for (int m = 0; m < kParts; ++m) {
            MultiplyAdd<T>(y[m][2 * j], x[m], b[0], b[1]);
            MultiplyAdd<T>(y[m][2 * j + 1], x[m], b[2], b[3]);
          }
        }
      }
    }

    // The state after the chunk.
    {
      const auto* steps =
          reinterpret_cast<const SsdStep*>(stage + At::kSteps) + own_slot * kSsdRows;
      const float sum = steps[kSsdRows - 1].sum + steps[kSsdRows - 1].rest;
      total += sum;
      const float decay = Exp2(sum);
#pragma unroll
      for (int m = 0; m < kParts; ++m) {
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {
#pragma unroll
          for (int e = 0; e < 4; ++e) h[m][j][e] *= decay;
        }
      }
      const Reader<kN> reader(stage, Again(lane));
      const auto weight = [&](int row) {
        return w.reverse ? Exp2(steps[row].sum + steps[row].rest) : steps[row].weight;
      };
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        uint32_t a[kParts][4];
#pragma unroll
        for (int m = 0; m < kParts; ++m) load_x(m, k, a[m]);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int row = 16 * k + e / 2 * 8 + 2 * q;
          const float first = weight(row);
          const float second = weight(row + 1);
#pragma unroll
          for (int m = 0; m < kParts; ++m) {
            const float2 two = UnpackTwo<T>(a[m][e]);
            a[m][e] = PackLimited<T>(two.x * first, two.y * second);
          }
        }
#pragma unroll
        for (int j = 0; j < kN / 16; ++j) {
          uint32_t b[4];
          reader.B(16 * k, 2 * j, b);
#pragma unroll
          for (int m = 0; m < kParts; ++m) {
            MultiplyAdd<T>(h[m][2 * j], a[m], b[0], b[1]);
            MultiplyAdd<T>(h[m][2 * j + 1], a[m], b[2], b[3]);
          }
        }
      }
    }

    if constexpr (kOutput) {
      // Through the place of x, whose columns no other warp reads, to have rows together.
      __syncwarp();
#pragma unroll
      for (int m = 0; m < kParts; ++m) {
#pragma unroll
        for (int j = 0; j < 8; ++j) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int t = 8 * j + 2 * q + e % 2;
            const int piece = in_slot / 8 + 2 * m + e / 2;
            reinterpret_cast<T*>(values + Tile<kSlotChannels>::Offset(t, piece))[g] =
                FromFloat<T>(y[m][j][e]);
          }
        }
      }
      __syncwarp();
      if (i + 1 < chunks) load_products(chunk_at(i + 1));
      const int rows = rows_of(c);
      constexpr int kPieces = 2 * kParts;    // of a row that are the warp's
      constexpr int kAtOnce = 32 / kPieces;  // rows
      // Rows 4 apart go together: their pieces lie in different banks.
      const int turn = Again(lane) / kPieces;
      const int first = turn / 2 + turn % 2 * (kAtOnce / 2);
      const int piece = lane % kPieces;
      T* to = static_cast<T*>(w.y.data) +
              (segment.row + static_cast<int64_t>(c) * kSsdRows + first) * w.y.stride +
              head * w.head_dim + channel + 8 * piece;
      const int count = active ? P - channel - 8 * piece : 0;
#pragma unroll 2
      for (int t = first; t < rows; t += kAtOnce, to += kAtOnce * w.y.stride) {
        const char* from = values + Tile<kSlotChannels>::Offset(t, in_slot / 8 + piece);
        if (pieces.y) {
          if (count > 0) *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
        } else {
          for (int e = 0; e < min(count, 8); ++e) to[e] = reinterpret_cast<const T*>(from)[e];
        }
      }
    }
    AwaitCopies();
    __syncthreads();  // the next tiles are there, and this chunk's weights are not needed any more
    if (kOutput && i + 1 < chunks) make_weights(next);
  }

  if (piece.to >= 0) return HandOn(h, w.handed + piece.to * kHandedOn, w.ready + piece.to);
  if (!active) return;
  if (w.last != nullptr && (w.last_of_segments || w.Ends(segment))) {
    const int64_t index = w.last_of_segments ? segment_index : segment.sequence;
    store_states(w.last + index * w.heads * state_size + state_offset);
  }
  if (w.totals != nullptr && channel == 0 && lane == 0) {
    w.totals[segment_index * w.heads + head] = total;
  }
}

// `blocks`: of a segment.
template <class T, int kN, int kParts, bool kOutput>
__global__ void __launch_bounds__(kThreads, kN == 256 ? 1 : 2)
    WalkKernel(const __grid_constant__ SsdWalk w, const __grid_constant__ Pieces pieces,
               int blocks) {
  const auto index = static_cast<int>(blockIdx.x);
  const bool shares = w.pieces != nullptr;
  const int end = shares ? w.first_pieces[index + 1] : 1;
  __shared__ SsdPiece piece;
#pragma unroll 1
  for (int i = shares ? w.first_pieces[index] : 0; i < end; ++i) {
    __syncthreads();
    if (threadIdx.x == 0) {
      if (shares) {
        piece = w.pieces[i];
      } else {
        piece = {w.segments[index / blocks], index % blocks, -1, -1};
      }
    }
    __syncthreads();
    Walk<T, kN, kParts, kOutput>(w, pieces, piece, index / blocks);
  }
}

// A block takes a chunk and a group; warp r the r-th row of blocks.
template <class T, int kN>
__global__ void __launch_bounds__(kThreads)
    ProductsKernel(Rows B, Rows C, int64_t groups, int64_t states, const SsdChunk* chunks,
                   float* products, bool B_pieces, bool C_pieces) {
  extern __shared__ __align__(16) char shared[];
  char* C_tile = shared;
  char* B_tile = shared + Tile<kN>::kBytes;
  const int64_t group = blockIdx.x % groups;
  const SsdChunk chunk = chunks[blockIdx.x / groups];
  const auto N = static_cast<int>(states);
  FillTile<T, kN, kThreads>(C_tile, C, chunk.row, chunk.rows, group * states, N, C_pieces);
  FillTile<T, kN, kThreads>(B_tile, B, chunk.row, chunk.rows, group * states, N, B_pieces);
  AwaitCopies();
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int row = static_cast<int>(threadIdx.x) / 32;
  const Reader<kN> C_reader(C_tile, lane);
  const Reader<kN> B_reader(B_tile, lane);
  float sums[4][2][4] = {};
#pragma unroll 4
  for (int k = 0; k < kN / 16; ++k) {
    uint32_t a[4];
    C_reader.A(16 * row, 2 * k, a);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (j > row) continue;
      uint32_t b[4];
      B_reader.TransposedB(16 * j, 2 * k, b);
      MultiplyAdd<T>(sums[j][0], a, b[0], b[1]);
      MultiplyAdd<T>(sums[j][1], a, b[2], b[3]);
    }
  }
  auto* to = reinterpret_cast<float4*>(products + blockIdx.x * kSsdProducts);
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (j > row) continue;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      to[(2 * (SsdFirstBlock(row) + j) + half) * 32 + lane] = {
          sums[j][0][2 * half], sums[j][0][2 * half + 1], sums[j][1][2 * half],
          sums[j][1][2 * half + 1]};
    }
  }
}

// Calls visit.operator()<kN, kParts>() for a number of states. More than 128 leave registers for
// half the channels.
template <class Visit>
void VisitStates(int64_t states, const Visit& visit) {
  if (states <= 64) return visit.template operator()<64, 2>();
  if (states <= 128) return visit.template operator()<128, 2>();
  visit.template operator()<256, 1>();
}
template <class Visit>
void VisitHalf(DType dtype, const Visit& visit) {
  if (dtype == DType::kBF16) return visit(__nv_bfloat16{});
  visit(__half{});
}

}  // namespace

int64_t SsdWalkBlocks(const SsdArguments& a) {
  int64_t blocks = 0;
  VisitStates(a.states, [&]<int kN, int kParts>() {
    const int64_t slots = a.heads / a.groups * ((a.head_dim + kSlotChannels - 1) / kSlotChannels);
    blocks = a.groups * ((slots + kParts - 1) / kParts);
  });
  return blocks;
}
int64_t SsdWalksResident(const Context& context, const SsdArguments& a) {
  int available = 0;
  Check(cudaDeviceGetAttribute(&available, cudaDevAttrMaxSharedMemoryPerMultiprocessor,
                               context.device()),
        "device attributes");
  int64_t resident = 1;
  VisitStates(a.states, [&]<int kN, int kParts>() {
    constexpr int kReserved = 1024;  // of a block, by CUDA
    const int needed = Layout<kN, kParts, true>::kTotal + kReserved;
    resident = std::clamp(available / needed, 1, kN == 256 ? 1 : 2);  // as registers allow
  });
  return context.multiprocessors() * resident;
}

void LaunchSsdProducts(Context& context, const SsdArguments& a, const SsdPlan& plan,
                       float* products) {
  VisitHalf(a.x.dtype, [&](auto type) {
    using T = decltype(type);
    VisitStates(a.states, [&]<int kN, int kParts>() {
      constexpr int kShared = 2 * Tile<kN>::kBytes;
      const auto kernel = ProductsKernel<T, kN>;
      Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared),
            "ssd's shared memory");
      kernel<<<static_cast<unsigned>(plan.chunk_count * a.groups), kThreads, kShared,
               context.stream()>>>(a.B, a.C, a.groups, a.states, plan.chunks, products,
                                   ByPieces(a.B, a.states), ByPieces(a.C, a.states));
    });
  });
  CheckLaunch("ssd's products");
}

void LaunchSsdWalk(Context& context, const SsdPlan& plan, const SsdWalk& walk, bool output) {
  const Pieces pieces = {.values = ByPieces(walk.values, walk.head_dim),
                         .projection = ByPieces(walk.projection, walk.states),
                         .readout = ByPieces(walk.readout, walk.states),
                         .y = ByPieces(walk.y, walk.head_dim)};
  VisitHalf(walk.values.dtype, [&](auto type) {
    using T = decltype(type);
    VisitStates(walk.states, [&]<int kN, int kParts>() {
      const bool shares = plan.pieces != nullptr;
      const Scratch handed(context, shares ? plan.shares * kParts * kN * kThreads / 2 * 4 : 0);
      const Scratch ready(context, shares ? plan.shares * 4 : 0);
      SsdWalk w = walk;
      if (shares) {
        w.pieces = plan.pieces;
        w.first_pieces = plan.first_pieces;
        w.handed = handed.data<float>();
        w.ready = ready.data<int>();
        Check(cudaMemsetAsync(w.ready, 0, static_cast<size_t>(plan.shares) * 4, context.stream()),
              "ssd's shares");
      }
      const auto launch = [&](auto kernel, int bytes) {
        Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
              "ssd's shared memory");
        const int64_t grid = shares ? plan.shares : plan.segment_count * plan.blocks;
        kernel<<<static_cast<unsigned>(grid), kThreads, static_cast<size_t>(bytes),
                 context.stream()>>>(w, pieces, static_cast<int>(plan.blocks));
      };
      if (output) {
        launch(WalkKernel<T, kN, kParts, true>, Layout<kN, kParts, true>::kTotal);
      } else {
        launch(WalkKernel<T, kN, kParts, false>, Layout<kN, kParts, false>::kTotal);
      }
    });
  });
  CheckLaunch("ssd's walk");
}

}  // namespace adder::cuda::tensor
