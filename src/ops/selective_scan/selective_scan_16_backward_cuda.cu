// selective_scan on CUDA, backward, for up to 16 real states.
//
// A warp owns 16 channels, a lane four states of two of them. A block walks back over a segment,
// chunk after chunk (of kChunkRows rows, each from its saved state). What a row of a channel is
// computed with is prepared for a whole chunk, by threads that take eight channels of a row each.
// Then a sweep forward finds the state before each tile of kRows rows, and tile by tile from the
// last to the first a tile's decays and states are computed once more, into registers, and the
// gradient of the state is carried through them:
//
//     G += C · dy',  dC = h · dy',  dB = G · v,  dv = Σ G · B,  W = a · G · h_before,
//     dA += t · W,  dt = Σ A · W,  G = a · G
//
// with t = dt', v = t · x, a = exp(t · A), dy' = dy · silu(z). The sums over states take the places
// of v and dy', and from them dx, ddt and dz of the whole chunk are made as it was prepared.
//
// dB and dC are sums over channels. A lane adds up its two channels, the tensor cores four lanes: a
// lane's sums are a piece of a left factor as they are, and a right factor of zeros and ones sends
// each of them to a column of its own. They are rounded to bf16 for that where dB and dC are bf16,
// whose own rounding hides it; otherwise they are split into two or three bf16 numbers that carry
// all their digits. Warps are added in a block, blocks by one last kernel: no atomics, the same
// bits in every run.
//
// Where channels and sequences do not fill the device, segments of rows are found their last
// gradients of the state first (FindSegmentGradients), as the forward does with states. Where they
// fill it more than once, but its last turn badly, sequences are cut into segments that are done
// one after the other: a block waits for the one that does the rows behind its own, which began a
// turn before.
#include <algorithm>
#include <utility>
#include <vector>

#include "adder/backend/cuda/column_sums.cuh"
#include "adder/backend/cuda/launch.cuh"
#include "adder/ops/selective_scan/selective_scan_16_cuda.cuh"

namespace adder::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kPair = 2;  // channels of a lane
constexpr int kQuad = 4;  // states of a lane
constexpr int kWarpChannels = 16;
constexpr int kChannels = kWarps * kWarpChannels;  // of a block
constexpr int kBlocks = 2;                         // of a multiprocessor, at a time
constexpr int kRows = 8;                           // of a tile
constexpr int kTiles = static_cast<int>(kChunkRows) / kRows;
constexpr int kTerms = 2 * kSixteen;  // of a row: of dB, then of dC
constexpr int kTermQuads = kTerms / 4;
constexpr int kSums = 3;  // over states: dv, dt, y
// Threads share a chunk's rows, where they prepare and finish them, by eights of channels.
constexpr int kEight = 8;
constexpr int kPartRows = kThreads / (kChannels / kEight);  // of all threads at a time
constexpr int kParts = static_cast<int>(kChunkRows) / kPartRows;
static_assert(kTermQuads * kPartRows == kThreads);

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
  float* d_interval;    // [blocks, rows]
  bool in_eights;       // activations and their gradients can be read and written so
  bool B_in_fours, C_in_fours;
};

// A chunk in shared memory. Pieces of 16 bytes lie where PieceAt says.
struct Chunk {
  float4 steps[kChunkRows][kChannels / 2];  // of two channels each t and v; v gives way to dv
  float4 dy[kChunkRows][kChannels / 4];     // dy' of four; gives way to y before D and the gate
  float4 dt[kChunkRows][kChannels / 4];     // Σ A · W, A in the units of RealRate
  // The state before each tile, [2][32] quads of a warp's lanes; once the tile is done the sums of
  // its terms over the warp's channels, [kRows][kTerms] floats.
  float4 slots[kTiles][kWarps][2][32];
};
static_assert(sizeof(float4) * 2 * 32 == sizeof(float) * kRows * kTerms);
// What tiles read beside it.
struct Coefficients {
  float B_rows[kChunkRows][kSixteen];
  float C_rows[kChunkRows][kSixteen];
  float biases[kChannels];
  float skips[kChannels];  // D
};

// So that threads that follow each other always find different banks, whether they take a piece
// each or, by eights of channels, every second or fourth.
__device__ inline int PieceAt(int piece) { return piece ^ piece / 8; }
// The same for quads of the terms of a row.
__device__ inline int TermsAt(int row, int quad) { return row * kTermQuads + (quad ^ row % 4); }

// sums += a · b, of shapes [16, 16] and [16, 8], as the tensor cores take them. With g = lane / 4
// and t = lane % 4, a lane holds of a: columns 2t and 2t + 1 of row g, then of row g + 8, then
// columns 2t + 8 and 2t + 9 of these; of b: rows 2t and 2t + 1 of column g, then rows 2t + 8 and 2t
// + 9; of the sums: columns 2t and 2t + 1 of row g, then of row g + 8.
__device__ inline void MultiplyAdd(float (&sums)[4], const uint32_t (&a)[4],
                                   const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Two numbers as bf16; what rounding took is left in them.
__device__ inline uint32_t TakeRounded(float& low, float& high) {
  const uint32_t word = PackTwo<__nv_bfloat16>(low, high);
  low -= __uint_as_float(word << 16);
  high -= __uint_as_float(word & 0xffff0000u);
  return word;
}

// Adds the values of two lanes `distance` apart: the lower one gets the sums of the first half of
// them, the upper one those of the second.
template <int kCount>
__device__ inline void AddHalves(const float (&values)[kCount], bool upper, int distance,
                                 float (&sums)[kCount / 2]) {
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i) {
    const float mine = upper ? values[kCount / 2 + i] : values[i];
    const float other = upper ? values[i] : values[kCount / 2 + i];
    sums[i] = mine + __shfl_xor_sync(0xffffffffu, other, distance);
  }
}

__device__ inline void UnpackFour(const float4& four, float* to) {
  to[0] = four.x;
  to[1] = four.y;
  to[2] = four.z;
  to[3] = four.w;
}

// Eight channels of a row as they lie in memory.
template <class T>
struct Eight {
  uint4 bits[sizeof(T) / 2];
};
// The first `count` of them, then zeros. kWhole: all, aligned to 16 bytes.
template <bool kWhole, class T>
__device__ inline Eight<T> FetchEight(const T* from, int count) {
  Eight<T> eight = {};
  if constexpr (kWhole) {
#pragma unroll
    for (size_t i = 0; i < sizeof(T) / 2; ++i) {
      eight.bits[i] = reinterpret_cast<const uint4*>(from)[i];
    }
  } else {
    T numbers[kEight];
#pragma unroll
    for (int k = 0; k < kEight; ++k) numbers[k] = k < count ? from[k] : FromFloat<T>(0.0f);
    memcpy(&eight, numbers, sizeof(eight));
  }
  return eight;
}
template <class T>
__device__ inline void UnpackEight(const Eight<T>& eight, float (&to)[kEight]) {
  constexpr int kPiece = 16 / static_cast<int>(sizeof(T));
#pragma unroll
  for (int i = 0; i < kEight; i += kPiece) {
    float piece[kPiece];
    Unpack<T>(eight.bits[i / kPiece], piece);
#pragma unroll
    for (int k = 0; k < kPiece; ++k) to[i + k] = piece[k];
  }
}
template <bool kWhole, class T>
__device__ inline void StoreEight(const float (&from)[kEight], T* to, int count) {
  if constexpr (!kWhole) {
#pragma unroll
    for (int k = 0; k < kEight; ++k) {
      if (k < count) to[k] = FromFloat<T>(from[k]);
    }
  } else if constexpr (sizeof(T) == 2) {
    __stcg(reinterpret_cast<uint4*>(to),
           make_uint4(PackTwo<T>(from[0], from[1]), PackTwo<T>(from[2], from[3]),
                      PackTwo<T>(from[4], from[5]), PackTwo<T>(from[6], from[7])));
  } else {
    __stcg(reinterpret_cast<float4*>(to), make_float4(from[0], from[1], from[2], from[3]));
    __stcg(reinterpret_cast<float4*>(to) + 1, make_float4(from[4], from[5], from[6], from[7]));
  }
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
  // Of its own, so that the compiler knows what stores to the chunk leave alone.
  __shared__ Coefficients coefficients;
  auto& [B_rows, C_rows, biases, skips] = coefficients;
  Chunk& in_chunk = *reinterpret_cast<Chunk*>(shared);
  const SelectiveScanBackwardArguments& b = p.b;
  const SelectiveScanArguments& a = b.forward;
  const Place place = PlaceOf<kChannels>(a, p.segments, p.blocks_per_group);
  const Segment& segment = place.segment;
  const int tid = static_cast<int>(threadIdx.x);
  const int warp = tid / 32;
  const int lane = tid % 32;
  const int pair = lane % (kWarpChannels / kPair);  // which channels
  const int quad = lane / (kWarpChannels / kPair);  // which states
  const int c = warp * kWarpChannels + pair * kPair;
  const auto states = static_cast<int>(a.states);
  const int state0 = quad * kQuad;
  // The sums over states end where one lane has one channel of the pair in one row of two.
  const bool second_channel = quad % 2 == 1;
  const bool second_row = quad / 2 == 1;

  // This lane's states of its channels in [index, D, N].
  using State = float[kPair][kQuad];
  const auto load = [&](const float* from, int64_t index, State& to) {
#pragma unroll
    for (int i = 0; i < kPair; ++i) {
      const bool owns = c + i < place.count;
      const float* own = from + (index * a.channels + place.channel0 + c + i) * states + state0;
      if (owns && states == kSixteen) {
        UnpackFour(*reinterpret_cast<const float4*>(own), to[i]);
        continue;
      }
#pragma unroll
      for (int k = 0; k < kQuad; ++k) to[i][k] = owns && state0 + k < states ? own[k] : 0.0f;
    }
  };
  const auto store = [&](const State& from, float* to, int64_t index) {
#pragma unroll
    for (int i = 0; i < kPair; ++i) {
      float* own = to + (index * a.channels + place.channel0 + c + i) * states + state0;
#pragma unroll
      for (int k = 0; k < kQuad; ++k) {
        if (c + i < place.count && state0 + k < states) own[k] = from[i][k];
      }
    }
  };

  State rate, G = {}, dA = {};
  load(a.A, 0, rate);
#pragma unroll
  for (int i = 0; i < kPair; ++i) {
#pragma unroll
    for (int k = 0; k < kQuad; ++k) rate[i][k] = RealRate(rate[i][k]);
  }
  if (tid < kChannels) {
    const int64_t channel = place.channel0 + tid;
    biases[tid] = tid < place.count && a.dt_bias != nullptr ? a.dt_bias[channel] : 0.0f;
    skips[tid] = tid < place.count && a.D != nullptr ? a.D[channel] : 0.0f;
  }
  const auto counter = [&] {
    const int64_t blocks = a.groups * p.blocks_per_group;
    return p.done + segment.sequence * blocks + blockIdx.x % blocks;
  };
  if (p.first != nullptr) {
    load(p.first, place.index, G);
  } else if (!segment.last) {
    AwaitCount(counter(), static_cast<unsigned>(segment.after));
    // Past the first level's cache, which may hold what another segment handed on.
#pragma unroll
    for (int i = 0; i < kPair; ++i) {
      const float* own =
          p.handed_on + (segment.sequence * a.channels + place.channel0 + c + i) * states + state0;
#pragma unroll
      for (int k = 0; k < kQuad; ++k) {
        G[i][k] = c + i < place.count && state0 + k < states ? __ldcg(own + k) : 0.0f;
      }
    }
  } else if (b.dhT != nullptr) {
    load(b.dhT, segment.sequence, G);
  }

  // The eight channels that this thread prepares and finishes rows of, from row part_row on.
  const int column = tid % (kChannels / kEight) * kEight;
  const int part_row = tid / (kChannels / kEight);
  const int eight_count = max(0, min(kEight, place.count - column));
  struct Fetched {
    Eight<T> x, dt, z, dy;
  };
  const auto row_of = [&](const Rows& rows, int64_t row) {
    return static_cast<T*>(rows.data) + row * rows.stride + place.channel0 + column;
  };
  const auto fetch = [&](auto whole, int64_t row, bool exists) {
    const int count = exists ? eight_count : 0;
    const auto eight = [&](const Rows& rows) {
      return FetchEight<whole()>(row_of(rows, row), count);
    };
    Fetched fetched = {};
    fetched.x = eight(a.x);
    fetched.dt = eight(a.dt);
    fetched.dy = eight(b.dy);
    if (kGated) fetched.z = eight(a.z);
    return fetched;
  };
  // Calls visit(fetched, row) for this thread's rows of a chunk. Whole ones are fetched several at
  // a time, before the first is visited.
  const auto visit_rows = [&](auto whole, int64_t row0, int rows, auto visit) {
    constexpr int kTogether = whole() ? kParts * 2 / static_cast<int>(sizeof(T)) : 1;
#pragma unroll 1
    for (int first = part_row; first < static_cast<int>(kChunkRows);
         first += kTogether * kPartRows) {
      Fetched fetched[kTogether];
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        const int row = first + i * kPartRows;
        fetched[i] = fetch(whole, row0 + row, row < rows);
      }
#pragma unroll
      for (int i = 0; i < kTogether; ++i) visit(fetched[i], first + i * kPartRows);
    }
  };
  // Over rows, of the eight channels: of dD and of d_dt_bias, two of each in one of four lanes.
  float channel_sums[2][2] = {};

  __syncthreads();  // biases and skips are there
  for (int64_t chunk = (segment.rows - 1) / kChunkRows; segment.rows > 0 && chunk >= 0; --chunk) {
    const int64_t row0 = segment.row + chunk * kChunkRows;
    const int rows = static_cast<int>(min(kChunkRows, segment.rows - chunk * kChunkRows));
    const int tile_count = (rows + kRows - 1) / kRows;
    const bool whole_eights = p.in_eights && place.count == kChannels && rows == kChunkRows;
    const auto interval_of = [&](int row) {
      if (row >= rows) return 0.0f;
      return a.interval == nullptr ? 1.0f : a.interval[row0 + row];
    };
    State swept;
    load(b.chunk_states, segment.chunk + chunk, swept);

    // Rows that the chunk lacks change nothing, their t is 0; nor do channels that the block lacks.
    uint4 projections[kParts];
    const bool of_C = tid % kTermQuads >= kTermQuads / 2;
    const int projection = tid % (kTermQuads / 2) * 4;
    const Rows& projection_rows = of_C ? a.C : a.B;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const int row = part * kPartRows + part_row;
      projections[part] = FetchFour(projection_rows, row0 + row, place.group * states, projection,
                                    row < rows ? states : 0, of_C ? p.C_in_fours : p.B_in_fours);
    }
    const auto prepare = [&](auto whole) {
      visit_rows(whole, row0, rows, [&](const Fetched& fetched, int row) {
        const float interval = interval_of(row);
        float t[kEight], v[kEight], g[kEight];
        UnpackEight(fetched.dt, t);
        UnpackEight(fetched.x, v);
        UnpackEight(fetched.dy, g);
#pragma unroll
        for (int k = 0; k < kEight; ++k) {
          t[k] = Softplus(t[k] + biases[column + k]) * interval;
          v[k] *= t[k];
        }
        if (kGated) {
          float z[kEight];
          UnpackEight(fetched.z, z);
#pragma unroll
          for (int k = 0; k < kEight; ++k) g[k] *= z[k] * Sigmoid(z[k]);
        }
#pragma unroll
        for (int k = 0; k < kEight; k += 2) {
          in_chunk.steps[row][PieceAt((column + k) / 2)] = {t[k], v[k], t[k + 1], v[k + 1]};
        }
#pragma unroll
        for (int k = 0; k < kEight; k += 4) {
          const int piece = PieceAt((column + k) / 4);
          in_chunk.dy[row][piece] = {g[k], g[k + 1], g[k + 2], g[k + 3]};
          // A tile that the chunk lacks leaves no sums.
          if (!whole()) in_chunk.dt[row][piece] = {0, 0, 0, 0};
        }
      });
    };
    if (whole_eights) {
      prepare(std::true_type());
    } else {
      prepare(std::false_type());
    }
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const int row = part * kPartRows + part_row;
      float* to = of_C ? C_rows[row] : B_rows[row];
      *reinterpret_cast<float4*>(to + projection) =
          ConvertFour(projections[part], projection_rows.dtype);
    }
    __syncthreads();
    if (chunk > 0 && eight_count > 0) {  // what the next chunk fetches
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        const int64_t row = row0 - kChunkRows + part * kPartRows + part_row;
        Prefetch(row_of(a.x, row));
        Prefetch(row_of(a.dt, row));
        Prefetch(row_of(b.dy, row));
        if (kGated) Prefetch(row_of(a.z, row));
      }
    }

    const auto keep = [&](int tile, const State& h) {
#pragma unroll
      for (int i = 0; i < kPair; ++i) {
        in_chunk.slots[tile][warp][i][lane] = {h[i][0], h[i][1], h[i][2], h[i][3]};
      }
    };
    // Of a row: t and v of this lane's channels, dy' of them, its states' B or C.
    const int steps_piece = PieceAt(c / 2);
    const int dy_piece = PieceAt(c / 4);
    const auto step_of = [&](int row, float(&t)[kPair], float(&v)[kPair]) {
      const float4 step = in_chunk.steps[row][steps_piece];
      t[0] = step.x;
      v[0] = step.y;
      t[1] = step.z;
      v[1] = step.w;
    };
    const auto quad_of = [&](const float(&from)[kSixteen], float(&to)[kQuad]) {
      UnpackFour(*reinterpret_cast<const float4*>(&from[state0]), to);
    };
    keep(0, swept);
    for (int tile = 0; tile + 1 < tile_count; ++tile) {
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        float t[kPair], v[kPair], B[kQuad];
        step_of(tile * kRows + row, t, v);
        quad_of(B_rows[tile * kRows + row], B);
#pragma unroll
        for (int i = 0; i < kPair; ++i) {
#pragma unroll
          for (int k = 0; k < kQuad; ++k) {
            swept[i][k] = fmaf(Exp2(t[i] * rate[i][k]), swept[i][k], v[i] * B[k]);
          }
        }
      }
      keep(tile + 1, swept);
    }

    // The right factors. A lane's sums of dB are columns 2t and 2t + 1 of the left factor's rows g
    // and g + 8, those of dC columns 2t + 8 and 2t + 9. These go, each over all t, to columns 0 to
    // 3 of the result, or where the row is odd to columns 4 to 7.
    const auto ones = [&](int first) {
      return lane / 4 == first ? 0x00003f80u : lane / 4 == first + 1 ? 0x3f800000u : 0u;
    };
    const uint32_t columns[2][2] = {{ones(0), ones(2)}, {ones(4), ones(6)}};
    for (int tile = tile_count - 1; tile >= 0; --tile) {
      State h[kRows], decay[kRows], before;
#pragma unroll
      for (int i = 0; i < kPair; ++i) UnpackFour(in_chunk.slots[tile][warp][i][lane], before[i]);
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        float t[kPair], v[kPair], B[kQuad];
        step_of(tile * kRows + row, t, v);
        quad_of(B_rows[tile * kRows + row], B);
        const State& last = row == 0 ? before : h[max(row - 1, 0)];
#pragma unroll
        for (int i = 0; i < kPair; ++i) {
#pragma unroll
          for (int k = 0; k < kQuad; ++k) {
            decay[row][i][k] = Exp2(t[i] * rate[i][k]);
            h[row][i][k] = fmaf(decay[row][i][k], last[i][k], v[i] * B[k]);
          }
        }
      }

      // So that what is read again is not kept: registers are for states and decays.
      __syncwarp();

      float terms[kRows / 2][4] = {};  // of two rows each, of half of the warp's channels
      float totals[kRows / 2][kSums];  // of one of two rows
      float two_rows[2 * kSums];
#pragma unroll
      for (int row = kRows - 1; row >= 0; --row) {
        float t[kPair], v[kPair], B[kQuad], C[kQuad], dB[kQuad], dC[kQuad];
        step_of(tile * kRows + row, t, v);
        const float2 two =
            reinterpret_cast<const float2*>(&in_chunk.dy[tile * kRows + row][dy_piece])[pair % 2];
        const float g[kPair] = {two.x, two.y};
        quad_of(B_rows[tile * kRows + row], B);
        quad_of(C_rows[tile * kRows + row], C);
        const State& last = row == 0 ? before : h[max(row - 1, 0)];
        float sums[kPair * kSums] = {};
#pragma unroll
        for (int i = 0; i < kPair; ++i) {
#pragma unroll
          for (int k = 0; k < kQuad; ++k) {
            float& gradient = G[i][k];
            const float state = h[row][i][k];
            gradient = fmaf(C[k], g[i], gradient);
            sums[i * kSums] = fmaf(B[k], gradient, sums[i * kSums]);
            sums[i * kSums + 2] = fmaf(C[k], state, sums[i * kSums + 2]);
            dB[k] = i == 0 ? gradient * v[i] : fmaf(gradient, v[i], dB[k]);
            dC[k] = i == 0 ? state * g[i] : fmaf(state, g[i], dC[k]);
            gradient *= decay[row][i][k];
            const float W = gradient * last[i][k];
            dA[i][k] = fmaf(t[i], W, dA[i][k]);
            sums[i * kSums + 1] = fmaf(rate[i][k], W, sums[i * kSums + 1]);
          }
        }
#pragma unroll
        for (int s = 0; s < kSplits; ++s) {
          const uint32_t left[4] = {TakeRounded(dB[0], dB[1]), TakeRounded(dB[2], dB[3]),
                                    TakeRounded(dC[0], dC[1]), TakeRounded(dC[2], dC[3])};
          MultiplyAdd(terms[row / 2], left, columns[row % 2]);
        }
        float channel[kSums];
        AddHalves(sums, second_channel, 8, channel);
#pragma unroll
        for (int i = 0; i < kSums; ++i) two_rows[row % 2 * kSums + i] = channel[i];
        if (row % 2 == 0) AddHalves(two_rows, second_row, 16, totals[row / 2]);
      }
      __syncwarp();  // steps, dy and the tile's state have been read

#pragma unroll
      for (int i = 0; i < kRows / 2; ++i) {
        const int row = tile * kRows + 2 * i + (second_row ? 1 : 0);
        const int which = second_channel ? 1 : 0;  // of the pair
        reinterpret_cast<float*>(&in_chunk.steps[row][steps_piece])[2 * which + 1] = totals[i][0];
        reinterpret_cast<float*>(&in_chunk.dt[row][dy_piece])[pair % 2 * 2 + which] = totals[i][1];
        if (kGated) {
          reinterpret_cast<float*>(&in_chunk.dy[row][dy_piece])[pair % 2 * 2 + which] =
              totals[i][2];
        }
      }
      // Two lanes have sums of the same four terms, each of half of the channels.
      float4* to = in_chunk.slots[tile][warp][0];
#pragma unroll
      for (int i = 0; i < kRows / 2; i += 2) {
        const bool upper = lane / 4 % 2 == 1;
        float two[8], sums[4];
#pragma unroll
        for (int k = 0; k < 8; ++k) two[k] = terms[i + k / 4][k % 4];
        AddHalves(two, upper, 4, sums);
        const int row = 2 * (i + (upper ? 1 : 0)) + lane % 4 / 2;
        to[TermsAt(row, lane % 2 * (kTermQuads / 2) + quad)] = {sums[0], sums[1], sums[2], sums[3]};
      }
    }
    __syncthreads();

    float eight_sums[2][kEight] = {};
    const auto sums_of = [&](int row, float(&t)[kEight], float(&dv)[kEight],
                             float(&of_rate)[kEight], float(&y)[kEight]) {
#pragma unroll
      for (int k = 0; k < kEight; k += 2) {
        const float4 step = in_chunk.steps[row][PieceAt((column + k) / 2)];
        t[k] = step.x;
        dv[k] = step.y;
        t[k + 1] = step.z;
        dv[k + 1] = step.w;
      }
#pragma unroll
      for (int k = 0; k < kEight; k += 4) {
        UnpackFour(in_chunk.dt[row][PieceAt((column + k) / 4)], of_rate + k);
        UnpackFour(in_chunk.dy[row][PieceAt((column + k) / 4)], y + k);
      }
    };
    if (p.d_interval != nullptr) {
      visit_rows(std::false_type(), row0, rows, [&](const Fetched& fetched, int row) {
        float t[kEight], dv[kEight], of_rate[kEight], y[kEight], x[kEight], dt[kEight];
        sums_of(row, t, dv, of_rate, y);
        UnpackEight(fetched.x, x);
        UnpackEight(fetched.dt, dt);
        float of_row = 0;
#pragma unroll
        for (int k = 0; k < kEight; ++k) {
          const float d_t = fmaf(dv[k], x[k], of_rate[k] * kLn2);
          of_row = fmaf(d_t, Softplus(dt[k] + biases[column + k]), of_row);
        }
#pragma unroll
        for (int distance = kChannels / kEight / 2; distance > 0; distance /= 2) {
          of_row += __shfl_xor_sync(0xffffffffu, of_row, distance);
        }
        const int64_t block = blockIdx.x % (a.groups * p.blocks_per_group);
        if (column == 0 && row < rows) p.d_interval[block * a.rows + row0 + row] = of_row;
      });
    }
    const auto finish = [&](auto whole) {
      visit_rows(whole, row0, rows, [&](const Fetched& fetched, int row) {
        const auto put = [&](const Rows& to, const float(&from)[kEight]) {
          if (to.data == nullptr) return;
          StoreEight<whole()>(from, row_of(to, row0 + row), row < rows ? eight_count : 0);
        };
        const float interval = interval_of(row);
        float t[kEight], dv[kEight], of_rate[kEight], y[kEight];
        sums_of(row, t, dv, of_rate, y);
        float x[kEight], dt[kEight], g[kEight];
        UnpackEight(fetched.x, x);
        UnpackEight(fetched.dt, dt);
        UnpackEight(fetched.dy, g);
        if (kGated) {
          float z[kEight], dz[kEight];
          UnpackEight(fetched.z, z);
#pragma unroll
          for (int k = 0; k < kEight; ++k) {
            const float sigmoid = Sigmoid(z[k]);
            const float gate = g[k] * sigmoid;
            g[k] = gate * z[k];
            dz[k] = fmaf(skips[column + k], x[k], y[k]) * fmaf(g[k], 1.0f - sigmoid, gate);
          }
          put(b.dz, dz);
        }
        float dx[kEight], ddt[kEight];
#pragma unroll
        for (int k = 0; k < kEight; ++k) {
          const float biased = dt[k] + biases[column + k];
          const float d_t = fmaf(dv[k], x[k], of_rate[k] * kLn2);
          ddt[k] = d_t * (Sigmoid(biased) * interval);
          dx[k] = fmaf(dv[k], t[k], skips[column + k] * g[k]);
          eight_sums[0][k] = fmaf(g[k], x[k], eight_sums[0][k]);
          eight_sums[1][k] += ddt[k];
        }
        put(b.dx, dx);
        put(b.ddt, ddt);
      });
    };
    if (whole_eights) {
      finish(std::true_type());
    } else {
      finish(std::false_type());
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float four[4], two[2];
      AddHalves(eight_sums[i], lane / 8 % 2 == 1, 8, four);
      AddHalves(four, lane / 16 == 1, 16, two);
      channel_sums[i][0] += two[0];
      channel_sums[i][1] += two[1];
    }

    const int64_t blocks = a.groups * p.blocks_per_group;
    float* to = p.d_projection + (blockIdx.x % blocks * a.rows + row0) * kTerms;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const int row = part * kPartRows + part_row;
      if (row >= rows) continue;
      const int at = TermsAt(row % kRows, tid % kTermQuads);
      float4 sum = {0, 0, 0, 0};
#pragma unroll
      for (int other = 0; other < kWarps; ++other) {
        const float4 four = in_chunk.slots[row / kRows][other][0][at];
        sum.x += four.x;
        sum.y += four.y;
        sum.z += four.z;
        sum.w += four.w;
      }
      *reinterpret_cast<float4*>(to + row * kTerms + tid % kTermQuads * 4) = sum;
    }
  }

  if (segment.first && b.dh0 != nullptr) store(G, b.dh0, segment.sequence);
  if (p.handed_on != nullptr && !segment.first) {
    store(G, p.handed_on, segment.sequence);
    SetCount(counter(), static_cast<unsigned>(segment.after) + 1);
  }
  if (p.dA != nullptr) store(dA, p.dA, place.index);
  // Of the warps, which have had different rows.
  auto& of_warps = *reinterpret_cast<float(*)[2][kWarps][kChannels]>(shared);
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int first = column + lane / 8 % 2 * 4 + lane / 16 * 2;
    of_warps[i][warp][first] = channel_sums[i][0];
    of_warps[i][warp][first + 1] = channel_sums[i][1];
  }
  __syncthreads();
  const int which = tid / kChannels;
  const int own = tid % kChannels;
  float* to = which == 0 ? p.dD : p.d_dt_bias;
  if (to == nullptr || own >= place.count) return;
  float sum = 0;
#pragma unroll
  for (int other = 0; other < kWarps; ++other) sum += of_warps[which][other][own];
  to[place.index * a.channels + place.channel0 + own] = sum;
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
  const auto in_eights = [&](const Rows& rows) { return UnitOf(rows, step) == 16; };
  plan.in_eights = in_eights(a.x) && in_eights(a.dt) && in_eights(a.z) && in_eights(b.dy) &&
                   in_eights(b.dx) && in_eights(b.ddt) && in_eights(b.dz);
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
  if (!cut.one_pass) {
    FindSegmentGradients(context, b, cut, plan.segments, carried.data<float>());
    plan.first = carried.data<float>();
  }

  const Scratch dA(context, b.dA != nullptr ? state_bytes : 0);
  const Scratch dD(context, b.dD != nullptr ? channel_bytes : 0);
  const Scratch dbias(context, b.d_dt_bias != nullptr ? channel_bytes : 0);
  const Scratch d_projection(context, blocks * rows * kTerms * 4);
  const Scratch d_interval(context, b.d_interval != nullptr ? blocks * rows * 4 : 0);
  if (b.dA != nullptr) plan.dA = dA.data<float>();
  if (b.dD != nullptr) plan.dD = dD.data<float>();
  if (b.d_dt_bias != nullptr) plan.d_dt_bias = dbias.data<float>();
  plan.d_projection = d_projection.data<float>();
  if (b.d_interval != nullptr) plan.d_interval = d_interval.data<float>();
  const auto run = [&](auto splits) {
    const auto kernel = a.z.data == nullptr ? ScanBackwardKernel<T, splits(), false>
                                            : ScanBackwardKernel<T, splits(), true>;
    Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Chunk)),
          "selective_scan backward's shared memory");
    kernel<<<static_cast<unsigned>(segments * blocks), kThreads, sizeof(Chunk), context.stream()>>>(
        plan);
    CheckLaunch("selective_scan backward");
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
    const auto bytes = static_cast<size_t>(rows) * sizeof(float);
    Check(cudaMemsetAsync(b.d_interval, 0, bytes, context.stream()), "clear");
    AddColumnSums(context, plan.d_interval, blocks, rows, rows, b.d_interval);
  }
}

}  // namespace

bool HasRoomForBackwardSixteen(const Context& context) {
  return static_cast<int64_t>(sizeof(Chunk) + sizeof(Coefficients)) <= context.most_shared_bytes();
}

void SelectiveScanBackwardSixteen(Context& context, const SelectiveScanBackwardArguments& b) {
  VisitActivation(b.forward.x.dtype, [&](auto type) { Launch<decltype(type)>(context, b); });
}

}  // namespace adder::cuda
