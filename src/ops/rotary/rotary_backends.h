// What the dispatch, the reference and the backends of rotary share: the argument checks and one
// function per backend. Not for callers of the operator.
#pragma once

#include <initializer_list>

#include "adder/ops/rotary/rotary.h"

namespace adder {

// Throws kInvalidArgument unless all tensors agree. `op`, `from` and `to`: names for messages.
void CheckRotary(const char* op, const Tensor& x, const char* from,
                 const RotaryEmbedding& embedding, const Tensor& y, const char* to,
                 std::initializer_list<DType> activations);

// The angle of pair i from one position to the next, in radians.
double RotaryFrequency(const RotaryEmbedding& embedding, int64_t pair);

namespace cpu {
// Rotates back if `inverse`. Arguments are checked already.
void Rotary(const Tensor& x, const RotaryEmbedding& embedding, bool inverse, const Tensor& y);
}  // namespace cpu

namespace cuda {
// Rotates back if `inverse`. Arguments are checked already.
void Rotary(const Tensor& x, const RotaryEmbedding& embedding, bool inverse, const Tensor& y);
}  // namespace cuda

}  // namespace adder
