// attention: causal scaled dot-product attention with grouped heads (Vaswani et al. 2017, arXiv
// 1706.03762, equation 1; Ainslie et al. 2023, arXiv 2305.13245) over packed sequences.
//
// For each sequence s of n rows and K ≥ n keys, its row i = 0 ... n-1, head h (g = h · G / H is its
// key and value head):
//
//     p[j] = softmax_j(scale · q[i,h] · keys[j,g])   over the keys j ≤ K - n + i
//     y[i,h] = Σ_j p[j] · values[j,g]
//
// Keys and values are rows of two matrices, and a sequence's lie one after the other: the last n of
// them belong to the rows of this call, those before to what was read earlier. They may be this
// call's projections themselves, or a cache (key_value_cache.h) to which these were appended.
//
// No [rows, keys] matrix is ever stored: the forward goes over tiles of keys with a running maximum
// and sum (Dao et al. 2022, arXiv 2205.14135), the backward forms the probabilities anew from the
// logarithm of that sum.
#pragma once

#include <cstdint>
#include <vector>

#include "adder/core/sequence_layout.h"
#include "adder/core/tensor.h"

namespace adder {

// The rows [begin, begin + count) of keys and values.
struct KeyRange {
  int64_t begin = 0;
  int64_t count = 0;
};

// q has an activation dtype (f32, bf16 or f16), keys and values one of them, too; the reference
// takes f64. Channels are dense; rows may be further apart, so columns of a projection can be
// passed as views.
struct AttentionInputs {
  Tensor q;               // [rows, H · d_head]
  Tensor keys;            // [key rows, G · d_head]
  Tensor values;          // as keys
  SequenceLayout layout;  // of q's rows
  // Each sequence's keys: at least as many as its rows, in order and disjoint. Empty: the rows of
  // the layout.
  std::vector<KeyRange> key_ranges;
  // i64 [sequences] on q's device, or not given. Where each sequence has one row: how many keys of
  // its range come before that row's own, which is the last that counts; the range is what the
  // sequence has room for. What is asked of a device is the same work then whatever the lengths
  // are.
  Tensor lengths;
  int64_t heads = 1;     // H
  int64_t kv_heads = 1;  // G, divides H
  double scale = 1;      // 1 / √d_head for most models
};

// Neither may share memory with an input or the other.
struct AttentionOutputs {
  Tensor y;  // [rows, H · d_head], q's dtype
  Tensor
      log_sum_exp;  // f32 [rows, H]: log Σ_j e^(scale·q·k), what the backward needs, or not given
};

// Those left undefined are not computed. All are overwritten, in their input's dtype; keys that
// belong to no sequence get 0. None may share memory with what is read or with another.
struct AttentionGradients {
  Tensor dq, dkeys, dvalues;
};

// Throw kInvalidArgument when shapes or dtypes disagree or memory is shared, kUnsupported for a
// device without this operator, and on a CUDA device for heads of more than 256 channels. The
// backward takes no lengths. On a CUDA device the keys are those that the range has where a length
// is more than it has room for, and y is NaN where a length is less than 0.
//
// There q and keys of one 16-bit dtype are multiplied on tensor cores: the probabilities, too, are
// rounded to it before they meet the values. All else is f32 arithmetic.
//
// Rows are computed several at a time: a value of NaN or infinity, which one of them sees, may make
// those before it NaN.
void Attention(const AttentionInputs& inputs, const AttentionOutputs& outputs);
// outputs: as the forward left them, log_sum_exp included. dy: [rows, H · d_head], q's dtype.
void AttentionBackward(const AttentionInputs& inputs, const AttentionOutputs& outputs,
                       const Tensor& dy, const AttentionGradients& gradients);

namespace reference {
void Attention(const AttentionInputs& inputs, const AttentionOutputs& outputs);
void AttentionBackward(const AttentionInputs& inputs, const Tensor& dy,
                       const AttentionGradients& gradients);
}  // namespace reference

}  // namespace adder
