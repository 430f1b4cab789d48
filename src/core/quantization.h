// GGML's block formats: weights of 4 to 8 bits that share scales. What llama.cpp writes is read
// bit by bit and the other way round.
//
// x̂ is the value that a stored element stands for, d (and dmin) the block's f16 scales.
//
//   dtype  elements  bytes  x̂
//   q8_0   32        34     d · q                          q: 8 bits, signed
//   q4_0   32        18     d · (q - 8)                    q: 4 bits
//   q4_k   8 × 32    144    (d · s) · q - dmin · m         q: 4 bits; s, m: 6 bits per 32 elements
//   q6_k   16 × 16   210    (d · s) · (q - 32)             q: 6 bits; s: 8 bits, signed, per 16
#pragma once

#include <cstdint>

#include "adder/core/dtype.h"

namespace adder {

// The blocks as they lie in memory, at any address.
#pragma pack(push, 1)
struct BlockQ8_0 {
  Half d;
  int8_t q[32];
};
struct BlockQ4_0 {
  Half d;
  uint8_t q[16];  // element i in the lower, i + 16 in the upper half of byte i
};
struct BlockQ4_K {
  Half d;
  Half dmin;
  // s and m of the sub-blocks, 6 bits each: byte j holds s[j], byte j + 4 m[j] of the first four;
  // byte j + 8 the lower four bits of s[j + 4] and m[j + 4], whose upper two are the upper two of
  // bytes j and j + 4.
  uint8_t scales[12];
  // Sub-blocks 2p and 2p + 1 in the lower and upper halves of bytes 32p to 32p + 31.
  uint8_t q[128];
};
struct BlockQ6_K {
  // Elements 128h + 32k + i, k = 0 to 3: the lower four bits are in ql[64h + 32 · (k mod 2) + i],
  // the lower half for k < 2, the upper two are bits 2k and 2k + 1 of qh[32h + i].
  uint8_t ql[128];
  uint8_t qh[64];
  int8_t scales[16];
  Half d;
};
#pragma pack(pop)

static_assert(sizeof(BlockQ8_0) == 34 && sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_K) == 144 &&
              sizeof(BlockQ6_K) == 210);

// The sub-block's s and m. j in [0, 8).
struct ScaleAndMin {
  int scale;
  int min;
};
ScaleAndMin UnpackScaleAndMin(const uint8_t (&scales)[12], int j);

// `count` elements, whole blocks, to and from f32. `blocks` may lie at any address.
//
// q8_0 and q4_0 are rounded as GGML rounds them, to the bit. For q4_k and q6_k scales are searched
// that make the squared error, weighted by the elements' size, small. Quantize throws kNumeric for
// a value that is NaN or infinite or so large (beyond 500 000) that its scale would not fit f16.
void Quantize(DType dtype, const float* values, int64_t count, void* blocks);
void Dequantize(DType dtype, const void* blocks, int64_t count, float* values);

}  // namespace adder
