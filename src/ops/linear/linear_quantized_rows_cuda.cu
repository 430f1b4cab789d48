// linear of few rows and quantized weights on CUDA: memory-bound by W. A warp takes a row of W
// after the other and copies it to shared memory in chunks of 2048 elements, several chunks ahead:
// blocks of 18 or 34 bytes lie across the pieces that memory is read by, and only from shared
// memory can each lane fetch its own. Several short rows make a chunk; the chunks of a long row are
// shared by the warps of a block where rows are few. A lane multiplies 32 elements of the chunk
// with those of x, which the block keeps as f32.
#include <algorithm>
#include <bit>

#include "adder/backend/cuda/launch.cuh"
#include "adder/backend/cuda/quantized.cuh"
#include "adder/backend/cuda/row_access.cuh"
#include "adder/ops/linear/linear_few_rows_cuda.cuh"

namespace adder::cuda {
namespace {

constexpr int kWarps = 8;  // of a block
constexpr int kThreads = 32 * kWarps;
constexpr int kBlocks = 2;  // of a multiprocessor
constexpr int kBlock = 32;  // elements of x and W that a lane multiplies at a time
constexpr int kQuads = kBlock / 4;
// Quads from a block of x to the next, so that lanes find different banks.
constexpr int kPitch = kQuads + 1;
constexpr int kEach = 2;  // blocks of a lane in a chunk
constexpr int kLanes = 32;
constexpr int kChunkBlocks = kLanes * kEach;
constexpr int kChunk = kChunkBlocks * kBlock;  // elements that a warp copies at a time
constexpr int kPiece = 16;                     // bytes that are copied at once
constexpr int64_t kMostRows = 4;               // of x
constexpr int64_t kMostShared = 200 << 10;
constexpr int kPrefetched = 2 << 10;           // bytes of W for each warp
constexpr int64_t kLittle = int64_t{4} << 20;  // bytes of W that the next kernels need not wait for

// ---- The 32 elements of a lane: Σ w · x, where x(r, i) are four neighbours of x's row r ---------

// Bytes of a word as f32, less `zero`, by numbers whose last bits are the byte.
__device__ inline float4 BytesLess(uint32_t word, float zero) {
  constexpr uint32_t kMagic = 0x4b000000u;  // 2^23
  return {__uint_as_float(__byte_perm(word, kMagic, 0x7440)) - (8388608.0f + zero),
          __uint_as_float(__byte_perm(word, kMagic, 0x7441)) - (8388608.0f + zero),
          __uint_as_float(__byte_perm(word, kMagic, 0x7442)) - (8388608.0f + zero),
          __uint_as_float(__byte_perm(word, kMagic, 0x7443)) - (8388608.0f + zero)};
}
__device__ inline float Dot(const float4& a, const float4& b, float sum) {
  return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}
__device__ inline float HalfOf(uint32_t bits) { return __half2float(__ushort_as_half(bits)); }

// kWords words from an even address on.
template <int kWords>
__device__ inline void LoadWords(const std::byte* from, uint32_t (&words)[kWords]) {
  const auto off = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(from) % 4);  // 0 or 2
  const auto* aligned = reinterpret_cast<const uint32_t*>(from - off);
  const uint32_t shift = off * 8;
  uint32_t raw[kWords + 1];
#pragma unroll
  for (int i = 0; i <= kWords; ++i) raw[i] = aligned[i];
#pragma unroll
  for (int i = 0; i < kWords; ++i) words[i] = __funnelshift_r(raw[i], raw[i + 1], shift);
}
// The scale and the words after it of block `index`, of 2 + 4 · kWords bytes.
template <int kWords>
__device__ inline float ScaleAndWords(const std::byte* chunk, int index,
                                      uint32_t (&words)[kWords]) {
  const std::byte* begin = chunk + (2 + 4 * kWords) * index;
  const bool aligned = reinterpret_cast<uintptr_t>(begin) % 4 == 0;
  const auto* from = reinterpret_cast<const uint32_t*>(aligned ? begin : begin - 2);
  uint32_t raw[kWords + 1];
#pragma unroll
  for (int i = 0; i <= kWords; ++i) raw[i] = from[i];
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    words[i] = __funnelshift_rc(raw[i], raw[i + 1], aligned ? 16 : 32);
  }
  return HalfOf(aligned ? raw[0] & 0xffffu : raw[0] >> 16);
}

template <int kRows, class X>
__device__ void AddProducts(const BlockQ8_0*, const std::byte* chunk, int index, const X& x,
                            float (&sums)[kRows]) {
  uint32_t words[8];
  const float d = ScaleAndWords(chunk, index, words);
  float own[kRows] = {};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float4 w = BytesLess(words[i] ^ 0x80808080u, 128.0f);
#pragma unroll
    for (int r = 0; r < kRows; ++r) own[r] = Dot(w, x(r, i), own[r]);
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) sums[r] = fmaf(d, own[r], sums[r]);
}

template <int kRows, class X>
__device__ void AddProducts(const BlockQ4_0*, const std::byte* chunk, int index, const X& x,
                            float (&sums)[kRows]) {
  uint32_t words[4];
  const float d = ScaleAndWords(chunk, index, words);
  float own[kRows] = {};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float4 low = BytesLess(words[i] & 0x0f0f0f0fu, 8.0f);
    const float4 high = BytesLess(words[i] >> 4 & 0x0f0f0f0fu, 8.0f);
#pragma unroll
    for (int r = 0; r < kRows; ++r) own[r] = Dot(high, x(r, i + 4), Dot(low, x(r, i), own[r]));
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) sums[r] = fmaf(d, own[r], sums[r]);
}

template <int kRows, class X>
__device__ void AddProducts(const BlockQ4_K*, const std::byte* chunk, int index, const X& x,
                            float (&sums)[kRows]) {
  const auto* block = reinterpret_cast<const BlockQ4_K*>(chunk) + index / 8;
  const int sub = index % 8;
  const uint8_t* packed = block->scales;
  const int s = sub < 4 ? packed[sub] & 63 : (packed[sub + 4] & 15) | (packed[sub - 4] >> 6) << 4;
  const int m = sub < 4 ? packed[sub + 4] & 63 : packed[sub + 4] >> 4 | (packed[sub] >> 6) << 4;
  const uint32_t scales = *reinterpret_cast<const uint32_t*>(block);  // d, dmin
  const auto* words = reinterpret_cast<const uint32_t*>(block->q + 32 * (sub / 2));
  const int shift = sub % 2 * 4;
  float own[kRows] = {};
  float of_x[kRows] = {};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float4 w = BytesLess(words[i] >> shift & 0x0f0f0f0fu, 0.0f);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float4 four = x(r, i);
      own[r] = Dot(w, four, own[r]);
      of_x[r] += (four.x + four.y) + (four.z + four.w);
    }
  }
  const float scale = HalfOf(scales & 0xffffu) * static_cast<float>(s);
  const float min = HalfOf(scales >> 16) * static_cast<float>(m);
#pragma unroll
  for (int r = 0; r < kRows; ++r) sums[r] = fmaf(scale, own[r], fmaf(-min, of_x[r], sums[r]));
}

template <int kRows, class X>
__device__ void AddProducts(const BlockQ6_K*, const std::byte* chunk, int index, const X& x,
                            float (&sums)[kRows]) {
  const std::byte* block = chunk + index / 8 * static_cast<int>(sizeof(BlockQ6_K));
  const int sub = index % 8;
  const int k = sub % 4;
  uint32_t low[8];
  uint32_t high[8];
  LoadWords(block + offsetof(BlockQ6_K, ql) + 64 * (sub / 4) + 32 * (k % 2), low);
  LoadWords(block + offsetof(BlockQ6_K, qh) + 32 * (sub / 4), high);
  const auto* scales = reinterpret_cast<const int8_t*>(block + offsetof(BlockQ6_K, scales));
  const float d = ScaleAt(block + offsetof(BlockQ6_K, d));
#pragma unroll
  for (int part = 0; part < 2; ++part) {  // 16 elements of one scale
    float own[kRows] = {};
#pragma unroll
    for (int i = 4 * part; i < 4 * part + 4; ++i) {
      const uint32_t q = (low[i] >> (k / 2 * 4) & 0x0f0f0f0fu) | (high[i] >> (2 * k) & 0x03030303u)
                                                                     << 4;
      const float4 w = BytesLess(q, 32.0f);
#pragma unroll
      for (int r = 0; r < kRows; ++r) own[r] = Dot(w, x(r, i), own[r]);
    }
    const float scale = d * static_cast<float>(scales[2 * sub + part]);
#pragma unroll
    for (int r = 0; r < kRows; ++r) sums[r] = fmaf(scale, own[r], sums[r]);
  }
}

// ---- The rows -----------------------------------------------------------------------------------

template <class Block>
inline constexpr int kElements = sizeof(Block) > 100 ? 256 : 32;
template <class Block>
inline constexpr int kChunkBytes = kChunk / kElements<Block>* static_cast<int>(sizeof(Block));
// Chunks of a warp that are on the way or being multiplied.
template <class Block>
inline constexpr int kStages = kChunkBytes<Block> > 1600 ? 3 : 4;
// A chunk with the rest of the pieces that its first and last byte lie in.
template <class Block>
inline constexpr int kStageBytes = (kChunkBytes<Block> + 2 * (kPiece - 1)) / kPiece* kPiece;

// How rows of W, which lie densely, are dealt out.
struct Dealing {
  int lanes_log2;  // of a row: all of a warp, or fewer where that many hold a whole row
  bool split;      // all warps of a block share a row
};

// Begins to copy a piece to shared memory, of which `bytes` may be read.
__device__ inline void CopyPiece(std::byte* to, const std::byte* from, int bytes) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes)
               : "memory");
}
__device__ inline void CommitPieces() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ inline void WaitForPieces() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Shared memory: the warps' stages, then x as [kRows][blocks of K][kPitch] quads.
template <class Block, int kRows>
__global__ void __launch_bounds__(kThreads, kBlocks)
    QuantizedRowsKernel(const __grid_constant__ LinearArguments a, Dealing dealing) {
  extern __shared__ uint4 shared[];
  constexpr int kAhead = kStages<Block>;
  constexpr int kStage = kStageBytes<Block>;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  auto* const all_stages = reinterpret_cast<std::byte*>(shared);
  std::byte* const stages = all_stages + warp * kAhead * kStage;
  auto* const x = reinterpret_cast<float4*>(all_stages + kWarps * kAhead * kStage);
  const auto blocks = static_cast<int>(a.K / kBlock);  // of 32 elements, of a row
  const int row_bytes = static_cast<int>(a.K / kElements<Block>) * static_cast<int>(sizeof(Block));
  const auto* const W = static_cast<const std::byte*>(a.W.data);
  const std::byte* const W_end = W + a.N * row_bytes;

  // This warp's rows: a group of `together` from `first` on, and so on; of each the chunks `share`,
  // share + shares, ...
  const int together = 32 >> dealing.lanes_log2;
  const int own_row = lane >> dealing.lanes_log2;
  const int own_block = lane & ((1 << dealing.lanes_log2) - 1);
  const int shares = dealing.split ? kWarps : 1;
  const int share = dealing.split ? warp : 0;
  const int64_t first = dealing.split
                            ? static_cast<int64_t>(blockIdx.x)
                            : (static_cast<int64_t>(warp) * gridDim.x + blockIdx.x) * together;
  const int64_t stride =
      dealing.split ? static_cast<int64_t>(gridDim.x) : int64_t{kWarps} * gridDim.x * together;
  const int steps =
      (blocks + kChunkBlocks * shares - 1) / (kChunkBlocks * shares);  // chunks of a group
  const int group_bytes = together * row_bytes;
  const int first_byte = share * kChunkBytes<Block>;  // of a group
  const std::byte* const first_group = W + first * row_bytes;
  const int64_t stride_bytes = stride * row_bytes;

  const bool little = a.N * row_bytes <= kLittle;
  if (little) LetNextKernelBegin();
  if (lane == 0) {
    int left = kPrefetched;
    for (const std::byte* group = first_group; group < W_end && left > 0; group += stride_bytes) {
      const auto bytes = static_cast<int>(
          min(static_cast<int64_t>(group_bytes), static_cast<int64_t>(W_end - group)));
      for (int from = first_byte; from < bytes && left > 0; from += shares * kChunkBytes<Block>) {
        const int count = min(bytes - from, kChunkBytes<Block>) / kPiece * kPiece;
        if (count == 0) break;
        PrefetchBytes(group + from - reinterpret_cast<uintptr_t>(group + from) % kPiece,
                      static_cast<uint32_t>(count));
        left -= count;
      }
    }
  }
  WaitForKernelsBefore();
  if (!little) LetNextKernelBegin();

  const std::byte* ahead = first_group;
  int ahead_from = first_byte;
  int ahead_step = 0;
  int ahead_stage = 0;
  const auto fetch_next = [&] {
    if (ahead < W_end) {
      const std::byte* const chunk = ahead + ahead_from;
      const auto before = static_cast<int>(reinterpret_cast<uintptr_t>(chunk) % kPiece);
      // From the piece's first byte on: those of the chunk, and those that may be read.
      const int wanted = before + min(group_bytes - ahead_from, kChunkBytes<Block>);
      const auto readable = before + static_cast<int>(min(static_cast<int64_t>(W_end - chunk),
                                                          int64_t{kChunkBytes<Block> + kPiece}));
      std::byte* const to = stages + ahead_stage * kStage;
#pragma unroll
      for (int i = 0; i < kStage; i += 32 * kPiece) {
        const int at = i + lane * kPiece;
        if (at < min(wanted, readable)) {
          CopyPiece(to + at, chunk - before + at, min(kPiece, readable - at));
        }
      }
      ahead_from += shares * kChunkBytes<Block>;
      if (++ahead_step == steps) {
        ahead_step = 0;
        ahead_from = first_byte;
        ahead += stride_bytes;
      }
    }
    ahead_stage = ahead_stage + 1 == kAhead ? 0 : ahead_stage + 1;
    CommitPieces();
  };
#pragma unroll 1
  for (int i = 0; i < kAhead - 1; ++i) fetch_next();
  const auto place = [&](int r, int quad) {
    return (r * blocks + quad / kQuads) * kPitch + quad % kQuads;
  };
  KeepRows<kThreads, kRows>(a.x, a.rows, kQuads * blocks, x, place);
  __syncthreads();

  float sums[kRows] = {};
  int stage = 0;
  int64_t n = first;
  for (const std::byte* group = first_group; group < W_end; group += stride_bytes, n += stride) {
    int from = first_byte;
    int block = share * kChunkBlocks + own_block;  // of the row, this lane's first
    for (int step = 0; step < steps; ++step) {
      WaitForPieces<kAhead - 2>();
      __syncwarp();  // the chunk is there, and nobody reads the one before any more
      fetch_next();
      const auto before = static_cast<int>(reinterpret_cast<uintptr_t>(group + from) % kPiece);
      const std::byte* const chunk = stages + stage * kStage + before + own_row * row_bytes;
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        const int its = block + j * kLanes;
        // Lanes of short rows have one block at most.
        if (its >= blocks || n + own_row >= a.N) continue;
        AddProducts<kRows>(
            static_cast<const Block*>(nullptr), chunk, own_block + j * kLanes,
            [&](int r, int i) { return x[(r * blocks + its) * kPitch + i]; }, sums);
      }
      stage = stage + 1 == kAhead ? 0 : stage + 1;
      from += shares * kChunkBytes<Block>;
      block += shares * kChunkBlocks;
    }
    float result = 0;  // of x's row own_block
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float sum = sums[r];
      for (int distance = (1 << dealing.lanes_log2) / 2; distance > 0; distance /= 2) {
        sum += __shfl_xor_sync(0xffffffffu, sum, distance);
      }
      if (own_block == r) result = sum;
      sums[r] = 0;
    }
    if (dealing.split) {
      __shared__ float parts[kWarps][kRows];
      __syncthreads();  // those of the row before have been read
      if (lane < kRows) parts[warp][lane] = result;
      __syncthreads();
      if (warp > 0) continue;
      if (lane < kRows) {
        for (int other = 1; other < kWarps; ++other) result += parts[other][lane];
      }
    }
    const int64_t own = n + own_row;
    if (own_block < kRows && own_block < a.rows && own < a.N) {
      if (a.bias != nullptr) result += a.bias[own];
      StoreOne(result, a.y.data, own_block * a.y.stride + own, a.y.dtype);
    }
  }
}

template <class Block, int kRows>
int64_t SharedBytes(int64_t K) {
  return kWarps * kStages<Block> * kStageBytes<Block> +
         kRows * (K / kBlock) * kPitch * static_cast<int64_t>(sizeof(float4));
}

Dealing DealingOf(const Context& context, const LinearArguments& a) {
  const auto blocks = static_cast<uint64_t>(a.K / kBlock);
  // A row's sums, one for each of x's rows, are its first lanes'.
  const auto lanes =
      std::clamp<uint64_t>(std::bit_ceil(blocks), static_cast<uint64_t>(kMostRows), 32);
  return {.lanes_log2 = std::countr_zero(lanes),
          .split = blocks > kChunkBlocks && a.N <= 4 * context.multiprocessors()};
}

template <class Block, int kRows>
void Launch(Context& context, const LinearArguments& a) {
  const int64_t bytes = SharedBytes<Block, kRows>(a.K);
  const auto kernel = QuantizedRowsKernel<Block, kRows>;
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)),
        "linear's shared memory");
  const Dealing dealing = DealingOf(context, a);
  const int64_t rows = dealing.split ? 1 : kWarps * (32 >> dealing.lanes_log2);  // of a block
  const int64_t grid =
      std::min((a.N + rows - 1) / rows, int64_t{kBlocks} * context.multiprocessors());
  LaunchOverlapped(context,
                   {.name = "linear of few rows",
                    .grid = static_cast<unsigned>(grid),
                    .block = kThreads,
                    .shared_bytes = static_cast<size_t>(bytes)},
                   kernel, a, dealing);
}

}  // namespace

bool TakesQuantizedRows(const LinearArguments& a) {
  if (!IsQuantized(a.W.dtype) || a.rows > kMostRows || a.K == 0) return false;
  const int64_t x_size = a.x.dtype == DType::kF32 ? 4 : 2;
  const int64_t rounded = a.rows <= 2 ? a.rows : kMostRows;
  const bool dense = a.W_row_bytes == DTypeBytes(a.W.dtype, a.K);
  return dense && reinterpret_cast<uintptr_t>(a.W.data) % kPiece == 0 &&
         AlignedTo(4 * x_size, a.x.data, a.x.stride, x_size) &&
         SharedBytes<BlockQ8_0, 1>(rounded * a.K) <= kMostShared;
}

void LinearQuantizedRows(Context& context, const LinearArguments& a) {
  VisitBlock(a.W.dtype, [&](auto block) {
    using Block = decltype(block);
    if (a.rows == 1) {
      Launch<Block, 1>(context, a);
    } else if (a.rows == 2) {
      Launch<Block, 2>(context, a);
    } else {
      Launch<Block, 4>(context, a);
    }
  });
}

}  // namespace adder::cuda
