// softmax_cross_entropy on the CPU: linear and the softmax kernel, a block of rows at a time.
#include <algorithm>

#include "adder/backend/cpu/parallel.h"
#include "adder/ops/linear/linear.h"
#include "adder/ops/softmax_cross_entropy/softmax_cross_entropy_backends.h"
#include "adder/ops/softmax_cross_entropy/softmax_cross_entropy_kernel.h"

namespace adder::cpu {
namespace {

// A block's logits: 16 MB, which for a vocabulary of 50,000 are 83 rows: enough that reading W and
// adding to dW once a block costs little beside the products.
constexpr int64_t kBlockLogits = int64_t{4} << 20;
constexpr int64_t kMostBlockRows = 1024;
// Exponentials that are worth a thread.
constexpr int64_t kGrainLogits = 8192;

int64_t BlockRows(int64_t vocab) {
  return std::clamp<int64_t>(kBlockLogits / vocab, 1, kMostBlockRows);
}

}  // namespace

void SoftmaxCrossEntropy(const SoftmaxCrossEntropyInputs& inputs, const Tensor& loss) {
  const auto& [hidden, W, bias, targets] = inputs;
  const int64_t vocab = W.dim(0);
  const int64_t rows = hidden.dim(0);
  CheckTargets(targets, vocab);
  const int64_t block_rows = std::min(rows, BlockRows(vocab));
  const Tensor scratch = Tensor::Empty({block_rows, vocab}, DType::kF32);
  for (int64_t first = 0; first < rows; first += block_rows) {
    const int64_t count = std::min(block_rows, rows - first);
    const Tensor logits = scratch.Rows(0, count);
    adder::Linear(hidden.Rows(first, count), W, bias, logits);
    ParallelFor(count, kGrainLogits / vocab, [&](int64_t begin, int64_t end, int) {
      const int64_t row = first + begin;
      SoftmaxCrossEntropyKernel({.logits = logits.data<float>() + begin * vocab,
                                 .logits_stride = vocab,
                                 .targets = inputs.targets.data<int32_t>() + row,
                                 .loss = loss.data<float>() + row,
                                 .rows = end - begin,
                                 .vocab = vocab});
    });
  }
}

void SoftmaxCrossEntropyBackward(const SoftmaxCrossEntropyInputs& inputs, const Tensor& d_loss,
                                 const SoftmaxCrossEntropyGradients& gradients) {
  const auto& [hidden, W, bias, targets] = inputs;
  const int64_t vocab = W.dim(0);
  const int64_t rows = hidden.dim(0);
  CheckTargets(targets, vocab);
  const int64_t block_rows = std::min(rows, BlockRows(vocab));
  const Tensor logits_scratch = Tensor::Empty({block_rows, vocab}, DType::kF32);
  // bf16 has the range that gradients need and its products are twice as fast; f16 has not, so
  // there they stay f32.
  const Tensor d_logits_scratch = hidden.dtype() == DType::kBF16
                                      ? Tensor::Empty({block_rows, vocab}, DType::kBF16)
                                      : logits_scratch;
  for (int64_t first = 0; first < rows; first += block_rows) {
    const int64_t count = std::min(block_rows, rows - first);
    const int32_t* block_targets = targets.data<int32_t>() + first;
    if (std::all_of(block_targets, block_targets + count,
                    [](int32_t target) { return target == kIgnoreTarget; })) {
      if (gradients.d_hidden) gradients.d_hidden.Rows(first, count).SetZero();
      if (gradients.loss) gradients.loss.Rows(first, count).SetZero();
      continue;
    }
    const Tensor logits = logits_scratch.Rows(0, count);
    const Tensor d_logits = d_logits_scratch.Rows(0, count);
    adder::Linear(hidden.Rows(first, count), W, bias, logits);
    ParallelFor(count, kGrainLogits / vocab, [&](int64_t begin, int64_t end, int) {
      if (gradients.loss) {
        SoftmaxCrossEntropyKernel({.logits = logits.data<float>() + begin * vocab,
                                   .logits_stride = vocab,
                                   .targets = block_targets + begin,
                                   .loss = gradients.loss.data<float>() + first + begin,
                                   .rows = end - begin,
                                   .vocab = vocab});
      }
      const Tensor range = d_logits.Rows(begin, end - begin);
      SoftmaxCrossEntropyBackwardKernel({.logits = logits.data<float>() + begin * vocab,
                                         .logits_stride = vocab,
                                         .targets = block_targets + begin,
                                         .d_loss = d_loss.data<float>() + first + begin,
                                         .d_logits = range.raw(),
                                         .d_logits_dtype = range.dtype(),
                                         .d_logits_stride = vocab,
                                         .rows = end - begin,
                                         .vocab = vocab});
    });
    adder::LinearBackward(
        hidden.Rows(first, count), W, d_logits,
        {.dx = gradients.d_hidden ? gradients.d_hidden.Rows(first, count) : Tensor(),
         .dW = gradients.dW,
         .dbias = gradients.dbias});
  }
}

}  // namespace adder::cpu
