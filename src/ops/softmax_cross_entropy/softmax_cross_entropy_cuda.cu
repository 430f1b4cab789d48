// softmax_cross_entropy on CUDA: a block of rows at a time, whose logits fit a bounded piece of
// memory. The products are linear's; what lies between them is one pass over the logits, a thread
// block for each row, that leaves their gradients in their place.
#include <algorithm>
#include <limits>
#include <string>

#include "adder/backend/cuda/column_sums.cuh"
#include "adder/backend/cuda/matmul.cuh"
#include "adder/backend/cuda/numbers.cuh"
#include "adder/core/error.h"
#include "adder/core/target.h"
#include "adder/ops/linear/linear_cuda.h"
#include "adder/ops/softmax_cross_entropy/softmax_cross_entropy_cuda.h"

namespace adder::cuda {

void Linear(const LinearArguments& a);

namespace {

constexpr int64_t kLogitsBytes = int64_t{800} << 20;
constexpr int64_t kRowMultiple = 128;    // of a block, where there are as many
constexpr int64_t kStrideMultiple = 32;  // elements from a row of logits to the next
constexpr int kColumnThreads = 256;

// A row's logits in pieces of four: the first kKept pieces of each thread stay in its registers,
// the others come kChunk at a time, for the gradients once more.
constexpr int kKept = 8;
constexpr int kChunk = 3;
constexpr int kLongRowThreads = 1024;
constexpr int kShortRowThreads = 128;
constexpr int64_t kShortRow = int64_t{4} * kKept * kShortRowThreads;

// Rows of logits, whose gradients are to lie where they lie.
struct LogitRows {
  float* data;
  int64_t stride;
  int vocab;
  const int32_t* targets;
  float* loss;          // null: not wanted
  const float* d_loss;  // null: no gradients are wanted
};

// A maximum and the sum of e^(x - maximum), or of e^x where that is -infinity: of nothing.
struct SumOfExponentials {
  float maximum = -INFINITY;
  float sum = 0;
};

__device__ inline float Exponential(float x) { return Exp2(x * kLog2E); }
// What exponents are counted from.
__device__ inline float OriginOf(float maximum) { return maximum == -INFINITY ? 0.0f : maximum; }

__device__ inline SumOfExponentials Merge(const SumOfExponentials& a, const SumOfExponentials& b) {
  const float maximum = fmaxf(a.maximum, b.maximum);
  const float origin = OriginOf(maximum);
  return {maximum,
          a.sum * Exponential(a.maximum - origin) + b.sum * Exponential(b.maximum - origin)};
}

// Several pieces at a time: one look for a maximum, then sums that do not wait for each other.
template <int kCount>
__device__ inline SumOfExponentials Merge(const SumOfExponentials& own,
                                          const float (&pieces)[kCount][4]) {
  float maximum = own.maximum;
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) maximum = fmaxf(maximum, pieces[k][i]);
  }
  const float origin = OriginOf(maximum);
  float sums[4] = {own.sum * Exponential(own.maximum - origin), 0, 0, 0};
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[i] += Exponential(pieces[k][i] - origin);
  }
  return {maximum, (sums[0] + sums[1]) + (sums[2] + sums[3])};
}

// Of all threads of the block, in every one. A barrier.
template <int kThreads>
__device__ SumOfExponentials MergeBlock(SumOfExponentials own) {
  constexpr int kWarps = kThreads / 32;
  __shared__ SumOfExponentials sums[kWarps];
  const auto merge_lanes = [&] {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
      own = Merge(own, {__shfl_xor_sync(0xffffffffu, own.maximum, distance),
                        __shfl_xor_sync(0xffffffffu, own.sum, distance)});
    }
  };
  merge_lanes();
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = own;
  __syncthreads();
  own = SumOfExponentials();
  if (threadIdx.x % 32 < kWarps) own = sums[threadIdx.x % 32];
  merge_lanes();
  return own;
}

// A target that is none (faults where it is not kIgnoreTarget) is -1.
__device__ inline int TargetOf(int target, int vocab, const Fault& fault) {
  if (target >= 0 && target < vocab) return target;
  if (target != kIgnoreTarget && threadIdx.x == 0) fault.Raise();
  return -1;
}

// A block takes a row: its loss, and its logits' gradients, (softmax - one at the target) · d_loss,
// of type T from the row's first byte on. They are stored only where every thread has read.
template <class T, int kThreads>
__global__ void __launch_bounds__(kThreads) RowKernel(LogitRows rows, Fault fault) {
  const int64_t row = blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x);
  const int pieces = rows.vocab / 4;
  const int tail = rows.vocab % 4;  // logits past the last piece, which the last thread takes
  float* const logits = rows.data + row * rows.stride;
  T* const gradients = reinterpret_cast<T*>(logits);

  // A piece that there is not counts as -infinity. Nothing waits for what is loaded before all is
  // on its way.
  const auto load = [&](int piece, float(&to)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i] = -INFINITY;
    if (piece < pieces) Load<4>(logits + 4 * piece, to);
  };
  const auto load_chunk = [&](int first, float(&to)[kChunk][4]) {
#pragma unroll
    for (int k = 0; k < kChunk; ++k) load(first + k * kThreads + lane, to[k]);
  };
  float kept[kKept][4];
#pragma unroll
  for (int k = 0; k < kKept; ++k) load(k * kThreads + lane, kept[k]);
  float tail_logits[1][4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    tail_logits[0][i] = -INFINITY;
    if (i < tail && lane == kThreads - 1) tail_logits[0][i] = logits[4 * pieces + i];
  }
  const int target = TargetOf(rows.targets[row], rows.vocab, fault);
  if (target < 0) {
    if (rows.loss != nullptr && lane == 0) rows.loss[row] = 0;
    if (rows.d_loss == nullptr) return;
    const float zeros[4] = {};
    for (int piece = lane; piece < pieces; piece += kThreads) {
      Store<4>(zeros, gradients + 4 * piece);
    }
    if (lane < tail) gradients[4 * pieces + lane] = FromFloat<T>(0);
    return;
  }
  const float at_target = logits[target];

  SumOfExponentials own = Merge(SumOfExponentials(), kept);
  if (tail > 0) own = Merge(own, tail_logits);
  for (int first = kKept * kThreads; first < pieces; first += kChunk * kThreads) {
    float chunk[kChunk][4];
    load_chunk(first, chunk);
    own = Merge(own, chunk);
  }
  const SumOfExponentials all = MergeBlock<kThreads>(own);
  // In this order a large common offset of the logits costs no precision.
  if (rows.loss != nullptr && lane == 0) rows.loss[row] = logf(all.sum) + (all.maximum - at_target);
  if (rows.d_loss == nullptr) return;

  const float weight = rows.d_loss[row];
  const float scale = weight / all.sum;
  const auto gradients_of = [&](int piece, const float(&from)[4], float(&to)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i] = Exponential(from[i] - all.maximum) * scale;
    if (piece != target / 4) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i == target % 4) to[i] -= weight;
    }
  };
  const auto store = [&](int piece, const float(&from)[4]) {
    if (piece >= pieces) return;
    float to[4];
    gradients_of(piece, from, to);
    Store<4>(to, gradients + 4 * piece);
  };
  // Pieces of gradients lie where logits of that place or before lay: those kept are in registers,
  // a chunk's are read by all before one is stored.
#pragma unroll
  for (int k = 0; k < kKept; ++k) store(k * kThreads + lane, kept[k]);
  for (int first = kKept * kThreads; first < pieces; first += kChunk * kThreads) {
    float chunk[kChunk][4];
    load_chunk(first, chunk);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kChunk; ++k) store(first + k * kThreads + lane, chunk[k]);
  }
  if (tail == 0 || lane != kThreads - 1) return;
  float to[4];
  gradients_of(pieces, tail_logits[0], to);
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    if (i < tail) gradients[4 * pieces + i] = FromFloat<T>(to[i]);
  }
}

template <class T>
void LaunchRows(Context& context, const LogitRows& work, int64_t rows, const Fault& fault) {
  const auto blocks = static_cast<unsigned>(rows);
  if (work.vocab <= kShortRow) {
    RowKernel<T, kShortRowThreads><<<blocks, kShortRowThreads, 0, context.stream()>>>(work, fault);
  } else {
    RowKernel<T, kLongRowThreads><<<blocks, kLongRowThreads, 0, context.stream()>>>(work, fault);
  }
  CheckLaunch("softmax_cross_entropy");
}

// Sums of the gradients' columns, added to those of the blocks of rows before.
template <class T>
__global__ void __launch_bounds__(kColumnThreads)
    ColumnSumsKernel(const T* gradients, int64_t stride, int64_t rows, int64_t columns,
                     float* sums) {
  const int64_t v = static_cast<int64_t>(blockIdx.x) * kColumnThreads + threadIdx.x;
  if (v >= columns) return;
  float sum = 0;
#pragma unroll 8
  for (int64_t row = 0; row < rows; ++row) sum += ToFloat(gradients[row * stride + v]);
  sums[v] += sum;
}

Fault OutsideVocabulary(Context& context, int64_t vocab) {
  return context.faults().Of("softmax_cross_entropy: a target is outside the vocabulary of " +
                             std::to_string(vocab));
}

Rows RowsFrom(const Rows& rows, int64_t first) {
  Rows from = rows;
  const int64_t size = rows.dtype == DType::kF32 ? 4 : 2;
  from.data = static_cast<std::byte*>(rows.data) + first * rows.stride * size;
  return from;
}

// Calls visit(first row, rows, logits) block by block, of about equal size.
template <class Visit>
void ForEachBlock(Context& context, const SoftmaxCrossEntropyArguments& a, const float* d_loss,
                  Visit&& visit) {
  if (a.vocab > std::numeric_limits<int32_t>::max() / 2) {
    throw Error(ErrorCode::kUnsupported, "softmax_cross_entropy: a vocabulary of " +
                                             std::to_string(a.vocab) +
                                             ", at most 1073741823 are possible on CUDA");
  }
  const int64_t stride = (a.vocab + kStrideMultiple - 1) / kStrideMultiple * kStrideMultiple;
  int64_t most = std::max<int64_t>(1, kLogitsBytes / (4 * stride));
  if (most > kRowMultiple) {
    most = most / kRowMultiple * kRowMultiple;
    const int64_t blocks = (a.rows + most - 1) / most;
    const int64_t each = (a.rows + blocks - 1) / blocks;
    most = (each + kRowMultiple - 1) / kRowMultiple * kRowMultiple;
  }
  most = std::min(most, a.rows);
  const Scratch scratch(context, most * stride * 4);
  for (int64_t first = 0; first < a.rows; first += most) {
    const int64_t rows = std::min(most, a.rows - first);
    Linear({.device = a.device,
            .rows = rows,
            .N = a.vocab,
            .K = a.K,
            .x = RowsFrom(a.hidden, first),
            .W = a.W,
            .W_row_bytes = a.W_row_bytes,
            .bias = a.bias,
            .y = {scratch.data<void>(), stride, DType::kF32}});
    visit(first, rows,
          LogitRows{.data = scratch.data<float>(),
                    .stride = stride,
                    .vocab = static_cast<int>(a.vocab),
                    .targets = a.targets + first,
                    .loss = a.loss == nullptr ? nullptr : a.loss + first,
                    .d_loss = d_loss == nullptr ? nullptr : d_loss + first});
  }
}

}  // namespace

void SoftmaxCrossEntropy(const SoftmaxCrossEntropyArguments& a) {
  if (a.rows == 0) return;
  const ProfilerRange range("softmax_cross_entropy");
  Context& context = ContextOf(a.device);
  const Fault fault = OutsideVocabulary(context, a.vocab);
  // The backward's own kernel, so that its losses are the same bits.
  VisitActivation(a.hidden.dtype, [&](auto type) {
    ForEachBlock(context, a, nullptr, [&](int64_t, int64_t rows, const LogitRows& logits) {
      LaunchRows<decltype(type)>(context, logits, rows, fault);
    });
  });
}

void SoftmaxCrossEntropyBackward(const SoftmaxCrossEntropyBackwardArguments& b) {
  const SoftmaxCrossEntropyArguments& a = b.forward;
  if (a.rows == 0) return;
  const ProfilerRange range("softmax_cross_entropy backward");
  Context& context = ContextOf(a.device);
  const Fault fault = OutsideVocabulary(context, a.vocab);
  VisitActivation(a.hidden.dtype, [&](auto type) {
    using T = decltype(type);
    ForEachBlock(context, a, b.d_loss, [&](int64_t first, int64_t rows, const LogitRows& logits) {
      LaunchRows<T>(context, logits, rows, fault);
      const Rows gradients = {logits.data,
                              logits.stride * static_cast<int64_t>(sizeof(float) / sizeof(T)),
                              a.hidden.dtype};
      if (b.d_hidden.data != nullptr) {
        MatMul(context, {.m = rows,
                         .n = a.K,
                         .k = a.vocab,
                         .a = gradients,
                         .b = a.W,
                         .y = RowsFrom(b.d_hidden, first),
                         .a_transposed = false,
                         .b_transposed = false,
                         .accumulate = false});
      }
      if (b.dW.data != nullptr) {
        MatMul(context, {.m = a.vocab,
                         .n = a.K,
                         .k = rows,
                         .a = gradients,
                         .b = RowsFrom(a.hidden, first),
                         .y = b.dW,
                         .a_transposed = true,
                         .b_transposed = false,
                         .accumulate = true});
      }
      if (b.dbias != nullptr) {
        const auto blocks = static_cast<unsigned>((a.vocab + kColumnThreads - 1) / kColumnThreads);
        ColumnSumsKernel<T><<<blocks, kColumnThreads, 0, context.stream()>>>(
            static_cast<const T*>(gradients.data), gradients.stride, rows, a.vocab, b.dbias);
        CheckLaunch("softmax_cross_entropy's dbias");
      }
    });
  });
}

}  // namespace adder::cuda
