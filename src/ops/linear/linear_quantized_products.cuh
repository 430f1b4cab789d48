// Products of quantized weights on CUDA, 32 at a time: weights are unpacked to bytes, and x lies in
// shared memory either as f32, for exact products, or itself rounded to bytes, of which an
// instruction multiplies four: to unpack weights to floats takes longer than to read them.
#pragma once

#include <cmath>
#include <cstddef>

#include "adder/backend/cuda/quantized.cuh"
#include "adder/ops/linear/linear_few_rows_cuda.cuh"

namespace adder::cuda::quantized_rows {

inline constexpr int kBlock = 32;  // elements of x and W that a lane multiplies at a time
inline constexpr int kWords = kBlock / 4;

template <class Block>
inline constexpr int kElements = sizeof(Block) > 100 ? 256 : 32;

// ---- 32 weights ---------------------------------------------------------------------------------

// Weight i is scale · q - minimum, of kScales scales for as many parts. q: signed bytes, four
// neighbours to a word. Where fewer bits are stored, less an offset that is half of what they can
// be, they become the first of a byte: the offset is its sign then, and scales are divided by how
// many times as large q is.
template <int kScales, bool kHasMinimum = false>
struct Weights {
  uint32_t q[kWords];
  float scale[kScales];
  float minimum;  // only where there is one
};

__device__ inline float HalfOf(uint32_t bits) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
}

// (word & mask) ^ flip, which compilers make two instructions of.
__device__ inline uint32_t AndXor(uint32_t word, uint32_t mask, uint32_t flip) {
  uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, 0x6a;" : "=r"(result) : "r"(word), "r"(mask), "r"(flip));
  return result;
}

// kCount words from an even offset on. base: aligned to a word.
template <int kCount>
__device__ inline void LoadWords(const std::byte* base, int offset, uint32_t (&words)[kCount]) {
  const auto* from = reinterpret_cast<const uint32_t*>(base + (offset & ~3));
  const int shift = (offset & 2) * 8;
  uint32_t raw[kCount + 1];
#pragma unroll
  for (int i = 0; i <= kCount; ++i) raw[i] = from[i];
#pragma unroll
  for (int i = 0; i < kCount; ++i) words[i] = __funnelshift_r(raw[i], raw[i + 1], shift);
}
// A block of a scale and kCount words after it.
template <int kCount>
__device__ inline float ScaleAndWords(const std::byte* base, int offset,
                                      uint32_t (&words)[kCount]) {
  const auto* from = reinterpret_cast<const uint32_t*>(base + (offset & ~3));
  const int shift = (offset & 2) * 8;
  uint32_t raw[kCount + 1];
#pragma unroll
  for (int i = 0; i <= kCount; ++i) raw[i] = from[i];
#pragma unroll
  for (int i = 0; i < kCount; ++i) words[i] = __funnelshift_rc(raw[i], raw[i + 1], 16 + shift);
  return HalfOf(raw[0] >> shift);
}

// The 32 weights `index` of a chunk of blocks that lies from `chunk` on, an even offset.
__device__ inline Weights<1> Unpack(const BlockQ8_0*, const std::byte* base, int chunk, int index) {
  Weights<1> w;
  w.scale[0] = ScaleAndWords(base, chunk + index * static_cast<int>(sizeof(BlockQ8_0)), w.q);
  return w;
}

__device__ inline Weights<1> Unpack(const BlockQ4_0*, const std::byte* base, int chunk, int index) {
  constexpr int kTimes = 16;
  uint32_t words[4];
  const float d = ScaleAndWords(base, chunk + index * static_cast<int>(sizeof(BlockQ4_0)), words);
  Weights<1> w;
  w.scale[0] = d * (1.0f / kTimes);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    w.q[i] = AndXor(words[i] << 4, 0xf0f0f0f0u, 0x80808080u);
    w.q[i + 4] = AndXor(words[i], 0xf0f0f0f0u, 0x80808080u);
  }
  return w;
}

// Chunks of these blocks, of 144 bytes, lie aligned to 16.
__device__ inline Weights<1, true> Unpack(const BlockQ4_K*, const std::byte* base, int chunk,
                                          int index) {
  const auto* block = reinterpret_cast<const uint4*>(base + chunk) + index / 8 * 9;
  const int sub = index % 8;
  const uint4 header = block[0];  // d, dmin and the packed scales
  const uint4 words[2] = {block[1 + 2 * (sub / 2)], block[2 + 2 * (sub / 2)]};
  const int shift = sub % 2 * 4;
  Weights<1, true> w;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    w.q[4 * half] = words[half].x >> shift & 0x0f0f0f0fu;
    w.q[4 * half + 1] = words[half].y >> shift & 0x0f0f0f0fu;
    w.q[4 * half + 2] = words[half].z >> shift & 0x0f0f0f0fu;
    w.q[4 * half + 3] = words[half].w >> shift & 0x0f0f0f0fu;
  }
  // Four sub-blocks' s and m, a byte each.
  const bool first = sub < 4;
  const uint32_t s =
      first ? header.y & 0x3f3f3f3fu : (header.w & 0x0f0f0f0fu) | (header.y >> 2 & 0x30303030u);
  const uint32_t m = first ? header.z & 0x3f3f3f3fu
                           : (header.w >> 4 & 0x0f0f0f0fu) | (header.z >> 2 & 0x30303030u);
  const int byte = sub % 4 * 8;
  w.scale[0] = HalfOf(header.x) * static_cast<float>(s >> byte & 0xffu);
  w.minimum = HalfOf(header.x >> 16) * static_cast<float>(m >> byte & 0xffu);
  return w;
}

__device__ inline Weights<2> Unpack(const BlockQ6_K*, const std::byte* base, int chunk, int index) {
  constexpr float kTimes = 4;
  const int block = chunk + index / 8 * static_cast<int>(sizeof(BlockQ6_K));
  const int sub = index % 8;
  const int k = sub % 4;
  const int low_offset = static_cast<int>(offsetof(BlockQ6_K, ql)) + 64 * (sub / 4) + 32 * (k % 2);
  const int high_offset = static_cast<int>(offsetof(BlockQ6_K, qh)) + 32 * (sub / 4);
  uint32_t low[kWords];
  uint32_t high[kWords];
  LoadWords(base, block + low_offset, low);
  LoadWords(base, block + high_offset, high);
  // To the left, around the word's end, by what brings the bits of each byte to their place.
  const int low_turn = k < 2 ? 2 : 30;
  const int high_turn = 6 - 2 * k;
  Weights<2> w;
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    const uint32_t upper =
        AndXor(__funnelshift_l(high[i], high[i], high_turn), 0xc0c0c0c0u, 0x80808080u);
    w.q[i] = AndXor(__funnelshift_l(low[i], low[i], low_turn), 0x3c3c3c3cu, upper);
  }
  const auto* scales = reinterpret_cast<const int8_t*>(
      base + block + static_cast<int>(offsetof(BlockQ6_K, scales)) + 2 * sub);
  const float d = ScaleAt(base + block + static_cast<int>(offsetof(BlockQ6_K, d))) / kTimes;
  w.scale[0] = d * static_cast<float>(scales[0]);
  w.scale[1] = d * static_cast<float>(scales[1]);
  return w;
}

// ---- x as f32 -----------------------------------------------------------------------------------

// [rows][blocks][kPitch] quads, so that neighbouring lanes find different banks.
struct FloatRows {
  static constexpr int kUnit = 4;
  static constexpr bool kOnlyBF16 = false;
  static constexpr int kPitch = kWords + 1;

  float4* x;
  int blocks;

  // Of `elements`, all rows'.
  static constexpr int64_t Bytes(int64_t elements, bool) {
    return elements / kBlock * kPitch * static_cast<int64_t>(sizeof(float4));
  }
  __device__ FloatRows(void* memory, int, int blocks_of_row, bool)
      : x(static_cast<float4*>(memory)), blocks(blocks_of_row) {}

  __device__ float4& Stage(int r, int quad) const {
    return x[(r * blocks + quad / kWords) * kPitch + quad % kWords];
  }
  __device__ void Keep(int r, int quad, const float (&four)[4]) const {
    if (quad < blocks * kWords) Stage(r, quad) = {four[0], four[1], four[2], four[3]};
  }
};

// Signed bytes of a word as f32, by numbers whose last bits are the byte.
__device__ inline float4 FloatsOf(uint32_t word) {
  constexpr uint32_t kMagic = 0x4b000000u;  // 2^23
  constexpr float kLess = 8388608.0f + 128.0f;
  word ^= 0x80808080u;
  return {__uint_as_float(__byte_perm(word, kMagic, 0x7440)) - kLess,
          __uint_as_float(__byte_perm(word, kMagic, 0x7441)) - kLess,
          __uint_as_float(__byte_perm(word, kMagic, 0x7442)) - kLess,
          __uint_as_float(__byte_perm(word, kMagic, 0x7443)) - kLess};
}

// Adds w times block `block` of x's rows.
template <int kRows, int kScales, bool kHasMinimum>
__device__ inline void AddProducts(const Weights<kScales, kHasMinimum>& w, const FloatRows& x,
                                   int block, float (&sums)[kRows]) {
  constexpr int kWordsOfScale = kWords / kScales;
#pragma unroll
  for (int part = 0; part < kScales; ++part) {
    float own[kRows] = {};
    float of_x[kRows] = {};
#pragma unroll
    for (int i = part * kWordsOfScale; i < (part + 1) * kWordsOfScale; ++i) {
      const float4 four = FloatsOf(w.q[i]);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float4 with = x.Stage(r, block * kWords + i);
        own[r] = fmaf(four.x, with.x, own[r]);
        own[r] = fmaf(four.y, with.y, own[r]);
        own[r] = fmaf(four.z, with.z, own[r]);
        own[r] = fmaf(four.w, with.w, own[r]);
        if constexpr (kHasMinimum) of_x[r] += (with.x + with.y) + (with.z + with.w);
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      sums[r] = fmaf(w.scale[part], own[r], sums[r]);
      if constexpr (kHasMinimum) sums[r] = fmaf(-w.minimum, of_x[r], sums[r]);
    }
  }
}

// ---- x as bytes ---------------------------------------------------------------------------------

// The larger, NaN where one is NaN.
__device__ inline float MaxOrNaN(float a, float b) {
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
}

// x ≈ d · q, q in [-127, 127], in blocks of 32 by their largest: bit for bit what the CPU makes of
// it (linear_int8_kernel.cc). First and last halves of blocks lie apart, [rows][2][blocks], so that
// neighbouring lanes find different banks.
struct ByteRows {
  static constexpr int kUnit = kBlock / 2;
  static constexpr bool kOnlyBF16 = true;

  uint4* q;
  float4* staged;  // [rows][quads]
  float2* scales;  // [rows][blocks]: d and d · Σq
  int blocks;

  static constexpr int64_t Bytes(int64_t elements, bool stages) {
    return elements + elements / kBlock * static_cast<int64_t>(sizeof(float2)) +
           (stages ? elements * 4 : 0);
  }
  __device__ ByteRows(void* memory, int rows, int blocks_of_row, bool stages)
      : q(static_cast<uint4*>(memory)),
        staged(reinterpret_cast<float4*>(q + rows * 2 * blocks_of_row)),
        scales(reinterpret_cast<float2*>(staged + (stages ? rows * kWords * blocks_of_row : 0))),
        blocks(blocks_of_row) {}

  // The four quads of a unit change places, from pair of units to pair, so that threads that read
  // units find different banks.
  __device__ float4& Stage(int r, int quad) const {
    return staged[r * kWords * blocks + (quad & ~3) + ((quad + quad / 8) & 3)];
  }

  __device__ void Keep(int r, int unit, const float (&values)[kUnit]) const {
    constexpr unsigned kAll = 0xffffffffu;  // of whose lanes two and two have a block
    float most = 0;
#pragma unroll
    for (int i = 0; i < kUnit; ++i) most = MaxOrNaN(most, fabsf(values[i]));
    most = MaxOrNaN(most, __shfl_xor_sync(kAll, most, 1));
    // A NaN or infinity makes all products NaN: what goes wrong is to be seen.
    const float d = most < INFINITY ? most / 127.0f : NAN;
    // A block of zeros, or of values too small to tell from them.
    const float inverse = d > 0x1p-120f ? 1.0f / d : 0.0f;
    uint32_t words[kUnit / 4];
    int sum = 0;
#pragma unroll
    for (int i = 0; i < kUnit / 4; ++i) {
      const auto at = [&](int c) { return LastByte(__fmul_rn(values[4 * i + c], inverse)); };
      words[i] =
          __byte_perm(__byte_perm(at(0), at(1), 0x0040), __byte_perm(at(2), at(3), 0x0040), 0x5410);
      sum = __dp4a(static_cast<int>(words[i]), 0x01010101, sum);
    }
    sum += __shfl_xor_sync(kAll, sum, 1);
    const int block = unit / 2;
    if (block >= blocks) return;
    q[(2 * r + unit % 2) * blocks + block] = {words[0], words[1], words[2], words[3]};
    if (unit % 2 == 0) scales[r * blocks + block] = {d, d * static_cast<float>(sum)};
  }

  // Bits of which the last eight are a number's, rounded to the nearest integer, to even.
  __device__ static uint32_t LastByte(float value) {
    constexpr float kMagic = 12582912.0f;  // 1.5 · 2^23
    return __float_as_uint(__fadd_rn(value, kMagic));
  }
};

template <int kRows, int kScales, bool kHasMinimum>
__device__ inline void AddProducts(const Weights<kScales, kHasMinimum>& w, const ByteRows& x,
                                   int block, float (&sums)[kRows]) {
  constexpr int kWordsOfScale = kWords / kScales;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const uint4 first = x.q[2 * r * x.blocks + block];
    const uint4 last = x.q[(2 * r + 1) * x.blocks + block];
    const float2 scale = x.scales[r * x.blocks + block];
    const uint32_t q[kWords] = {first.x, first.y, first.z, first.w, last.x, last.y, last.z, last.w};
#pragma unroll
    for (int part = 0; part < kScales; ++part) {
      int dot = 0;
#pragma unroll
      for (int i = part * kWordsOfScale; i < (part + 1) * kWordsOfScale; ++i) {
        dot = __dp4a(static_cast<int>(w.q[i]), static_cast<int>(q[i]), dot);
      }
      sums[r] = fmaf(static_cast<float>(dot), w.scale[part] * scale.x, sums[r]);
    }
    if constexpr (kHasMinimum) sums[r] = fmaf(-w.minimum, scale.y, sums[r]);
  }
}

}  // namespace adder::cuda::quantized_rows
