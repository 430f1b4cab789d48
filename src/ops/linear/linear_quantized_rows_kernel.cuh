// linear of few rows and quantized weights on CUDA: memory-bound by W. A warp takes a row of W
// after the other and copies it to shared memory in chunks of 2048 elements, several chunks ahead:
// blocks of 18 or 34 bytes lie across the pieces that memory is read by, and only from shared
// memory can each lane fetch its own. Several short rows make a chunk; the chunks of a long row are
// shared by the warps of a block where rows are few. A lane multiplies 32 elements of the chunk
// with those of x, which the block keeps as f32, or, where they are of bf16, rounded to bytes.
#pragma once

#include <algorithm>
#include <bit>

#include "adder/backend/cuda/async_copy.cuh"
#include "adder/ops/linear/linear_quantized_products.cuh"

namespace adder::cuda::quantized_rows {

inline constexpr int kWarps = 8;  // of a block
inline constexpr int kThreads = 32 * kWarps;
inline constexpr int kBlocks = 2;  // of a multiprocessor
inline constexpr int kEach = 2;    // blocks of a lane in a chunk
inline constexpr int kLanes = 32;
inline constexpr int kChunkBlocks = kLanes * kEach;
inline constexpr int kChunk = kChunkBlocks * kBlock;  // elements that a warp copies at a time
inline constexpr int kPiece = 16;                     // bytes that are copied at once
inline constexpr int64_t kMostRows = 4;               // of x
inline constexpr int kPrefetched = 2 << 10;           // bytes of W for each warp
inline constexpr int64_t kLittle = int64_t{4}
                                   << 20;  // bytes of W that the next kernels need not wait for

template <class Block>
inline constexpr int kChunkBytes = kChunk / kElements<Block>* static_cast<int>(sizeof(Block));
// Chunks of a warp that are on the way or being multiplied.
template <class Block>
inline constexpr int kStages = kChunkBytes<Block> > 1600 ? 3 : 4;
// A chunk with the rest of the pieces that its first and last byte lie in.
template <class Block>
inline constexpr int kStageBytes = (kChunkBytes<Block> + 2 * (kPiece - 1)) / kPiece* kPiece;

// How rows of W, which lie densely, are dealt out: in groups that each make a chunk, or several.
struct Dealing {
  int blocks;            // that run
  int lanes_log2;        // of a row: all of a warp, or fewer where that many hold a whole row
  int rows;              // of a group
  int bytes;             // of a group
  bool split;            // all warps of a block share a group, each takes one chunk of every kWarps
  int steps;             // chunks of a group that a warp takes
  int chunk_stride;      // bytes from one of them to its next
  int64_t stride;        // rows from a warp's group to its next
  int64_t stride_bytes;  // the same in bytes
  int64_t to_next;       // and in bytes past all chunks of the one before
};

// Copies the first bytes of a piece, an even number.
__device__ inline void CopyBytes(std::byte* to, const std::byte* from, int bytes) {
  for (int i = 0; i < bytes; i += 2) {
    *reinterpret_cast<uint16_t*>(to + i) = *reinterpret_cast<const uint16_t*>(from + i);
  }
}

// X: ByteRows or FloatRows, as x lies in shared memory, after the warps' stages.
template <class Block, int kRows, class X, class Ends>
__global__ void __launch_bounds__(kThreads, kBlocks)
    Kernel(const __grid_constant__ LinearArguments a, const __grid_constant__ Ends ends,
           Dealing dealing) {
  extern __shared__ uint4 shared[];
  constexpr int kAhead = kStages<Block>;
  constexpr int kStage = kStageBytes<Block>;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  auto* const memory = reinterpret_cast<std::byte*>(shared);
  const int stages = warp * kAhead * kStage;           // the warp's, an offset
  const auto blocks = static_cast<int>(a.K / kBlock);  // of 32 elements, of a row
  const X x(memory + kWarps * kAhead * kStage, kRows, blocks, Ends::kStagesRows);
  const int row_bytes = static_cast<int>(a.K / kElements<Block>) * static_cast<int>(sizeof(Block));
  const auto* const W = static_cast<const std::byte*>(a.W.data);
  const std::byte* const W_end = W + a.N * row_bytes;

  // This warp's rows: a group from `first` on, and so on.
  const int own_row = lane >> dealing.lanes_log2;
  const int own_block = lane & ((1 << dealing.lanes_log2) - 1);
  const int shares = dealing.split ? kWarps : 1;
  const int share = dealing.split ? warp : 0;
  const int64_t first = dealing.split
                            ? static_cast<int64_t>(blockIdx.x)
                            : (int64_t{warp} * dealing.blocks + blockIdx.x) * dealing.rows;
  const int first_byte = share * kChunkBytes<Block>;  // of a group
  const std::byte* const first_group = W + first * row_bytes;

  const bool little = a.N * row_bytes <= kLittle;
  if (little) LetNextKernelBegin();
  if (lane == 0) {
    int left = kPrefetched;
    for (const std::byte* group = first_group; group < W_end && left > 0;
         group += dealing.stride_bytes) {
      const auto bytes = static_cast<int>(
          min(static_cast<int64_t>(dealing.bytes), static_cast<int64_t>(W_end - group)));
      for (int from = first_byte; from < bytes && left > 0; from += shares * kChunkBytes<Block>) {
        const int count = min(bytes - from, kChunkBytes<Block>) / kPiece * kPiece;
        if (count == 0) break;
        PrefetchBytes(group + from - reinterpret_cast<uintptr_t>(group + from) % kPiece,
                      static_cast<uint32_t>(count));
        left -= count;
      }
    }
  }
  ends.Prefetch(a);
  WaitForKernelsBefore();
  if (!little) LetNextKernelBegin();

  // The chunk to be copied next: where it begins, what the group has from there on, which of the
  // group's it is, and where it goes.
  constexpr int kWhole = kChunkBytes<Block>;
  const std::byte* ahead = first_group + first_byte;
  int ahead_left = dealing.bytes - first_byte;
  int ahead_step = 0;
  int ahead_stage = 0;
  const auto shared_stages =
      static_cast<unsigned>(__cvta_generic_to_shared(memory)) + static_cast<unsigned>(stages);
  const auto fetch_next = [&] {
    const int64_t readable = W_end - ahead;
    if (readable > 0) {
      // From the first byte of the chunk's first piece on.
      const auto before = static_cast<int>(reinterpret_cast<uintptr_t>(ahead) % kPiece);
      const int wanted = before + min(ahead_left, kWhole);
      const std::byte* const from = ahead - before + lane * kPiece;
      const unsigned to = shared_stages + static_cast<unsigned>(ahead_stage * kStage) +
                          static_cast<unsigned>(lane * kPiece);
      const auto copy = [&](const auto& piece) {
#pragma unroll
        for (int i = 0; i < kStage; i += 32 * kPiece) {
          if (i + lane * kPiece < wanted) piece(i);
        }
      };
      if (readable >= kWhole + kPiece) {
        copy([&](int i) { CopyPiece(to + static_cast<unsigned>(i), from + i); });
      } else {  // the end of W, past which nothing is read
        copy([&](int i) {
          const int bytes = before + static_cast<int>(readable) - i - lane * kPiece;
          if (bytes >= kPiece) {
            CopyPiece(to + static_cast<unsigned>(i), from + i);
          } else {
            CopyBytes(memory + stages + ahead_stage * kStage + lane * kPiece + i, from + i, bytes);
          }
        });
      }
      ahead += dealing.chunk_stride;
      ahead_left -= dealing.chunk_stride;
      if (++ahead_step == dealing.steps) {
        ahead += dealing.to_next;
        ahead_left = dealing.bytes - first_byte;
        ahead_step = 0;
      }
    }
    ahead_stage = ahead_stage + 1 == kAhead ? 0 : ahead_stage + 1;
    CommitCopies();
  };
#pragma unroll 1
  for (int i = 0; i < kAhead - 1; ++i) fetch_next();
  typename Ends::template Row<kRows> own;
  if (first < a.N) own.Fetch(ends, a, min(first + own_row, a.N - 1), own_block);
  ends.template KeepRows<kThreads, kRows>(a, x);
  __syncthreads();

  float sums[kRows] = {};
  int stage = 0;
  // The group's first byte in W, of which only the last bits matter.
  auto group_offset = static_cast<uint32_t>(first * row_bytes);
  for (int64_t n = first; n < a.N; n += dealing.stride) {
    const int its_end = n + own_row < a.N ? blocks : 0;
    uint32_t offset = group_offset + static_cast<uint32_t>(first_byte);
    int block = share * kChunkBlocks + own_block;  // of the row, this lane's first
    for (int step = 0; step < dealing.steps; ++step) {
      WaitForCopies<kAhead - 2>();
      __syncwarp();  // the chunk is there, and nobody reads the one before any more
      fetch_next();
      const int chunk =
          stages + stage * kStage + static_cast<int>(offset % kPiece) + own_row * row_bytes;
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        const int its = block + j * kLanes;
        // Lanes of short rows have one block at most.
        if (its >= its_end) break;
        AddProducts(
            Unpack(static_cast<const Block*>(nullptr), memory, chunk, own_block + j * kLanes), x,
            its, sums);
      }
      stage = stage + 1 == kAhead ? 0 : stage + 1;
      offset += static_cast<uint32_t>(dealing.chunk_stride);
      block += shares * kChunkBlocks;
    }
    group_offset += static_cast<uint32_t>(dealing.stride_bytes);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int distance = 16; distance > 0; distance /= 2) {
        const float other = __shfl_xor_sync(0xffffffffu, sums[r], distance);
        if (distance >> dealing.lanes_log2 == 0) sums[r] += other;
      }
    }
    if (dealing.split) {
      __shared__ float parts[kWarps][kRows];
      __syncthreads();  // those of the row before have been read
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (lane == 0) parts[warp][r] = sums[r];
        sums[r] = 0;
      }
      __syncthreads();
      if (warp > 0) continue;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        for (int other = 0; other < kWarps; ++other) sums[r] += parts[other][r];
      }
    }
    if (a.bias != nullptr) {
      const float bias = a.bias[min(n + own_row, a.N - 1)];
#pragma unroll
      for (int r = 0; r < kRows; ++r) sums[r] += bias;
    }
    ends.template Finish<kRows>(a, own, sums, n + own_row, own_block);
    if (n + dealing.stride < a.N) {
      own.Fetch(ends, a, min(n + dealing.stride + own_row, a.N - 1), own_block);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) sums[r] = 0;
  }
}

template <class Block>
inline constexpr int kStagesBytes = kWarps* kStages<Block>* kStageBytes<Block>;

inline bool RoundsToBytes(DType dtype) { return dtype == DType::kBF16; }

// Whether x, `elements` in all rows, of a dtype, finds room beside the stages of any block.
template <class Ends>
bool Fits(const Context& context, DType dtype, int64_t elements) {
  return kStagesBytes<BlockQ8_0> + (RoundsToBytes(dtype)
                                        ? ByteRows::Bytes(elements, Ends::kStagesRows)
                                        : FloatRows::Bytes(elements, Ends::kStagesRows)) <=
         context.most_shared_bytes();
}

// least: lanes of a row.
template <class Block>
Dealing DealingOf(const Context& context, const LinearArguments& a, int least) {
  const int64_t in_row = a.K / kBlock;
  const auto lanes = std::clamp<uint64_t>(std::bit_ceil(static_cast<uint64_t>(in_row)),
                                          static_cast<uint64_t>(least), kLanes);
  Dealing dealing = {};
  dealing.lanes_log2 = std::countr_zero(lanes);
  dealing.rows = kLanes >> dealing.lanes_log2;
  dealing.bytes = dealing.rows * static_cast<int>(a.W_row_bytes);
  dealing.split = in_row > kChunkBlocks && a.N <= 4 * context.multiprocessors();
  const int shares = dealing.split ? kWarps : 1;
  const int64_t rows = dealing.split ? 1 : kWarps * dealing.rows;  // of a block
  dealing.blocks = static_cast<int>(
      std::min((a.N + rows - 1) / rows, int64_t{kBlocks} * context.multiprocessors()));
  dealing.steps = static_cast<int>((in_row + kChunkBlocks * shares - 1) / (kChunkBlocks * shares));
  dealing.chunk_stride = shares * kChunkBytes<Block>;
  dealing.stride = dealing.blocks * rows;
  dealing.stride_bytes = dealing.stride * a.W_row_bytes;
  dealing.to_next = dealing.stride_bytes - int64_t{dealing.steps} * dealing.chunk_stride;
  return dealing;
}

template <class Block, int kRows, class X, class Ends>
void LaunchWith(Context& context, const LinearArguments& a, const Ends& ends) {
  const int64_t bytes = kStagesBytes<Block> + X::Bytes(kRows * a.K, Ends::kStagesRows);
  const auto kernel = Kernel<Block, kRows, X, Ends>;
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)),
        "linear's shared memory");
  const Dealing dealing = DealingOf<Block>(context, a, Ends::kLeastLanes);
  LaunchOverlapped(context,
                   {.name = "linear of few rows",
                    .grid = static_cast<unsigned>(dealing.blocks),
                    .block = kThreads,
                    .shared_bytes = static_cast<size_t>(bytes)},
                   kernel, a, ends, dealing);
}

template <class Block, int kRows, class Ends>
void Launch(Context& context, const LinearArguments& a, const Ends& ends) {
  RoundsToBytes(ends.KeptType(a)) ? LaunchWith<Block, kRows, ByteRows>(context, a, ends)
                                  : LaunchWith<Block, kRows, FloatRows>(context, a, ends);
}

}  // namespace adder::cuda::quantized_rows
