// embedding on CUDA. Forwards a warp copies, converts or unpacks a row. Backwards rows are sorted
// by token, so that those of one token lie together, in row order; blocks add up tiles of them.
#include <algorithm>
#include <bit>
#include <cub/device/device_radix_sort.cuh>
#include <limits>
#include <string>

#include "adder/backend/cuda/launch.cuh"
#include "adder/backend/cuda/quantized.cuh"
#include "adder/backend/cuda/row_access.cuh"
#include "adder/backend/cuda/runtime.cuh"
#include "adder/core/error.h"
#include "adder/ops/embedding/embedding_cuda.h"

namespace adder::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kThreads = 256;

Fault OutsideVocabulary(Context& context, int64_t vocab) {
  return context.faults().Of("embedding: a token is outside the vocabulary of " +
                             std::to_string(vocab));
}

// ---- Forward ------------------------------------------------------------------------------------

template <class Block>
__device__ void UnpackRow(const EmbeddingArguments& a, const void* W_row, int64_t row, int lane,
                          int lanes) {
  float* y = static_cast<float*>(a.y.data) + row * a.y.stride;
  for (int64_t d = lane; d < a.channels; d += lanes) {
    y[d] = Unpacked(static_cast<const Block*>(W_row), d);
  }
}

// lanes: threads of a row, a warp or all of a block.
template <int kVector>
__global__ void __launch_bounds__(kThreads)
    EmbeddingKernel(EmbeddingArguments a, int lanes, Fault fault) {
  const auto thread = static_cast<int>(threadIdx.x);
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / lanes) + thread / lanes;
  const int lane = thread % lanes;
  LetNextKernelBegin();
  WaitForKernelsBefore();
  if (row >= a.rows) return;
  const int64_t token = a.tokens[row];
  if (token < 0 || token >= a.vocab) {
    fault.Raise();
    for (int64_t d = lane; d < a.channels; d += lanes) {
      StoreOne(0, a.y.data, row * a.y.stride + d, a.y.dtype);
    }
    return;
  }
  const void* W_row = static_cast<const std::byte*>(a.W.data) + token * a.W_row_bytes;
  switch (a.W.dtype) {
    case DType::kQ8_0:
      return UnpackRow<BlockQ8_0>(a, W_row, row, lane, lanes);
    case DType::kQ4_0:
      return UnpackRow<BlockQ4_0>(a, W_row, row, lane, lanes);
    case DType::kQ4_K:
      return UnpackRow<BlockQ4_K>(a, W_row, row, lane, lanes);
    case DType::kQ6_K:
      return UnpackRow<BlockQ6_K>(a, W_row, row, lane, lanes);
    default:
      break;
  }
#pragma unroll 4
  for (int64_t d = lane * kVector; d < a.channels; d += static_cast<int64_t>(lanes) * kVector) {
    float values[kVector];
    LoadRow<kVector>(a.W, token, d, values);
    StoreRow<kVector>(values, a.y, row, d);
  }
}

// ---- Backward -----------------------------------------------------------------------------------

constexpr int kTileThreads = 128;
constexpr int kAhead = 8;  // rows of dy that a thread has on the way

// What the sort takes: each row's number, and its token, or `vocab` for one that is none.
__global__ void NumberRowsKernel(EmbeddingBackwardArguments a, uint32_t* tokens, uint32_t* numbers,
                                 Fault fault) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= a.rows) return;
  const int64_t token = a.tokens[row];
  const bool in = token >= 0 && token < a.vocab;
  if (!in) fault.Raise();
  tokens[row] = static_cast<uint32_t>(in ? token : a.vocab);
  numbers[row] = static_cast<uint32_t>(row);
}

struct SortedRows {
  const uint32_t* tokens;
  const uint32_t* numbers;
  int64_t tile;      // rows of a tile
  float* continued;  // [tiles, channels]: the sum of a tile's first rows, where their token is also
                     // that of the tile before
};

// Adds a tile's rows to dW, in order. A run of equal tokens that reaches into the next tile is
// added as far as it goes here; one that comes from the tile before is summed apart.
template <int kVector>
__global__ void __launch_bounds__(kTileThreads)
    AddTileKernel(EmbeddingBackwardArguments a, SortedRows sorted) {
  const int64_t begin = blockIdx.x * sorted.tile;
  const int64_t end = begin + sorted.tile < a.rows ? begin + sorted.tile : a.rows;
  const int64_t d = (static_cast<int64_t>(blockIdx.y) * kTileThreads + threadIdx.x) * kVector;
  if (d >= a.channels) return;
  float sum[kVector] = {};
  int64_t token = -1;  // that `sum` belongs to
  float* to = nullptr;
  if (begin > 0 && sorted.tokens[begin] == sorted.tokens[begin - 1]) {
    token = sorted.tokens[begin];
    to = sorted.continued + blockIdx.x * a.channels + d;
  }
  for (int64_t first = begin; first < end; first += kAhead) {
    float rows[kAhead][kVector];
    int64_t tokens[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      tokens[i] = first + i < end ? sorted.tokens[first + i] : a.vocab;
      if (tokens[i] < a.vocab) LoadRow<kVector>(a.dy, sorted.numbers[first + i], d, rows[i]);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (tokens[i] >= a.vocab) break;  // no token's, and so are all after it
      if (tokens[i] != token) {
        if (to != nullptr) Store<kVector>(sum, to);
        token = tokens[i];
        to = a.dW + token * a.dW_stride + d;
        Load<kVector>(to, sum);
      }
#pragma unroll
      for (int v = 0; v < kVector; ++v) sum[v] += rows[i][v];
    }
  }
  // Nothing to store for a tile of no token's rows alone, the first of which is `continued`.
  if (to != nullptr && token < a.vocab) Store<kVector>(sum, to);
}

// Where a run begins in a tile and goes on into the next ones, adds their parts.
template <int kVector>
__global__ void __launch_bounds__(kTileThreads)
    AddContinuedKernel(EmbeddingBackwardArguments a, SortedRows sorted) {
  const int64_t tiles = gridDim.x;
  const int64_t begin = blockIdx.x * sorted.tile;
  const int64_t end = begin + sorted.tile < a.rows ? begin + sorted.tile : a.rows;
  const int64_t d = (static_cast<int64_t>(blockIdx.y) * kTileThreads + threadIdx.x) * kVector;
  const int64_t token = sorted.tokens[end - 1];
  const bool begins_before = begin > 0 && sorted.tokens[begin - 1] ==
                                              token;  // sorted: then all of the tile is the token's
  if (d >= a.channels || token >= a.vocab || begins_before || end == a.rows ||
      sorted.tokens[end] != token) {
    return;
  }
  // The tiles whose first row is the token's.
  int64_t last = blockIdx.x + 1;
  while (last < tiles && sorted.tokens[last * sorted.tile] == token) ++last;
  float sum[kVector];
  float* to = a.dW + token * a.dW_stride + d;
  Load<kVector>(to, sum);
#pragma unroll 8
  for (int64_t tile = blockIdx.x + 1; tile < last; ++tile) {
    float part[kVector];
    Load<kVector>(sorted.continued + tile * a.channels + d, part);
#pragma unroll
    for (int v = 0; v < kVector; ++v) sum[v] += part[v];
  }
  Store<kVector>(sum, to);
}

template <int kVector>
void AddTiles(Context& context, const EmbeddingBackwardArguments& a, const SortedRows& sorted) {
  const int64_t tiles = (a.rows + sorted.tile - 1) / sorted.tile;
  const dim3 grid(
      static_cast<unsigned>(tiles),
      static_cast<unsigned>((a.channels + kTileThreads * kVector - 1) / (kTileThreads * kVector)));
  AddTileKernel<kVector><<<grid, kTileThreads, 0, context.stream()>>>(a, sorted);
  AddContinuedKernel<kVector><<<grid, kTileThreads, 0, context.stream()>>>(a, sorted);
}

}  // namespace

void Embedding(const EmbeddingArguments& a) {
  if (a.rows == 0 || a.channels == 0) return;
  const ProfilerRange range("embedding");
  Context& context = ContextOf(a.device);
  const Fault fault = OutsideVocabulary(context, a.vocab);
  // Few rows are spread over more threads.
  const int lanes = a.rows <= context.multiprocessors() ? kThreads : kWarp;
  const LaunchShape shape = {
      .name = "embedding",
      .grid = static_cast<unsigned>((a.rows * lanes + kThreads - 1) / kThreads),
      .block = kThreads};
  const bool quantized = IsQuantized(a.W.dtype);
  if (!quantized && a.channels % 4 == 0 && FourAtATime({a.W, a.y})) {
    LaunchOverlapped(context, shape, EmbeddingKernel<4>, a, lanes, fault);
  } else {
    LaunchOverlapped(context, shape, EmbeddingKernel<1>, a, lanes, fault);
  }
}

void EmbeddingBackward(const EmbeddingBackwardArguments& a) {
  if (a.rows == 0 || a.channels == 0) return;
  if (a.rows > std::numeric_limits<int32_t>::max()) {
    throw Error(ErrorCode::kUnsupported, "embedding backward: " + std::to_string(a.rows) +
                                             " rows, at most 2147483647 are possible on CUDA");
  }
  const ProfilerRange range("embedding backward");
  Context& context = ContextOf(a.device);
  const Scratch numbers(context, 4 * a.rows * static_cast<int64_t>(sizeof(uint32_t)));
  uint32_t* tokens_in = numbers.data<uint32_t>();
  uint32_t* tokens_out = tokens_in + a.rows;
  uint32_t* numbers_in = tokens_out + a.rows;
  uint32_t* numbers_out = numbers_in + a.rows;
  NumberRowsKernel<<<static_cast<unsigned>((a.rows + kThreads - 1) / kThreads), kThreads, 0,
                     context.stream()>>>(a, tokens_in, numbers_in,
                                         OutsideVocabulary(context, a.vocab));
  CheckLaunch("embedding backward");
  // Stable: the rows of a token stay in order.
  const int bits = std::max(1, static_cast<int>(std::bit_width(static_cast<uint64_t>(a.vocab))));
  const auto count = static_cast<int>(a.rows);
  size_t sort_bytes = 0;
  Check(cub::DeviceRadixSort::SortPairs(nullptr, sort_bytes, tokens_in, tokens_out, numbers_in,
                                        numbers_out, count, 0, bits, context.stream()),
        "sorting tokens");
  const Scratch sort(context, static_cast<int64_t>(sort_bytes));
  Check(cub::DeviceRadixSort::SortPairs(sort.data<void>(), sort_bytes, tokens_in, tokens_out,
                                        numbers_in, numbers_out, count, 0, bits, context.stream()),
        "sorting tokens");

  // More rows a tile where there are many, so that runs of tiles stay short.
  const int64_t tile = std::clamp<int64_t>(a.rows / 4096 / kAhead * kAhead, 64, 1024);
  const int64_t tiles = (a.rows + tile - 1) / tile;
  const Scratch continued(context, tiles * a.channels * static_cast<int64_t>(sizeof(float)));
  const SortedRows sorted = {tokens_out, numbers_out, tile, continued.data<float>()};
  if (a.channels % 4 == 0 && FourAtATime({a.dy, {a.dW, a.dW_stride, DType::kF32}})) {
    AddTiles<4>(context, a, sorted);
  } else {
    AddTiles<1>(context, a, sorted);
  }
  CheckLaunch("embedding backward");
}

}  // namespace adder::cuda
