// softmax_cross_entropy on CUDA: a block of rows at a time, whose logits fit a bounded piece of
// memory. The products are linear's; what lies between them is one pass over the logits, a thread
// block for each row.
#include <algorithm>

#include "adder/backend/cuda/column_sums.cuh"
#include "adder/backend/cuda/matmul.cuh"
#include "adder/backend/cuda/numbers.cuh"
#include "adder/core/target.h"
#include "adder/ops/linear/linear_cuda.h"
#include "adder/ops/softmax_cross_entropy/softmax_cross_entropy_cuda.h"

namespace adder::cuda {

void Linear(const LinearArguments& a);

namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int64_t kLogitsBytes = int64_t{512} << 20;

// A maximum and the sum of e^(x - maximum).
struct SumOfExponentials {
  float maximum;
  float sum;
};
__device__ inline SumOfExponentials Merge(const SumOfExponentials& a, const SumOfExponentials& b) {
  const float maximum = fmaxf(a.maximum, b.maximum);
  if (maximum == -INFINITY) return {maximum, 0};
  return {maximum, a.sum * __expf(a.maximum - maximum) + b.sum * __expf(b.maximum - maximum)};
}

// Of a row of logits, in every thread of the block.
__device__ SumOfExponentials SumRow(const float* logits, int64_t vocab) {
  SumOfExponentials own = {-INFINITY, 0};
  for (int64_t v = threadIdx.x; v < vocab; v += kThreads) own = Merge(own, {logits[v], 1});
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    own = Merge(own, {__shfl_xor_sync(0xffffffffu, own.maximum, distance),
                      __shfl_xor_sync(0xffffffffu, own.sum, distance)});
  }
  __shared__ SumOfExponentials sums[kWarps];
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = own;
  __syncthreads();
  own = sums[0];
  for (int i = 1; i < kWarps; ++i) own = Merge(own, sums[i]);
  return own;
}

// A target that is none (faults where it is not kIgnoreTarget) is -1.
__device__ inline int64_t TargetOf(const int32_t* targets, int64_t row, int64_t vocab,
                                   const Fault& fault) {
  const int64_t target = targets[row];
  if (target >= 0 && target < vocab) return target;
  if (target != kIgnoreTarget && threadIdx.x == 0) fault.Raise();
  return -1;
}

__global__ void __launch_bounds__(kThreads)
    LossKernel(const float* logits, int64_t vocab, const int32_t* targets, float* loss,
               Fault fault) {
  const int64_t row = blockIdx.x;
  const int64_t target = TargetOf(targets, row, vocab, fault);
  if (target < 0) {
    if (threadIdx.x == 0) loss[row] = 0;
    return;
  }
  logits += row * vocab;
  const SumOfExponentials all = SumRow(logits, vocab);
  if (threadIdx.x == 0) loss[row] = logf(all.sum) + (all.maximum - logits[target]);
}

// The logits' gradients: (softmax - one at the target) · d_loss.
template <class T>
__global__ void __launch_bounds__(kThreads)
    GradientKernel(const float* logits, int64_t vocab, const int32_t* targets, const float* d_loss,
                   T* gradients, Fault fault) {
  const int64_t row = blockIdx.x;
  const int64_t target = TargetOf(targets, row, vocab, fault);
  logits += row * vocab;
  gradients += row * vocab;
  if (target < 0) {
    for (int64_t v = threadIdx.x; v < vocab; v += kThreads) gradients[v] = FromFloat<T>(0);
    return;
  }
  const SumOfExponentials all = SumRow(logits, vocab);
  const float weight = d_loss[row];
  const float scale = weight / all.sum;
  for (int64_t v = threadIdx.x; v < vocab; v += kThreads) {
    const float probability = __expf(logits[v] - all.maximum) * scale;
    gradients[v] = FromFloat<T>(v == target ? probability - weight : probability);
  }
}

// Partial sums of the gradients' columns, added to those of the blocks of rows before.
template <class T>
__global__ void __launch_bounds__(kThreads)
    ColumnSumsKernel(const T* gradients, int64_t rows, int64_t columns, float* sums) {
  const int64_t v = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (v >= columns) return;
  float sum = 0;
#pragma unroll 8
  for (int64_t row = 0; row < rows; ++row) sum += ToFloat(gradients[row * columns + v]);
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

// Calls visit(first row, rows, f32 logits [rows, vocab]) block by block.
template <class Visit>
void ForEachBlock(Context& context, const SoftmaxCrossEntropyArguments& a, Visit&& visit) {
  constexpr int64_t kMultiple = 128;  // of rows, where there are as many
  int64_t most = std::max<int64_t>(1, kLogitsBytes / (4 * a.vocab));
  if (most > kMultiple) most = most / kMultiple * kMultiple;
  most = std::min(most, a.rows);
  const Scratch scratch(context, most * a.vocab * 4);
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
            .y = {scratch.data<void>(), a.vocab, DType::kF32}});
    visit(first, rows, scratch.data<float>());
  }
}

}  // namespace

void SoftmaxCrossEntropy(const SoftmaxCrossEntropyArguments& a) {
  if (a.rows == 0) return;
  const ProfilerRange range("softmax_cross_entropy");
  Context& context = ContextOf(a.device);
  const Fault fault = OutsideVocabulary(context, a.vocab);
  ForEachBlock(context, a, [&](int64_t first, int64_t rows, const float* logits) {
    LossKernel<<<static_cast<unsigned>(rows), kThreads, 0, context.stream()>>>(
        logits, a.vocab, a.targets + first, a.loss + first, fault);
    CheckLaunch("softmax_cross_entropy");
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
    ForEachBlock(context, a, [&](int64_t first, int64_t rows, const float* logits) {
      const Scratch scratch(context, rows * a.vocab * static_cast<int64_t>(sizeof(T)));
      GradientKernel<T><<<static_cast<unsigned>(rows), kThreads, 0, context.stream()>>>(
          logits, a.vocab, a.targets + first, b.d_loss + first, scratch.data<T>(), fault);
      CheckLaunch("softmax_cross_entropy backward");
      const Rows gradients = {scratch.data<void>(), a.vocab, a.hidden.dtype};
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
        const auto blocks = static_cast<unsigned>((a.vocab + kThreads - 1) / kThreads);
        ColumnSumsKernel<T>
            <<<blocks, kThreads, 0, context.stream()>>>(scratch.data<T>(), rows, a.vocab, b.dbias);
        CheckLaunch("softmax_cross_entropy's dbias");
      }
    });
  });
}

}  // namespace adder::cuda
