// linear on integers: a lane for each of sixteen rows of W. One instruction multiplies four
// neighbours of every row with the same four of x and adds them up; where a scale ends, the sums
// become floats, are scaled and added up.
//
// Rows of W lie the other way round, so sixteen of them are transposed while they are unpacked, for
// up to sixteen rows of x at once. The instruction wants one operand unsigned: the weights, plus an
// offset where they are signed. What that adds is known from x alone, and taken off where a sum
// begins.
#include "adder/ops/linear/linear_int8_kernel.h"

#include "adder/backend/cpu/simd.h"
#include "adder/core/quantization.h"

namespace adder::cpu::ADDER_ISA {

#if defined(__AVX512VNNI__)
namespace {

constexpr int kOutputs = kLanes;

// ---- Sixteen rows of W --------------------------------------------------------------------------

// From `bytes` on; where there are fewer rows than sixteen, the first stands for those missing.
template <bool kAll>
struct Rows {
  const uint8_t* bytes;
  int64_t stride;
  int count;
};
template <bool kAll>
ADDER_SIMD const uint8_t* Row(const Rows<kAll>& rows, int j) {
  return rows.bytes + (kAll || j < rows.count ? j * rows.stride : 0);
}
template <bool kAll>
ADDER_SIMD Rows<kAll> From(const Rows<kAll>& rows, int64_t offset) {
  return {rows.bytes + offset, rows.stride, rows.count};
}

// Dword i of the sixteen bytes at each row, a row to a lane.
struct Dwords {
  U32 v[4];
};
template <class R>
ADDER_SIMD Dwords Transpose(const R& rows) {
  const auto four = [&](int j) {
    const auto load = [&](int i) {
      return _mm_loadu_si128(reinterpret_cast<const __m128i*>(Row(rows, j + 4 * i)));
    };
    __m512i v = _mm512_castsi128_si512(load(0));
    v = _mm512_inserti32x4(v, load(1), 1);
    v = _mm512_inserti32x4(v, load(2), 2);
    return _mm512_inserti32x4(v, load(3), 3);
  };
  const __m512i a = four(0);
  const __m512i b = four(1);
  const __m512i c = four(2);
  const __m512i d = four(3);
  const __m512i ab_low = _mm512_unpacklo_epi32(a, b);
  const __m512i ab_high = _mm512_unpackhi_epi32(a, b);
  const __m512i cd_low = _mm512_unpacklo_epi32(c, d);
  const __m512i cd_high = _mm512_unpackhi_epi32(c, d);
  return {{(U32)_mm512_unpacklo_epi64(ab_low, cd_low), (U32)_mm512_unpackhi_epi64(ab_low, cd_low),
           (U32)_mm512_unpacklo_epi64(ab_high, cd_high),
           (U32)_mm512_unpackhi_epi64(ab_high, cd_high)}};
}

ADDER_SIMD F32 FromHalves(__m256i bits) { return (F32)_mm512_cvtph_ps(bits); }
// The f16 at each row.
template <class R>
ADDER_SIMD F32 Halves(const R& rows) {
  const auto at = [&](int j) {
    int16_t bits;
    __builtin_memcpy(&bits, Row(rows, j), sizeof bits);
    return bits;
  };
  const auto eight = [&](int j) {
    __m128i v = _mm_cvtsi32_si128(at(j));
    v = _mm_insert_epi16(v, at(j + 1), 1);
    v = _mm_insert_epi16(v, at(j + 2), 2);
    v = _mm_insert_epi16(v, at(j + 3), 3);
    v = _mm_insert_epi16(v, at(j + 4), 4);
    v = _mm_insert_epi16(v, at(j + 5), 5);
    v = _mm_insert_epi16(v, at(j + 6), 6);
    return _mm_insert_epi16(v, at(j + 7), 7);
  };
  return FromHalves(_mm256_inserti128_si256(_mm256_castsi128_si256(eight(0)), eight(8), 1));
}
ADDER_SIMD F32 LowerHalf(U32 v) { return FromHalves(_mm512_cvtepi32_epi16((__m512i)v)); }

// Byte i of each lane.
ADDER_SIMD F32 Byte(U32 v, int i) { return (F32)_mm512_cvtepi32_ps((__m512i)(v >> 8 * i & 0xffu)); }
ADDER_SIMD F32 SignedByte(U32 v, int i) {
  return (F32)_mm512_cvtepi32_ps((__m512i)((I32)(v << (24 - 8 * i)) >> 24));
}

// ---- Weights ------------------------------------------------------------------------------------
// Int8Weights<Block>:
//   kElements, kBytes          of a block
//   kGroups, kScaled           of elements that share a scale, of how many each: what is unpacked
//   at
//                              once. The groups lie in blocks of x one after the other; where they
//                              are half as long, all first halves come before all last ones.
//   kOffset                    what the unsigned weights have too much
//   kHasMinimum                whether something is taken off each element of a group
//   kPrefetchEvery             how many blocks a line of the cache holds
//   Header Read(rows)          the blocks' scales
//   Get(rows, header, p, to)   part p of the blocks

template <int kGroups, int kScaled>
struct Weights {
  U32 q[kGroups][kScaled / 4];  // four elements to a lane
  F32 scale[kGroups];
  F32 minimum[kGroups];  // only where there are minima
};

template <class Block>
struct Int8Weights;

template <>
struct Int8Weights<BlockQ8_0> {
  static constexpr int kElements = 32;
  static constexpr int kBytes = sizeof(BlockQ8_0);
  static constexpr int kGroups = 1;
  static constexpr int kScaled = 32;
  static constexpr int kOffset = 128;
  static constexpr bool kHasMinimum = false;
  static constexpr int kPrefetchEvery = 1;
  struct Header {};

  template <class R>
  ADDER_SIMD Header Read(const R&) {
    return {};
  }
  template <class R>
  ADDER_SIMD void Get(const R& rows, const Header&, int, Weights<kGroups, kScaled>& to) {
    const Dwords first = Transpose(From(rows, 2));
    const Dwords last = Transpose(From(rows, 18));
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      to.q[0][i] = first.v[i] ^ 0x80808080u;
      to.q[0][4 + i] = last.v[i] ^ 0x80808080u;
    }
    to.scale[0] = Halves(rows);
  }
};

template <>
struct Int8Weights<BlockQ4_0> {
  static constexpr int kElements = 32;
  static constexpr int kBytes = sizeof(BlockQ4_0);
  static constexpr int kGroups = 1;
  static constexpr int kScaled = 32;
  static constexpr int kOffset = 8;
  static constexpr bool kHasMinimum = false;
  static constexpr int kPrefetchEvery = 3;
  struct Header {};

  template <class R>
  ADDER_SIMD Header Read(const R&) {
    return {};
  }
  template <class R>
  ADDER_SIMD void Get(const R& rows, const Header&, int, Weights<kGroups, kScaled>& to) {
    const Dwords bytes = Transpose(From(rows, 2));
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      to.q[0][i] = bytes.v[i] & 0x0f0f0f0fu;
      to.q[0][4 + i] = bytes.v[i] >> 4 & 0x0f0f0f0fu;
    }
    to.scale[0] = Halves(rows);
  }
};

template <>
struct Int8Weights<BlockQ4_K> {
  static constexpr int kElements = 256;
  static constexpr int kBytes = sizeof(BlockQ4_K);
  static constexpr int kGroups = 2;
  static constexpr int kScaled = 32;
  static constexpr int kOffset = 0;
  static constexpr bool kHasMinimum = true;
  static constexpr int kPrefetchEvery = 1;
  struct Header {
    F32 scale[8];
    F32 minimum[8];
  };

  // d and dmin, then the twelve bytes of quantization.h, four sub-blocks at a time.
  template <class R>
  ADDER_SIMD Header Read(const R& rows) {
    const Dwords bytes = Transpose(rows);
    const F32 d = LowerHalf(bytes.v[0]);
    const F32 dmin = LowerHalf(bytes.v[0] >> 16);
    const U32 s[2] = {bytes.v[1] & 0x3f3f3f3fu,
                      (bytes.v[3] & 0x0f0f0f0fu) | (bytes.v[1] >> 2 & 0x30303030u)};
    const U32 m[2] = {bytes.v[2] & 0x3f3f3f3fu,
                      (bytes.v[3] >> 4 & 0x0f0f0f0fu) | (bytes.v[2] >> 2 & 0x30303030u)};
    Header header;
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      header.scale[i] = d * Byte(s[i / 4], i % 4);
      header.minimum[i] = dmin * Byte(m[i / 4], i % 4);
    }
    return header;
  }
  template <class R>
  ADDER_SIMD void Get(const R& rows, const Header& header, int p, Weights<kGroups, kScaled>& to) {
    const Dwords first = Transpose(From(rows, 16 + 32 * p));
    const Dwords last = Transpose(From(rows, 32 + 32 * p));
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      to.q[0][i] = first.v[i] & 0x0f0f0f0fu;
      to.q[0][4 + i] = last.v[i] & 0x0f0f0f0fu;
      to.q[1][i] = first.v[i] >> 4 & 0x0f0f0f0fu;
      to.q[1][4 + i] = last.v[i] >> 4 & 0x0f0f0f0fu;
    }
#pragma GCC unroll 2
    for (int g = 0; g < 2; ++g) {
      to.scale[g] = header.scale[2 * p + g];
      to.minimum[g] = header.minimum[2 * p + g];
    }
  }
};

template <>
struct Int8Weights<BlockQ6_K> {
  static constexpr int kElements = 256;
  static constexpr int kBytes = sizeof(BlockQ6_K);
  static constexpr int kGroups = 4;
  static constexpr int kScaled = 16;
  static constexpr int kOffset = 32;
  static constexpr bool kHasMinimum = false;
  static constexpr int kPrefetchEvery = 1;
  struct Header {
    F32 scale[16];
  };

  template <class R>
  ADDER_SIMD Header Read(const R& rows) {
    const F32 d = Halves(From(rows, 208));
    const Dwords scales = Transpose(From(rows, 192));
    Header header;
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) header.scale[i] = d * SignedByte(scales.v[i / 4], i % 4);
    return header;
  }
  template <class R>
  ADDER_SIMD void Get(const R& rows, const Header& header, int p, Weights<kGroups, kScaled>& to) {
    const int h = p / 2;
    const int half = p % 2;
    // The lower four bits of groups 0 and 2, of 1 and 3; the upper two of all.
    const Dwords even = Transpose(From(rows, 64 * h + 16 * half));
    const Dwords odd = Transpose(From(rows, 64 * h + 32 + 16 * half));
    const Dwords high = Transpose(From(rows, 128 + 32 * h + 16 * half));
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      to.q[0][i] = (even.v[i] & 0x0f0f0f0fu) | (high.v[i] << 4 & 0x30303030u);
      to.q[1][i] = (odd.v[i] & 0x0f0f0f0fu) | (high.v[i] << 2 & 0x30303030u);
      to.q[2][i] = (even.v[i] >> 4 & 0x0f0f0f0fu) | (high.v[i] & 0x30303030u);
      to.q[3][i] = (odd.v[i] >> 4 & 0x0f0f0f0fu) | (high.v[i] >> 2 & 0x30303030u);
    }
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) to.scale[g] = header.scale[8 * h + 2 * g + half];
  }
};

// ---- Products -----------------------------------------------------------------------------------

// Adds kRows rows of x times part p of sixteen rows of W. The rows of a tile follow each other.
template <class Block, int kRows, class W>
ADDER_SIMD void AddProducts(const Int8Activations* x, const W& w, int p, F32 (&sums)[kRows]) {
  using U = Int8Weights<Block>;
  constexpr int kHalves = 32 / U::kScaled;
  const int half = p % kHalves;
  x += p / kHalves * U::kGroups * kRows;
#pragma GCC unroll 4
  for (int g = 0; g < U::kGroups; ++g, x += kRows) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const int correction = U::kOffset == 0 ? 0 : x[r].correction[kHalves == 1 ? 2 : half];
      __m512i dot = _mm512_set1_epi32(correction);
#pragma GCC unroll 8
      for (int i = 0; i < U::kScaled / 4; ++i) {
        int32_t four;
        __builtin_memcpy(&four, x[r].q + half * U::kScaled + 4 * i, sizeof four);
        dot = _mm512_dpbusd_epi32(dot, (__m512i)w.q[g][i], _mm512_set1_epi32(four));
      }
      sums[r] = MulAdd((F32)_mm512_cvtepi32_ps(dot), w.scale[g] * Set(x[r].d), sums[r]);
      if constexpr (U::kHasMinimum) sums[r] = NegMulAdd(w.minimum[g], Set(x[r].sum), sums[r]);
    }
  }
}

// y of one row for `count` outputs.
ADDER_SIMD void StoreOutputs(const LinearInt8Arguments& a, F32 sums, int64_t at, int64_t count) {
  switch (a.y_dtype) {
    case DType::kBF16:
      return StorePartial(sums, static_cast<BFloat16*>(a.y) + at, count);
    case DType::kF16:
      return StorePartial(sums, static_cast<Half*>(a.y) + at, count);
    default:
      return StorePartial(sums, static_cast<float*>(a.y) + at, count);
  }
}

// A tile of x, of which `rows` rows count from `row` on, times `count` rows of W from `output` on.
// Meanwhile fetches the sixteen that come next: a row is too short for the machine to notice in
// time that it is read from end to end.
template <class Block, int kRows, bool kAll>
void Tile(const LinearInt8Arguments& a, const Int8Activations* x, int64_t row, int64_t rows,
          int64_t output, int64_t count) {
  using U = Int8Weights<Block>;
  Rows<kAll> W = {static_cast<const uint8_t*>(a.W) + output * a.W_row_bytes, a.W_row_bytes,
                  static_cast<int>(count)};
  F32 sums[kRows] = {};
  for (int64_t block = 0; block < a.K / U::kElements; ++block, W = From(W, U::kBytes)) {
    if (kAll && block % U::kPrefetchEvery == 0) {
      // Past the last row of W this fetches what nobody needs, but cannot fault.
#pragma GCC unroll 16
      for (int j = 0; j < kOutputs; ++j) {
        for (int line = 0; line < U::kBytes; line += 64) {
          __builtin_prefetch(Row(W, j) + kOutputs * a.W_row_bytes + line, 0, 2);
        }
      }
    }
    const typename U::Header header = U::Read(W);
#pragma GCC unroll 4
    for (int p = 0; p < U::kElements / (U::kGroups * U::kScaled); ++p) {
      Weights<U::kGroups, U::kScaled> w;
      U::Get(W, header, p, w);
      AddProducts<Block, kRows>(x, w, p, sums);
    }
    x += U::kElements / 32 * kRows;
  }
  const F32 bias = a.bias == nullptr ? Zero() : LoadPartial(a.bias + output, count);
  for (int r = 0; r < rows; ++r) {
    StoreOutputs(a, sums[r] + bias, (row + r) * a.y_stride + output, count);
  }
}

template <class Block, int kRows>
void TilesOfOutputs(const LinearInt8Arguments& a, const Int8Activations* x, int64_t row,
                    int64_t rows) {
  int64_t output = a.begin;
  for (; output + kOutputs <= a.end; output += kOutputs) {
    Tile<Block, kRows, true>(a, x, row, rows, output, kOutputs);
  }
  if (output < a.end) Tile<Block, kRows, false>(a, x, row, rows, output, a.end - output);
}

template <class Block>
void Multiply(const LinearInt8Arguments& a) {
  const Int8Activations* x = a.x;
  for (int64_t row = 0; row < a.rows; row += kInt8TileRows, x += kInt8TileRows * (a.K / 32)) {
    const int64_t rows = a.rows - row < kInt8TileRows ? a.rows - row : kInt8TileRows;
    switch (RowsOfInt8Tile(rows)) {
      case 1:
        TilesOfOutputs<Block, 1>(a, x, row, rows);
        break;
      case 2:
        TilesOfOutputs<Block, 2>(a, x, row, rows);
        break;
      case 4:
        TilesOfOutputs<Block, 4>(a, x, row, rows);
        break;
      case 8:
        TilesOfOutputs<Block, 8>(a, x, row, rows);
        break;
      default:
        TilesOfOutputs<Block, 16>(a, x, row, rows);
        break;
    }
  }
}

int Offset(DType dtype) {
  switch (dtype) {
    case DType::kQ8_0:
      return Int8Weights<BlockQ8_0>::kOffset;
    case DType::kQ4_0:
      return Int8Weights<BlockQ4_0>::kOffset;
    case DType::kQ6_K:
      return Int8Weights<BlockQ6_K>::kOffset;
    default:
      return Int8Weights<BlockQ4_K>::kOffset;
  }
}

// The sum of sixteen bytes.
ADDER_SIMD int32_t SumOf(__m128i q) {
  const __m128i fours = _mm_dpbusd_epi32(_mm_setzero_si128(), _mm_set1_epi8(1), q);
  const __m128i twos = _mm_add_epi32(fours, _mm_shuffle_epi32(fours, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(twos, _mm_shuffle_epi32(twos, 0xb1)));
}

// One block of 32.
void RoundBlock(const BFloat16* x, int offset, Int8Activations* to) {
  const F32 low = Load(x);
  const F32 high = Load(x + kLanes);
  // A NaN or infinity makes all products NaN: what goes wrong is to be seen.
  const float poison = ReduceSum(low * 0.0f + high * 0.0f);
  const float d = (ReduceMax(Max(Abs(low), Abs(high))) + poison) / 127.0f;
  // A block of zeros, or of values too small to tell from them.
  const F32 inverse = Set(d > 0x1p-120f ? 1.0f / d : 0.0f);
  const __m128i q_low = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32((__m512)(low * inverse)));
  const __m128i q_high = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32((__m512)(high * inverse)));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to->q), q_low);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to->q + 16), q_high);
  const int32_t sum_low = SumOf(q_low);
  const int32_t sum_high = SumOf(q_high);
  to->d = d;
  to->sum = d * static_cast<float>(sum_low + sum_high);
  to->correction[0] = -offset * sum_low;
  to->correction[1] = -offset * sum_high;
  to->correction[2] = -offset * (sum_low + sum_high);
}

}  // namespace

void Int8ActivationsKernel(const Int8ActivationsArguments& a) {
  const int offset = Offset(a.W_dtype);
  Int8Activations* to = a.to;
  for (int64_t first = 0; first < a.rows; first += kInt8TileRows) {
    const int64_t rows = a.rows - first < kInt8TileRows ? a.rows - first : kInt8TileRows;
    const int64_t tile = RowsOfInt8Tile(rows);
    for (int64_t k = 0; k < a.K; k += 32, to += tile) {
      for (int64_t r = 0; r < rows; ++r) {
        RoundBlock(a.x + (first + r) * a.x_stride + k, offset, to + r);
      }
      __builtin_memset(to + rows, 0, static_cast<size_t>(tile - rows) * sizeof *to);
    }
  }
}

void LinearInt8Kernel(const LinearInt8Arguments& a) {
  switch (a.W_dtype) {
    case DType::kQ8_0:
      return Multiply<BlockQ8_0>(a);
    case DType::kQ4_0:
      return Multiply<BlockQ4_0>(a);
    case DType::kQ4_K:
      return Multiply<BlockQ4_K>(a);
    case DType::kQ6_K:
      return Multiply<BlockQ6_K>(a);
    default:
      return;
  }
}
#else
void Int8ActivationsKernel(const Int8ActivationsArguments&) {}
void LinearInt8Kernel(const LinearInt8Arguments&) {}
#endif

}  // namespace adder::cpu::ADDER_ISA
