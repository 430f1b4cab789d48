// rotary: rotary position embedding (Su et al. 2021, arXiv 2104.09864, equation 34): pairs of a
// head's channels are rotated by an angle that grows with the row's position, so that the product
// of two heads depends on how far apart their rows are.
//
//     for pair i of the first rotary_dim channels of each head, at position p:
//     angle   = p · theta^(-2i / rotary_dim)
//     (a, b) -> (a·cos(angle) - b·sin(angle), a·sin(angle) + b·cos(angle))
//
// A pair is channels i and i + rotary_dim/2 (GPT-NeoX, Llama), or with `interleaved` channels 2i
// and 2i + 1. Channels from rotary_dim on are copied.
#pragma once

#include <cstdint>

#include "adder/core/tensor.h"

namespace adder {

struct RotaryEmbedding {
  Tensor positions;        // i64 [rows], |position| < 2^40 (checked on the CPU only)
  int64_t d_head = 0;      // channels of a head; divides the columns
  int64_t rotary_dim = 0;  // even, at most d_head
  double theta = 10000;    // > 0
  bool interleaved = false;
};

// x: [rows, heads · d_head], f32, bf16 or f16 (the reference: f64). y: x's shape and dtype; it may
// be x. Angles are formed in double. Throw kInvalidArgument when shapes or dtypes disagree,
// kUnsupported for a device without this operator.
void Rotary(const Tensor& x, const RotaryEmbedding& embedding, const Tensor& y);
// The rotation back. dx: dy's shape and dtype, overwritten; it may be dy.
void RotaryBackward(const RotaryEmbedding& embedding, const Tensor& dy, const Tensor& dx);

namespace reference {
void Rotary(const Tensor& x, const RotaryEmbedding& embedding, const Tensor& y);
void RotaryBackward(const RotaryEmbedding& embedding, const Tensor& dy, const Tensor& dx);
}  // namespace reference

}  // namespace adder
