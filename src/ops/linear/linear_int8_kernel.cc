// linear on integers: for 64 elements of a row of W and of x, one instruction multiplies and adds
// in fours; the sums become floats, are scaled by both blocks' scales and added up.
//
// The instruction wants one operand unsigned: the weights, plus an offset where they are signed.
// What that adds is known from x alone, and taken off where a sum begins.
#include "adder/ops/linear/linear_int8_kernel.h"

#include "adder/backend/cpu/simd.h"
#include "adder/core/quantization.h"
#include "adder/ops/linear/linear_results_simd.h"

namespace adder::cpu::ADDER_ISA {

#if defined(__AVX512VNNI__)
namespace {

constexpr int kPair = 64;

// ---- Weights ------------------------------------------------------------------------------------
// Int8Weights<Block>:
//   kElements, kBytes          of a block
//   kOffset                    what the unsigned weights have too much
//   Header Read(block)         the block's scales
//   Get(block, header, p)      elements [64p, 64p + 64) (of two blocks where one is shorter)
// For rows of an odd number of blocks of 32, GetHalf gives the last, and zeros.

struct Weights {
  __m512i q;
  F32 scale;    // of each lane's four weights
  F32 minimum;  // q4_k: what is taken off each of them
};

// The f16 at two addresses, in eight lanes each.
ADDER_SIMD F32 TwoScales(const uint8_t* first, const uint8_t* second) {
  const __m256i bits = _mm256_inserti128_si256(_mm256_broadcastw_epi16(_mm_loadu_si16(first)),
                                               _mm_broadcastw_epi16(_mm_loadu_si16(second)), 1);
  return (F32)_mm512_cvtph_ps(bits);
}
ADDER_SIMD F32 OneScale(const uint8_t* from) {
  return (F32)_mm512_cvtph_ps(_mm256_broadcastw_epi16(_mm_loadu_si16(from)));
}
ADDER_SIMD __m128i Load16(const uint8_t* from) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
}
ADDER_SIMD __m256i Load32(const uint8_t* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}
// Lanes of a table of sixteen, by index.
ADDER_SIMD F32 Lookup(F32 table, I32 index) {
  return (F32)_mm512_permutexvar_ps((__m512i)index, (__m512)table);
}

template <class Block>
struct Int8Weights;

template <>
struct Int8Weights<BlockQ8_0> {
  static constexpr int kElements = 32;
  static constexpr int kBytes = sizeof(BlockQ8_0);
  static constexpr int kOffset = 128;
  static constexpr bool kHasMinimum = false;
  struct Header {};

  ADDER_SIMD Header Read(const uint8_t*) { return {}; }
  ADDER_SIMD Weights Get(const uint8_t* block, const Header&, int) {
    const __m512i q = _mm512_inserti64x4(_mm512_castsi256_si512(Load32(block + 2)),
                                         Load32(block + kBytes + 2), 1);
    return {_mm512_xor_si512(q, _mm512_set1_epi8(static_cast<char>(0x80))),
            TwoScales(block, block + kBytes), Zero()};
  }
  ADDER_SIMD Weights GetHalf(const uint8_t* block) {
    const __m512i q = _mm512_zextsi256_si512(Load32(block + 2));
    return {_mm512_xor_si512(q, _mm512_set1_epi8(static_cast<char>(0x80))), OneScale(block),
            Zero()};
  }
};

template <>
struct Int8Weights<BlockQ4_0> {
  static constexpr int kElements = 32;
  static constexpr int kBytes = sizeof(BlockQ4_0);
  static constexpr int kOffset = 8;
  static constexpr bool kHasMinimum = false;
  struct Header {};

  ADDER_SIMD Header Read(const uint8_t*) { return {}; }
  // Quarters 0, 1, 2, 3: the lower and the upper halves of one block's bytes, then of the other's.
  ADDER_SIMD __m512i Spread(__m256i bytes) {
    const __m512i quarters = _mm512_setr_epi64(0, 1, 0, 1, 2, 3, 2, 3);
    __m512i q = _mm512_permutexvar_epi64(quarters, _mm512_castsi256_si512(bytes));
    q = _mm512_mask_srli_epi16(q, 0xff00ff00u, q, 4);
    return _mm512_and_si512(q, _mm512_set1_epi8(15));
  }
  ADDER_SIMD Weights Get(const uint8_t* block, const Header&, int) {
    const __m256i bytes = _mm256_inserti128_si256(_mm256_castsi128_si256(Load16(block + 2)),
                                                  Load16(block + kBytes + 2), 1);
    return {Spread(bytes), TwoScales(block, block + kBytes), Zero()};
  }
  ADDER_SIMD Weights GetHalf(const uint8_t* block) {
    return {Spread(_mm256_zextsi128_si256(Load16(block + 2))), OneScale(block), Zero()};
  }
};

template <>
struct Int8Weights<BlockQ4_K> {
  static constexpr int kElements = 256;
  static constexpr int kBytes = sizeof(BlockQ4_K);
  static constexpr int kOffset = 0;
  static constexpr bool kHasMinimum = true;
  struct Header {
    F32 values;  // eight scales, eight minima
  };

  ADDER_SIMD Header Read(const uint8_t* block) {
    // The twelve bytes of quantization.h, four sub-blocks at a time.
    uint32_t low[3];
    __builtin_memcpy(low, block + 4, sizeof low);
    const __m128i packed =
        _mm_setr_epi32(static_cast<int>(low[0] & 0x3f3f3f3fu),
                       static_cast<int>((low[2] & 0x0f0f0f0fu) | (low[0] >> 2 & 0x30303030u)),
                       static_cast<int>(low[1] & 0x3f3f3f3fu),
                       static_cast<int>((low[2] >> 4 & 0x0f0f0f0fu) | (low[1] >> 2 & 0x30303030u)));
    const F32 values = (F32)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(packed));
    return {TwoScales(block, block + 2) * values};
  }
  ADDER_SIMD Weights Get(const uint8_t* block, const Header& header, int p) {
    __m512i q = _mm512_broadcast_i64x4(Load32(block + 16 + 32 * p));
    q = _mm512_mask_srli_epi16(q, 0xffff0000u, q, 4);
    const I32 of_lane = Iota() / 8 + SetI32(2 * p);
    return {_mm512_and_si512(q, _mm512_set1_epi8(15)), Lookup(header.values, of_lane),
            Lookup(header.values, of_lane + 8)};
  }
};

template <>
struct Int8Weights<BlockQ6_K> {
  static constexpr int kElements = 256;
  static constexpr int kBytes = sizeof(BlockQ6_K);
  static constexpr int kOffset = 32;
  static constexpr bool kHasMinimum = false;
  struct Header {
    F32 scales;
  };

  ADDER_SIMD Header Read(const uint8_t* block) {
    return {OneScale(block + 208) *
            (F32)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(Load16(block + 192)))};
  }
  ADDER_SIMD Weights Get(const uint8_t* block, const Header& header, int p) {
    // Groups k = 2 · (p mod 2) and the next: nibbles of the same half, bits 2k and 2k + 1.
    __m512i low = _mm512_loadu_si512(block + 64 * (p / 2));
    __m512i high = _mm512_broadcast_i64x4(Load32(block + 128 + 32 * (p / 2)));
    if (p % 2 == 0) {
      high = _mm512_sllv_epi16(high,
                               _mm512_inserti64x4(_mm512_set1_epi16(4), _mm256_set1_epi16(2), 1));
    } else {
      low = _mm512_srli_epi16(low, 4);
      high = _mm512_mask_srli_epi16(high, 0xffff0000u, high, 2);
    }
    const __m512i q = _mm512_or_si512(_mm512_and_si512(low, _mm512_set1_epi8(15)),
                                      _mm512_and_si512(high, _mm512_set1_epi8(0x30)));
    return {q, Lookup(header.scales, Iota() / 4 + SetI32(4 * p)), Zero()};
  }
};

// ---- Products -----------------------------------------------------------------------------------

// Adds 64 elements of kRows rows of x, each `stride` after the one before, times those of kOutputs
// rows of W.
template <class Block, int kRows, int kOutputs>
ADDER_SIMD void AddProducts(const Int8Activations* x, int64_t stride, const Weights (&w)[kOutputs],
                            F32 (&sums)[kRows][kOutputs]) {
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    const Int8Activations& at = x[r * stride];
    const __m512i q = _mm512_load_si512(at.q);
    const F32 d = Load(at.d);
    const __m512i correction = _mm512_load_si512(at.correction);
#pragma GCC unroll 4
    for (int j = 0; j < kOutputs; ++j) {
      if constexpr (Int8Weights<Block>::kHasMinimum) {
        const __m512i dot = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w[j].q, q);
        sums[r][j] = MulAdd((F32)_mm512_cvtepi32_ps(dot), d * w[j].scale, sums[r][j]);
        sums[r][j] = NegMulAdd((F32)correction, w[j].minimum, sums[r][j]);
      } else {
        const __m512i dot = _mm512_dpbusd_epi32(correction, w[j].q, q);
        sums[r][j] = MulAdd((F32)_mm512_cvtepi32_ps(dot), d * w[j].scale, sums[r][j]);
      }
    }
  }
}

template <class Block, int kRows, int kOutputs>
void Tile(const LinearInt8Arguments& a, int64_t row, int64_t output) {
  using W = Int8Weights<Block>;
  constexpr int kBlocksAtOnce = W::kElements < kPair ? kPair / W::kElements : 1;
  constexpr int kPairs = W::kElements < kPair ? 1 : W::kElements / kPair;
  const int64_t pairs = (a.K + kPair - 1) / kPair;
  const Int8Activations* x = a.x + row * pairs;
  const uint8_t* block = static_cast<const uint8_t*>(a.W) + output * a.W_row_bytes;
  F32 sums[kRows][kOutputs] = {};
  int64_t k = 0;
  for (; k + kPairs * kPair <= a.K; k += kPairs * kPair) {
    typename W::Header headers[kOutputs];
    for (int j = 0; j < kOutputs; ++j) {
      headers[j] = W::Read(block + j * a.W_row_bytes);
      // The rows of W that come next. Past the last this fetches what nobody needs, but cannot
      // fault.
      for (int line = 0; line < kBlocksAtOnce * W::kBytes; line += 64) {
        __builtin_prefetch(block + (4 + j) * a.W_row_bytes + line, 0, 2);
      }
    }
#pragma GCC unroll 4
    for (int p = 0; p < kPairs; ++p) {
      Weights w[kOutputs];
      for (int j = 0; j < kOutputs; ++j) w[j] = W::Get(block + j * a.W_row_bytes, headers[j], p);
      AddProducts<Block>(x++, pairs, w, sums);
    }
    block += kBlocksAtOnce * W::kBytes;
  }
  if constexpr (W::kElements < kPair) {
    if (k < a.K) {
      Weights w[kOutputs];
      for (int j = 0; j < kOutputs; ++j) w[j] = W::GetHalf(block + j * a.W_row_bytes);
      AddProducts<Block>(x, pairs, w, sums);
    }
  }
  for (int r = 0; r < kRows; ++r) StoreRow<kOutputs>(a, sums[r], row + r, output);
}

// All rows of x times kOutputs rows of W, which stay in the first-level cache from the second tile
// on. Many rows go with few outputs, so that unpacking weights costs little beside multiplying.
template <class Block, int kOutputs>
void TilesOfRows(const LinearInt8Arguments& a, int64_t output) {
  int64_t row = 0;
  for (; row + 4 <= a.rows; row += 4) Tile<Block, 4, kOutputs>(a, row, output);
  if (a.rows - row == 3) Tile<Block, 3, kOutputs>(a, row, output);
  if (a.rows - row == 2) Tile<Block, 2, kOutputs>(a, row, output);
  if (a.rows - row == 1) Tile<Block, 1, kOutputs>(a, row, output);
}

template <class Block>
void Multiply(const LinearInt8Arguments& a) {
  int64_t output = a.begin;
  for (; output + 4 <= a.end; output += 4) TilesOfRows<Block, 4>(a, output);
  for (; output < a.end; ++output) TilesOfRows<Block, 1>(a, output);
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

// One block of 32.
void RoundBlock(const BFloat16* x, bool minima, int offset, int half, Int8Activations* to) {
  const F32 low = Load(x);
  const F32 high = Load(x + kLanes);
  // A NaN or infinity makes all products NaN: what goes wrong is to be seen.
  const float poison = ReduceSum(low * 0.0f + high * 0.0f);
  const F32 d = Set(ReduceMax(Max(Abs(low), Abs(high))) + poison) / 127.0f;
  // A block of zeros, or of values too small to tell from them.
  const F32 inverse = Select(d > Set(0x1p-120f), 1.0f / d, Zero());
  const __m512i q_low = _mm512_cvtps_epi32((__m512)(low * inverse));
  const __m512i q_high = _mm512_cvtps_epi32((__m512)(high * inverse));
  const __m256i q = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm512_cvtepi32_epi8(q_low)),
                                            _mm512_cvtepi32_epi8(q_high), 1);
  _mm256_store_si256(reinterpret_cast<__m256i*>(to->q + 32 * half), q);
  _mm256_store_ps(to->d + 8 * half, _mm512_castps512_ps256((__m512)d));
  const __m256i fours = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), q);
  const __m256i correction =
      minima ? _mm256_castps_si256(
                   _mm256_mul_ps(_mm256_cvtepi32_ps(fours), _mm512_castps512_ps256((__m512)d)))
             : _mm256_mullo_epi32(fours, _mm256_set1_epi32(-offset));
  _mm256_store_si256(reinterpret_cast<__m256i*>(to->correction + 8 * half), correction);
}

}  // namespace

void Int8ActivationsKernel(const Int8ActivationsArguments& a) {
  const int64_t pairs = (a.K + kPair - 1) / kPair;
  const bool minima = a.W_dtype == DType::kQ4_K;
  const int offset = Offset(a.W_dtype);
  for (int64_t row = 0; row < a.rows; ++row) {
    Int8Activations* to = a.to + row * pairs;
    if (a.K % kPair != 0) __builtin_memset(to + pairs - 1, 0, sizeof *to);
    for (int64_t k = 0; k < a.K; k += 32) {
      RoundBlock(a.x + row * a.x_stride + k, minima, offset, static_cast<int>(k / 32 % 2),
                 to + k / kPair);
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
