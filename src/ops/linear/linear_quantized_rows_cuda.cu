// linear of few rows and quantized weights on CUDA: memory-bound by W. A warp takes a row of W
// after the other and copies it to shared memory in chunks of 1024 elements, several chunks ahead:
// blocks of 18 or 34 bytes lie across the pieces that memory is read by, and only from shared
// memory can each lane fetch its own. A lane multiplies 32 elements of the chunk with those of x,
// which the block keeps as f32, four by four and block by block, so that lanes find different
// banks.
#include <algorithm>

#include "adder/backend/cuda/quantized.cuh"
#include "adder/backend/cuda/row_access.cuh"
#include "adder/ops/linear/linear_few_rows_cuda.cuh"

namespace adder::cuda {
namespace {

constexpr int kWarps = 8;  // of a block
constexpr int kThreads = 32 * kWarps;
constexpr int kStages = 4;
constexpr int kBlock = 32;           // elements of x and W that a lane multiplies
constexpr int kChunk = 32 * kBlock;  // of a warp
constexpr int64_t kMostRows = 4;     // of x
constexpr int64_t kMostShared = 200 << 10;

// ---- The 32 elements of a lane: Σ w · x, where x(i) are four neighbours of x
// ----------------------

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

// The scale and the kWords words after it of block `lane`, of 2 + 4 · kWords bytes, which begins at
// an even address.
template <int kWords>
__device__ inline float ScaleAndWords(const std::byte* chunk, int lane, uint32_t (&words)[kWords]) {
  const auto begin = reinterpret_cast<uintptr_t>(chunk + (2 + 4 * kWords) * lane);
  const bool aligned = begin % 4 == 0;
  const auto* from = reinterpret_cast<const uint32_t*>(begin & ~uintptr_t{3});
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
__device__ void AddProducts(const BlockQ8_0*, const std::byte* chunk, int lane, const X& x,
                            float (&sums)[kRows]) {
  uint32_t words[8];
  const float d = ScaleAndWords(chunk, lane, words);
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
__device__ void AddProducts(const BlockQ4_0*, const std::byte* chunk, int lane, const X& x,
                            float (&sums)[kRows]) {
  uint32_t words[4];
  const float d = ScaleAndWords(chunk, lane, words);
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
__device__ void AddProducts(const BlockQ4_K*, const std::byte* chunk, int lane, const X& x,
                            float (&sums)[kRows]) {
  const auto* block = reinterpret_cast<const BlockQ4_K*>(chunk) + lane / 8;
  const int sub = lane % 8;
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

// ---- The rows -----------------------------------------------------------------------------------

template <class Block>
inline constexpr int kElements = sizeof(Block) > 100 ? 256 : 32;
template <class Block>
inline constexpr int kChunkBytes = kChunk / kElements<Block>* static_cast<int>(sizeof(Block));

// Shared memory: the warps' chunks, then x as [kRows][8][blocks of K] quads.
template <class Block, int kRows>
__global__ void __launch_bounds__(kThreads)
    QuantizedRowsKernel(const __grid_constant__ LinearArguments a) {
  extern __shared__ __align__(16) std::byte shared[];
  constexpr int kStageBytes = kChunkBytes<Block>;
  static_assert(kStageBytes % 16 == 0);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  std::byte* stages = shared + warp * kStages * kStageBytes;
  auto* x = reinterpret_cast<float4*>(shared + kWarps * kStages * kStageBytes);
  const auto blocks = static_cast<int>(a.K / kBlock);
  const int64_t row_bytes = a.K / kElements<Block> * static_cast<int64_t>(sizeof(Block));

  // Chunk `index` of this warp's rows, one after the other.
  const int chunks = (blocks + 31) / 32;  // of a row
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kWarps + warp;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps;
  const int64_t count = first_row < a.N ? (a.N - first_row + step - 1) / step * chunks : 0;
  const auto fetch = [&](int64_t row, int chunk, int stage) {
    const int64_t begin = static_cast<int64_t>(chunk) * kStageBytes;  // of the row
    const int bytes = static_cast<int>(min(static_cast<int64_t>(kStageBytes), row_bytes - begin));
    const std::byte* from = static_cast<const std::byte*>(a.W.data) + row * a.W_row_bytes + begin;
    std::byte* to = stages + stage * kStageBytes;
    for (int i = lane * 16; i < bytes; i += 32 * 16) {
      const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to + i));
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from + i));
    }
  };
  int64_t ahead_row = first_row;
  int ahead_chunk = 0;
  const auto fetch_next = [&](int64_t index) {
    if (index < count) {
      fetch(ahead_row, ahead_chunk, static_cast<int>(index % kStages));
      if (++ahead_chunk == chunks) {
        ahead_chunk = 0;
        ahead_row += step;
      }
    }
    asm volatile("cp.async.commit_group;");
  };
#pragma unroll
  for (int i = 0; i < kStages - 1; ++i) fetch_next(i);

  for (int i = static_cast<int>(threadIdx.x); i < kRows * 8 * blocks; i += kThreads) {
    const int r = i / (8 * blocks);
    const int quad = i % (8 * blocks);  // of the row, as it lies in memory
    float four[4];
    LoadRow<4>(a.x, min(static_cast<int64_t>(r), a.rows - 1), quad * 4, four);
    x[(r * 8 + quad % 8) * blocks + quad / 8] = {four[0], four[1], four[2], four[3]};
  }
  __syncthreads();

  float sums[kRows] = {};
  int64_t row = first_row;
  int chunk = 0;
  for (int64_t index = 0; index < count; ++index) {
    asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 2) : "memory");
    __syncwarp();  // the chunk is there, and nobody reads the one before any more
    fetch_next(index + kStages - 1);
    const int block = chunk * 32 + lane;
    if (block < blocks) {
      AddProducts<kRows>(
          static_cast<const Block*>(nullptr), stages + index % kStages * kStageBytes, lane,
          [&](int r, int i) { return x[(r * 8 + i) * blocks + block]; }, sums);
    }
    if (++chunk < chunks) continue;
    chunk = 0;
    float own = 0;  // of x's row `lane`
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float sum = WarpSum(sums[r]);
      if (lane == r) own = sum;
      sums[r] = 0;
    }
    if (lane < kRows && lane < a.rows) {
      if (a.bias != nullptr) own += a.bias[row];
      StoreOne(own, a.y.data, lane * a.y.stride + row, a.y.dtype);
    }
    row += step;
  }
}

template <class Block, int kRows>
int64_t SharedBytes(int64_t K) {
  return kWarps * kStages * kChunkBytes<Block> + kRows * K * 4;
}

template <class Block, int kRows>
void Launch(Context& context, const LinearArguments& a) {
  const int64_t bytes = SharedBytes<Block, kRows>(a.K);
  const auto kernel = QuantizedRowsKernel<Block, kRows>;
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)),
        "linear's shared memory");
  const int64_t at_a_time = std::max<int64_t>(1, (int64_t{220} << 10) / (bytes + 1024));
  const int64_t grid = std::min((a.N + kWarps - 1) / kWarps,
                                std::min<int64_t>(at_a_time, 6) * context.multiprocessors());
  kernel<<<static_cast<unsigned>(grid), kThreads, static_cast<size_t>(bytes), context.stream()>>>(
      a);
}

}  // namespace

bool TakesQuantizedRows(const LinearArguments& a) {
  // Blocks of q6_k are unpacked for cuBLASLt.
  if (!IsQuantized(a.W.dtype) || a.W.dtype == DType::kQ6_K) return false;
  if (a.rows > kMostRows || a.K == 0) return false;
  const int64_t x_size = a.x.dtype == DType::kF32 ? 4 : 2;
  const int64_t rounded = a.rows <= 2 ? a.rows : kMostRows;
  // Rows in pieces of 16 bytes; the last piece of one is whole.
  const int64_t blocks_bytes = a.K / (a.W.dtype == DType::kQ4_K ? 256 : 32) *
                               (a.W.dtype == DType::kQ8_0   ? int64_t{sizeof(BlockQ8_0)}
                                : a.W.dtype == DType::kQ4_0 ? int64_t{sizeof(BlockQ4_0)}
                                                            : int64_t{sizeof(BlockQ4_K)});
  return blocks_bytes % 16 == 0 && a.W_row_bytes % 16 == 0 &&
         reinterpret_cast<uintptr_t>(a.W.data) % 16 == 0 &&
         AlignedTo(4 * x_size, a.x.data, a.x.stride, x_size) &&
         SharedBytes<BlockQ8_0, 1>(0) + rounded * a.K * 4 <= kMostShared;
}

void LinearQuantizedRows(Context& context, const LinearArguments& a) {
  const auto launch = [&](auto block) {
    using Block = decltype(block);
    if (a.rows == 1) {
      Launch<Block, 1>(context, a);
    } else if (a.rows == 2) {
      Launch<Block, 2>(context, a);
    } else {
      Launch<Block, 4>(context, a);
    }
  };
  switch (a.W.dtype) {
    case DType::kQ8_0:
      launch(BlockQ8_0{});
      break;
    case DType::kQ4_0:
      launch(BlockQ4_0{});
      break;
    default:
      launch(BlockQ4_K{});
      break;
  }
  CheckLaunch("linear of few rows");
}

}  // namespace adder::cuda
