// What the dispatch, the reference and the backends of attention share: the argument checks and one
// function per backend. Not for callers of the operator.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <vector>

#include "adder/ops/attention/attention.h"

namespace adder {

struct AttentionShape {
  int64_t rows = 0;
  int64_t sequences = 0;
  int64_t heads = 1;
  int64_t kv_heads = 1;
  int64_t d_head = 0;
  std::vector<KeyRange> key_ranges;  // one a sequence
};

// Throw kInvalidArgument unless all tensors agree. `activations`: dtypes that q and keys may have;
// `statistics`: the dtype of log_sum_exp.
AttentionShape CheckAttention(const AttentionInputs& inputs, const AttentionOutputs& outputs,
                              std::initializer_list<DType> activations, DType statistics);
// The same but for the forward's outputs, which the reference doesn't take.
AttentionShape CheckAttentionBackward(const AttentionInputs& inputs, const Tensor& dy,
                                      const AttentionGradients& gradients,
                                      std::initializer_list<DType> activations);

namespace cpu {
// Arguments are checked already.
void Attention(const AttentionShape& shape, const AttentionInputs& inputs,
               const AttentionOutputs& outputs);
void AttentionBackward(const AttentionShape& shape, const AttentionInputs& inputs,
                       const AttentionOutputs& outputs, const Tensor& dy,
                       const AttentionGradients& gradients);
}  // namespace cpu

namespace cuda {
// Arguments are checked already.
void Attention(const AttentionShape& shape, const AttentionInputs& inputs,
               const AttentionOutputs& outputs);
void AttentionBackward(const AttentionShape& shape, const AttentionInputs& inputs,
                       const AttentionOutputs& outputs, const Tensor& dy,
                       const AttentionGradients& gradients);
}  // namespace cuda

}  // namespace adder
