// attention on a CUDA device: hands the tensors to the module.
#include "adder/ops/attention/attention_cuda.h"

#include <fmt/format.h>

#include "adder/backend/cuda/module.h"
#include "adder/core/error.h"
#include "adder/ops/attention/attention_backends.h"
#include "adder/ops/cuda_operators.h"

namespace adder::cuda {
namespace {

std::vector<AttentionSequence> Sequences(const AttentionShape& shape,
                                         const SequenceLayout& layout) {
  std::vector<AttentionSequence> sequences;
  for (int64_t s = 0; s < shape.sequences; ++s) {
    if (layout.length(s) == 0) continue;
    const KeyRange& keys = shape.key_ranges[static_cast<size_t>(s)];
    sequences.push_back({layout.begin(s), layout.length(s), keys.begin, keys.count});
  }
  return sequences;
}

AttentionProblem Describe(const AttentionShape& shape, const AttentionInputs& inputs,
                          const AttentionOutputs& outputs,
                          const std::vector<AttentionSequence>& sequences) {
  if (shape.d_head > kAttentionLongestHead) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("attention: heads of {} channels, at most {} are possible on CUDA",
                            shape.d_head, kAttentionLongestHead));
  }
  return {.device = inputs.q.device().index,
          .sequences = sequences.data(),
          .count = static_cast<int64_t>(sequences.size()),
          .lengths = inputs.lengths ? inputs.lengths.data<int64_t>() : nullptr,
          .rows = shape.rows,
          .heads = shape.heads,
          .kv_heads = shape.kv_heads,
          .d_head = shape.d_head,
          .scale = static_cast<float>(inputs.scale),
          .q = RowsOf(inputs.q),
          .keys = RowsOf(inputs.keys),
          .values = RowsOf(inputs.values),
          .y = RowsOf(outputs.y),
          .log_sum_exp = FloatsOf(outputs.log_sum_exp)};
}

}  // namespace

void Attention(const AttentionShape& shape, const AttentionInputs& inputs,
               const AttentionOutputs& outputs) {
  if (shape.rows == 0) return;
  const std::vector<AttentionSequence> sequences = Sequences(shape, inputs.layout);
  GetModule().operators().attention(Describe(shape, inputs, outputs, sequences));
}

void AttentionBackward(const AttentionShape& shape, const AttentionInputs& inputs,
                       const AttentionOutputs& outputs, const Tensor& dy,
                       const AttentionGradients& gradients) {
  const std::vector<AttentionSequence> sequences = Sequences(shape, inputs.layout);
  int64_t covered = 0;
  for (const AttentionSequence& sequence : sequences) covered += sequence.keys;
  if (covered < inputs.keys.dim(0)) {
    for (const Tensor* gradient : {&gradients.dkeys, &gradients.dvalues}) {
      if (*gradient) gradient->SetZero();
    }
  }
  if (shape.rows == 0) return;
  GetModule().operators().attention_backward(
      {.forward = Describe(shape, inputs, outputs, sequences),
       .dy = RowsOf(dy),
       .dq = RowsOf(gradients.dq),
       .dkeys = RowsOf(gradients.dkeys),
       .dvalues = RowsOf(gradients.dvalues)});
}

}  // namespace adder::cuda
