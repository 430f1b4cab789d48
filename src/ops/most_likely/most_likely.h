// most_likely: the greedy choice of the next token.
//
//     tokens[r] = the first t with the largest logits[r, t]
//
// -1 where the row has no such token: a logit is NaN or +∞, or all are -∞.
#pragma once

#include <cstdint>
#include <span>

#include "adder/core/tensor.h"

namespace adder {

// logits: f32 [rows, vocab], at most 2^31 - 1 tokens. tokens: i32 [rows], dense. Throws
// kInvalidArgument when shapes or dtypes disagree, kUnsupported for a device without this operator.
void MostLikely(const Tensor& logits, const Tensor& tokens);

// The same of one row in host memory.
int32_t MostLikely(std::span<const float> logits);

namespace reference {
void MostLikely(const Tensor& logits, const Tensor& tokens);
}  // namespace reference

}  // namespace adder
