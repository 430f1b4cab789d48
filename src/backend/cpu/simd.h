// The SIMD vocabulary of the CPU kernels: vectors of f32, loads and stores that convert, and the
// elementary functions, on compiler vector extensions plus the few intrinsics that matter.
//
// Only *_kernel.cc files include it: it is compiled once per instruction set, in that set's
// namespace (instruction_set.h says why). Everything is forced inline, so nothing of it can be
// shared between two sets' code. Operators +, -, *, /, <, &, << and so on are the compiler's own,
// lane by lane; a comparison gives an I32 of 0 and -1 to pass to Select.
//
// Accuracy is stated per function in ulp, as measured over the whole range by vector_math_test.cc.
// Results below the smallest normal f32 may be flushed to zero, as may subnormal arguments.
#pragma once

#include <stdint.h>

#include "adder/core/dtype.h"

#if defined(__x86_64__)
// g++ 12 calls its own "undefined" vectors uninitialised (GCC bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

// Forced inline also in unoptimised builds: a vector argument must not cross a call.
#define ADDER_SIMD static inline __attribute__((always_inline))

namespace adder::cpu::ADDER_ISA {

// ---- Types --------------------------------------------------------------------------------------
#if defined(__AVX512F__)
inline constexpr int kLanes = 16;
#elif defined(__AVX2__)
inline constexpr int kLanes = 8;
#else
inline constexpr int kLanes = 4;
#endif

// kLanes elements each; U16 is half as wide as the others.
typedef float F32 __attribute__((vector_size(4 * kLanes)));
typedef int32_t I32 __attribute__((vector_size(4 * kLanes)));
typedef uint32_t U32 __attribute__((vector_size(4 * kLanes)));
typedef uint16_t U16 __attribute__((vector_size(2 * kLanes)));

template <class To, class From>
ADDER_SIMD To BitCast(From value) {
  static_assert(sizeof(To) == sizeof(From));
  return __builtin_bit_cast(To, value);
}

// Calls visit(T{}) with the type of f32, bf16 or f16.
template <class Visit>
void VisitActivation(DType dtype, Visit&& visit) {
  switch (dtype) {
    case DType::kBF16:
      return visit(BFloat16{});
    case DType::kF16:
      return visit(Half{});
    default:
      return visit(float{});
  }
}

// ---- Making vectors -----------------------------------------------------------------------------
ADDER_SIMD F32 Zero() { return F32{}; }
// `value` in every lane.
ADDER_SIMD F32 Set(float value) { return value - F32{}; }
ADDER_SIMD I32 SetI32(int32_t value) { return value + I32{}; }
ADDER_SIMD U32 SetU32(uint32_t value) { return value + U32{}; }
// 0, 1, 2, ...
ADDER_SIMD I32 Iota() {
#if defined(__AVX512F__)
  return I32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif defined(__AVX2__)
  return I32{0, 1, 2, 3, 4, 5, 6, 7};
#else
  return I32{0, 1, 2, 3};
#endif
}
// -1 in the first n lanes, 0 in the others.
ADDER_SIMD I32 FirstLanes(int64_t n) { return Iota() < SetI32(static_cast<int32_t>(n)); }

// ---- Arithmetic ---------------------------------------------------------------------------------
// a in the lanes where mask is -1, b where it is 0.
ADDER_SIMD F32 Select(I32 mask, F32 a, F32 b) { return mask ? a : b; }
ADDER_SIMD I32 Select(I32 mask, I32 a, I32 b) { return mask ? a : b; }
ADDER_SIMD U32 Select(I32 mask, U32 a, U32 b) { return mask ? a : b; }

// a·b + c, rounded once where the set has fused instructions. Written out rather than left to the
// compiler's contraction, so that two kernels that compute the same thing get the same bits.
ADDER_SIMD F32 MulAdd(F32 a, F32 b, F32 c) {
#if defined(__AVX512F__)
  return (F32)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (F32)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  return (F32)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}
ADDER_SIMD F32 NegMulAdd(F32 a, F32 b, F32 c) { return MulAdd(-a, b, c); }  // c - a·b
ADDER_SIMD F32 MulSub(F32 a, F32 b, F32 c) { return MulAdd(a, b, -c); }     // a·b - c

// A polynomial in x by Horner's rule, the coefficient of the highest power first.
template <class... Coefficients>
ADDER_SIMD F32 Polynomial(F32 x, float first, Coefficients... rest) {
  F32 sum = Set(first);
  ((sum = MulAdd(x, sum, Set(rest))), ...);
  return sum;
}

// The lesser / the greater lane by lane; b where either is NaN.
ADDER_SIMD F32 Min(F32 a, F32 b) {
#if defined(__AVX512F__)
  return (F32)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (F32)_mm256_min_ps((__m256)a, (__m256)b);
#else
  return Select(a < b, a, b);
#endif
}
ADDER_SIMD F32 Max(F32 a, F32 b) {
#if defined(__AVX512F__)
  return (F32)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (F32)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return Select(a > b, a, b);
#endif
}
ADDER_SIMD F32 Abs(F32 x) { return BitCast<F32>(BitCast<U32>(x) & 0x7fffffffu); }

// Correctly rounded.
ADDER_SIMD F32 Sqrt(F32 x) {
#if defined(__AVX512F__)
  return (F32)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
  return (F32)_mm256_sqrt_ps((__m256)x);
#elif defined(__SSE2__)
  return (F32)_mm_sqrt_ps((__m128)x);
#elif defined(__aarch64__)
  return (F32)vsqrtq_f32((float32x4_t)x);
#else
  F32 root;
  for (int i = 0; i < kLanes; ++i) root[i] = __builtin_sqrtf(x[i]);
  return root;
#endif
}
// 1/√x, 1.5 ulp.
ADDER_SIMD F32 Rsqrt(F32 x) { return 1.0f / Sqrt(x); }

// To the nearest integer, ties to even.
ADDER_SIMD F32 Round(F32 x) {
#if defined(__AVX512F__)
  return (F32)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__AVX2__)
  return (F32)_mm256_round_ps((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__aarch64__)
  return (F32)vrndnq_f32((float32x4_t)x);
#else
  // Adding 2²³ leaves no bits for a fraction; from 2²³ on there is none.
  const F32 magic = BitCast<F32>((BitCast<U32>(x) & 0x80000000u) | 0x4b000000u);
  return Select(Abs(x) < Set(0x1p23f), (x + magic) - magic, x);
#endif
}

// ---- Loads --------------------------------------------------------------------------------------
// kLanes elements from memory of any alignment, widened to f32.
ADDER_SIMD F32 Load(const float* from) {
  F32 value;
  __builtin_memcpy(&value, from, sizeof(value));
  return value;
}

// bf16 bits to f32: exact.
ADDER_SIMD F32 FromBFloat16Bits(U16 bits) {
  return BitCast<F32>(__builtin_convertvector(bits, U32) << 16);
}

// f16 bits to f32: exact.
ADDER_SIMD F32 FromHalfBits(U16 bits) {
#if defined(__AVX512F__)
  return (F32)_mm512_cvtph_ps((__m256i)bits);
#elif defined(__F16C__)
  return (F32)_mm256_cvtph_ps((__m128i)bits);
#else
  const U32 wide = __builtin_convertvector(bits, U32);
  const U32 magnitude = (wide & 0x7fffu) << 13;
  // The exponent's bias differs by 112; a multiplication also normalises subnormal halves.
  const F32 finite = BitCast<F32>(magnitude) * 0x1p112f;
  const U32 value = Select(BitCast<I32>(magnitude) >= SetI32(0x0f800000), magnitude | 0x7f800000u,
                           BitCast<U32>(finite));
  return BitCast<F32>(value | (wide & 0x8000u) << 16);
#endif
}

ADDER_SIMD U16 LoadBits(const void* from) {
  U16 bits;
  __builtin_memcpy(&bits, from, sizeof(bits));
  return bits;
}
ADDER_SIMD F32 Load(const BFloat16* from) { return FromBFloat16Bits(LoadBits(from)); }
ADDER_SIMD F32 Load(const Half* from) { return FromHalfBits(LoadBits(from)); }

// The first n lanes (0 ≤ n ≤ kLanes) from memory, 0 in the others. Memory past them isn't touched.
ADDER_SIMD F32 LoadPartial(const float* from, int64_t n) {
#if defined(__AVX512F__)
  return (F32)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), from);
#elif defined(__AVX2__)
  return (F32)_mm256_maskload_ps(from, (__m256i)FirstLanes(n));
#else
  F32 value = {};
  for (int64_t i = 0; i < n; ++i) value[i] = from[i];
  return value;
#endif
}
ADDER_SIMD U16 LoadBitsPartial(const void* from, int64_t n) {
#if defined(__AVX512F__)
  return (U16)_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << n) - 1), from);
#else
  U16 bits = {};
  __builtin_memcpy(&bits, from, static_cast<size_t>(n) * 2);
  return bits;
#endif
}
ADDER_SIMD F32 LoadPartial(const BFloat16* from, int64_t n) {
  return FromBFloat16Bits(LoadBitsPartial(from, n));
}
ADDER_SIMD F32 LoadPartial(const Half* from, int64_t n) {
  return FromHalfBits(LoadBitsPartial(from, n));
}

// n < kLanes elements, or a whole vector where n is kLanes: masks cost, so they are for the ends.
template <class T>
ADDER_SIMD F32 LoadLanes(const T* from, int64_t n) {
  return n == kLanes ? Load(from) : LoadPartial(from, n);
}

// One element.
ADDER_SIMD float LoadScalar(const float* from) { return *from; }
ADDER_SIMD float LoadScalar(const BFloat16* from) {
  return BitCast<float>(static_cast<uint32_t>(from->bits) << 16);
}
ADDER_SIMD float LoadScalar(const Half* from) {
  return FromHalfBits(static_cast<uint16_t>(from->bits) + U16{})[0];
}

// ---- Stores -------------------------------------------------------------------------------------
// kLanes elements to memory of any alignment, rounded to nearest even.
ADDER_SIMD void Store(F32 value, float* to) { __builtin_memcpy(to, &value, sizeof(value)); }

// f32 to bf16 bits. Where the set has the instruction, subnormal values become 0.
ADDER_SIMD U16 ToBFloat16Bits(F32 value) {
#if defined(__AVX512BF16__)
  return (U16)_mm512_cvtneps_pbh((__m512)value);
#else
  const U32 u = BitCast<U32>(value);
  const U32 rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const U32 quiet_nan = (u >> 16) | 0x40u;
  return __builtin_convertvector(Select(value == value, rounded, quiet_nan), U16);
#endif
}

// f32 to f16 bits.
ADDER_SIMD U16 ToHalfBits(F32 value) {
#if defined(__AVX512F__)
  return (U16)_mm512_cvtps_ph((__m512)value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__F16C__)
  return (U16)_mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  const U32 u = BitCast<U32>(value);
  const U32 sign = (u >> 16) & 0x8000u;
  const U32 magnitude = u & 0x7fffffffu;
  const I32 order = BitCast<I32>(magnitude);
  // Rounding may carry into the exponent, up to infinity.
  const U32 normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
  // Subnormal halves: the f32 adder rounds at the right bit.
  const U32 subnormal = BitCast<U32>(BitCast<F32>(magnitude) + 0.5f) - 0x3f000000u;
  const U32 quiet_nan = ((magnitude >> 13) & 0x3ffu) | 0x7e00u;
  U32 half = Select(order < SetI32(0x38800000), subnormal, normal);
  half = Select(order >= SetI32(0x477ff000), SetU32(0x7c00u), half);
  half = Select(order > SetI32(0x7f800000), quiet_nan, half);
  return __builtin_convertvector(half | sign, U16);
#endif
}

ADDER_SIMD void StoreBits(U16 bits, void* to) { __builtin_memcpy(to, &bits, sizeof(bits)); }
ADDER_SIMD void Store(F32 value, BFloat16* to) { StoreBits(ToBFloat16Bits(value), to); }
ADDER_SIMD void Store(F32 value, Half* to) { StoreBits(ToHalfBits(value), to); }

// The first n lanes (0 ≤ n ≤ kLanes). Memory past them isn't touched.
ADDER_SIMD void StorePartial(F32 value, float* to, int64_t n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << n) - 1), (__m512)value);
#elif defined(__AVX2__)
  _mm256_maskstore_ps(to, (__m256i)FirstLanes(n), (__m256)value);
#else
  for (int64_t i = 0; i < n; ++i) to[i] = value[i];
#endif
}
ADDER_SIMD void StoreBitsPartial(U16 bits, void* to, int64_t n) {
#if defined(__AVX512F__)
  _mm256_mask_storeu_epi16(to, static_cast<__mmask16>((1u << n) - 1), (__m256i)bits);
#else
  __builtin_memcpy(to, &bits, static_cast<size_t>(n) * 2);
#endif
}
ADDER_SIMD void StorePartial(F32 value, BFloat16* to, int64_t n) {
  StoreBitsPartial(ToBFloat16Bits(value), to, n);
}
ADDER_SIMD void StorePartial(F32 value, Half* to, int64_t n) {
  StoreBitsPartial(ToHalfBits(value), to, n);
}
template <class T>
ADDER_SIMD void StoreLanes(F32 value, T* to, int64_t n) {
  if (n == kLanes) {
    Store(value, to);
  } else {
    StorePartial(value, to, n);
  }
}
// One element.
ADDER_SIMD void StoreScalar(float value, float* to) { *to = value; }
ADDER_SIMD void StoreScalar(float value, BFloat16* to) { to->bits = ToBFloat16Bits(Set(value))[0]; }
ADDER_SIMD void StoreScalar(float value, Half* to) { to->bits = ToHalfBits(Set(value))[0]; }

// ---- bf16 dot products --------------------------------------------------------------------------
// 2·kLanes consecutive bf16, two to a lane.
ADDER_SIMD U32 LoadPairs(const BFloat16* from) {
  U32 pairs;
  __builtin_memcpy(&pairs, from, sizeof(pairs));
  return pairs;
}
// The first n ≤ 2·kLanes elements, 0 for the others.
ADDER_SIMD U32 LoadPairsPartial(const BFloat16* from, int64_t n) {
#if defined(__AVX512F__)
  return (U32)_mm512_maskz_loadu_epi16(static_cast<__mmask32>((uint64_t{1} << n) - 1), from);
#else
  U32 pairs = {};
  __builtin_memcpy(&pairs, from, static_cast<size_t>(n) * 2);
  return pairs;
#endif
}
// sum[i] + a[2i]·b[2i] + a[2i+1]·b[2i+1]. Sets differ in the rounding in between.
ADDER_SIMD F32 DotPairs(U32 a, U32 b, F32 sum) {
#if defined(__AVX512BF16__)
  return (F32)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
  sum = MulAdd(BitCast<F32>(a << 16), BitCast<F32>(b << 16), sum);
  return MulAdd(BitCast<F32>(a & 0xffff0000u), BitCast<F32>(b & 0xffff0000u), sum);
#endif
}

// 2·kLanes f32 as pairs of bf16, in order.
ADDER_SIMD U32 ToPairs(F32 low, F32 high) {
#if defined(__AVX512BF16__)
  return (U32)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
#else
  const U16 halves[2] = {ToBFloat16Bits(low), ToBFloat16Bits(high)};
  U32 pairs;
  __builtin_memcpy(&pairs, halves, sizeof(pairs));
  return pairs;
#endif
}

// ---- Lanes --------------------------------------------------------------------------------------
// In blocks of kStride lanes: a's even blocks with b's even blocks in place of a's odd ones, and
// b's odd blocks with a's odd blocks in place of b's even ones. With kStride 2 and lanes
// a = 0 1 2 3, b = 4 5 6 7 these are 0 1 4 5 and 2 3 6 7.
template <int kStride>
struct Interleave {
  static constexpr int Even(int lane) {
    return (lane & kStride) != 0 ? kLanes + lane - kStride : lane;
  }
  static constexpr int Odd(int lane) {
    return (lane & kStride) != 0 ? kLanes + lane : lane + kStride;
  }
};
#if defined(__AVX512F__)
#define ADDER_SIMD_LANES(f)                                                                      \
  f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7), f(8), f(9), f(10), f(11), f(12), f(13), f(14), \
      f(15)
#elif defined(__AVX2__)
#define ADDER_SIMD_LANES(f) f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7)
#else
#define ADDER_SIMD_LANES(f) f(0), f(1), f(2), f(3)
#endif
template <int kStride>
ADDER_SIMD F32 InterleaveEven(F32 a, F32 b) {
  return __builtin_shufflevector(a, b, ADDER_SIMD_LANES(Interleave<kStride>::Even));
}
template <int kStride>
ADDER_SIMD F32 InterleaveOdd(F32 a, F32 b) {
  return __builtin_shufflevector(a, b, ADDER_SIMD_LANES(Interleave<kStride>::Odd));
}
#undef ADDER_SIMD_LANES

// v as a matrix of kLanes rows, in place: v[i][j] becomes v[j][i].
template <int kStride = kLanes / 2>
ADDER_SIMD void Transpose(F32 (&v)[kLanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if ((i & kStride) != 0) continue;
    const F32 even = InterleaveEven<kStride>(v[i], v[i + kStride]);
    const F32 odd = InterleaveOdd<kStride>(v[i], v[i + kStride]);
    v[i] = even;
    v[i + kStride] = odd;
  }
  if constexpr (kStride > 1) Transpose<kStride / 2>(v);
}

// Adds lanes until kCount vectors (a power of two, at most kLanes) fit into one: the lanes
// [i, i + 1) · kLanes / kCount of the result add up to the sum of v[i]. v is overwritten.
template <int kCount, int kStride = kLanes / 2>
ADDER_SIMD F32 FoldSums(F32* v) {
  if constexpr (kCount == 1) {
    return v[0];
  } else {
#pragma GCC unroll 8
    for (int i = 0; i < kCount / 2; ++i) {
      v[i] = InterleaveEven<kStride>(v[i], v[i + kCount / 2]) +
             InterleaveOdd<kStride>(v[i], v[i + kCount / 2]);
    }
    return FoldSums<kCount / 2, kStride / 2>(v);
  }
}

// ---- Reductions ---------------------------------------------------------------------------------
// Blocks of lanes combined with their neighbours, the widest first: the order depends on kLanes
// alone.
template <int kStride = kLanes / 2>
ADDER_SIMD float ReduceSum(F32 v) {
  v = InterleaveEven<kStride>(v, v) + InterleaveOdd<kStride>(v, v);
  if constexpr (kStride > 1) {
    return ReduceSum<kStride / 2>(v);
  } else {
    return v[0];
  }
}
// NaN lanes: unspecified.
template <int kStride = kLanes / 2>
ADDER_SIMD float ReduceMax(F32 v) {
  v = Max(InterleaveEven<kStride>(v, v), InterleaveOdd<kStride>(v, v));
  if constexpr (kStride > 1) {
    return ReduceMax<kStride / 2>(v);
  } else {
    return v[0];
  }
}

// ---- Exponentials -------------------------------------------------------------------------------
// Powers of two past ±300 are as good as infinite, but would not fit the exponent's bits. AVX-512's
// own scaling takes any, even where p is NaN because n is infinite.
ADDER_SIMD F32 LimitPower(F32 x) {
#if defined(__AVX512F__)
  return x;
#else
  return Max(Set(-200.0f), Min(Set(200.0f), x));  // in this order NaN stays NaN
#endif
}

// p · 2^n for p in [0.7, 1.42] and an integral n, or NaN where p is. Too large gives infinity;
// below the smallest normal it is 0 or gradual.
ADDER_SIMD F32 ScaleByPowerOfTwo(F32 p, F32 n) {
#if defined(__AVX512F__)
  return (F32)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
  const I32 power = __builtin_convertvector(n, I32);
  // Unsigned, because the conversion of a NaN overflows.
  const I32 exponent = BitCast<I32>(BitCast<U32>(BitCast<I32>(p) >> 23) + BitCast<U32>(power));
  F32 scaled = BitCast<F32>(BitCast<U32>(p) + (BitCast<U32>(power) << 23));
  scaled = Select(exponent > SetI32(0), scaled, Zero());
  scaled = Select(exponent > SetI32(254), Set(__builtin_inff()), scaled);
  return Select(p == p, scaled, p);
#endif
}

// e^x, 1.25 ulp (1 with fused instructions).
ADDER_SIMD F32 Exp(F32 x) {
  // Far below, where the result is 0 anyway, the remainder would no longer be small.
  x = LimitPower(Max(Set(-110.0f), x));
  const F32 n = Round(x * 1.44269504f);
  F32 r = NegMulAdd(n, Set(0x1.62e4p-1f), x);  // ln 2, upper bits: n times it is exact
  r = NegMulAdd(n, Set(0x1.7f7d1cp-20f), r);   // ln 2, the rest
  const F32 p = Polynomial(r, 0x1.6ae704p-10f, 0x1.126704p-7f, 0x1.555824p-5f, 0x1.55541ap-3f,
                           0x1.fffffcp-2f, 1.0f, 1.0f);
  return ScaleByPowerOfTwo(p, n);
}

// 2^x, 1.25 ulp (1 with fused instructions). For a caller that can fold log₂ e into a factor of x
// this is the faster e^x.
ADDER_SIMD F32 Exp2(F32 x) {
  x = LimitPower(x);
  const F32 n = Round(x);
  const F32 r = x - n;
  const F32 p = Polynomial(r, 0x1.41fbbep-13f, 0x1.5f3e54p-10f, 0x1.3b2d4cp-7f, 0x1.c6aee8p-5f,
                           0x1.ebfbdcp-3f, 0x1.62e430p-1f, 1.0f);
  return ScaleByPowerOfTwo(p, n);
}

// ---- Logarithms ---------------------------------------------------------------------------------
// log(u + c) for normal u in (0, ∞) and |c| of at most an ulp of u: a correction.
ADDER_SIMD F32 LogOfSum(F32 u, F32 c) {
  // u = 2^k · (1 + f) with 1 + f in [√½, √2).
  const I32 shifted = BitCast<I32>(BitCast<U32>(u) - 0x3f3504f3u);
  const I32 k = shifted >> 23;
  const F32 power =
      BitCast<F32>(BitCast<U32>(SetI32(127) - Select(k < SetI32(127), k, SetI32(126))) << 23);
  const F32 f = MulAdd(c, power, BitCast<F32>((shifted & 0x7fffff) + 0x3f3504f3) - 1.0f);
  const F32 exponent = __builtin_convertvector(k, F32);
  // log(1 + f) = f - f²/2 + f³·P(f)
  const F32 p =
      Polynomial(f, 0x1.14632ep-4f, -0x1.de4fa8p-4f, 0x1.e6f5fcp-4f, -0x1.fc1f6ap-4f,
                 0x1.2336e4p-3f, -0x1.555c5ap-3f, 0x1.99a4bcp-3f, -0x1.000006p-2f, 0x1.555548p-2f);
  const F32 square = f * f;
  F32 low = MulAdd(square * f, p, exponent * 0x1.7f7d1cp-20f);
  low = MulAdd(Set(-0.5f), square, low);
  return MulAdd(exponent, Set(0x1.62e4p-1f), f + low);
}

// The natural logarithm, 1 ulp: -∞ at 0, NaN below.
ADDER_SIMD F32 Log(F32 x) {
  const I32 subnormal = x < Set(0x1p-126f);
  const F32 log = LogOfSum(Select(subnormal, x * 0x1p23f, x), Zero()) -
                  Select(subnormal, Set(0x1.fe2804p3f), Zero());  // 23 ln 2
  const F32 finite = Select(x == Set(__builtin_inff()), x, log);
  return Select(x > Zero(), finite,
                Select(x == Zero(), Set(-__builtin_inff()), Set(__builtin_nanf(""))));
}

// log(1 + x), 1.5 ulp also for small x: -∞ at -1, NaN below.
ADDER_SIMD F32 Log1p(F32 x) {
  const F32 u = 1.0f + x;
  const F32 lost = Select(x > Set(1.0f), 1.0f - (u - x), x - (u - 1.0f));
  const F32 finite = Select(u == Set(__builtin_inff()), u, LogOfSum(u, lost));
  return Select(u > Zero(), finite,
                Select(u == Zero(), Set(-__builtin_inff()), Set(__builtin_nanf(""))));
}

// ---- Activations --------------------------------------------------------------------------------
// log(1 + e) / e for e in [0, 1]: a polynomial, with no logarithm's range to reduce.
ADDER_SIMD F32 LogOnePlusRatio(F32 e) {
  return Polynomial(e, 0x1.0a1b9ap-9f, -0x1.b75684p-7f, 0x1.53ca24p-5f, -0x1.51ae70p-4f,
                    0x1.fca8bcp-4f, -0x1.49d834p-3f, 0x1.975ccep-3f, -0x1.ffbd44p-3f,
                    0x1.55534ep-2f, -0x1.fffff4p-2f, 1.0f);
}

// log(1 + e^x), 2.25 ulp (2 with fused instructions), without overflow for large and without
// cancellation for small x.
ADDER_SIMD F32 Softplus(F32 x) {
  const F32 e = Exp(-Abs(x));
  return MulAdd(e, LogOnePlusRatio(e), Max(Zero(), x));
}

struct ValueAndSlope {
  F32 value, slope;
};
// Softplus and its derivative, the sigmoid, for little more than the former.
ADDER_SIMD ValueAndSlope SoftplusWithSlope(F32 x) {
  const F32 e = Exp(-Abs(x));
  return {MulAdd(e, LogOnePlusRatio(e), Max(Zero(), x)),
          Select(x < Zero(), e, Set(1.0f)) / (1.0f + e)};
}

// 1 / (1 + e^-x), 2.5 ulp.
ADDER_SIMD F32 Sigmoid(F32 x) { return 1.0f / (1.0f + Exp(-x)); }

// x · sigmoid(x), 2.5 ulp.
ADDER_SIMD F32 Silu(F32 x) { return x / (1.0f + Exp(-x)); }

// Silu and its derivative sigmoid(x) · (1 + x · (1 - sigmoid(x))).
ADDER_SIMD ValueAndSlope SiluWithSlope(F32 x) {
  const F32 sigmoid = Sigmoid(x);
  const F32 silu = x * sigmoid;
  return {silu, MulAdd(silu, 1.0f - sigmoid, sigmoid)};
}

// ---- Trigonometry -------------------------------------------------------------------------------
struct SinCos {
  F32 sin, cos;
};
// Sine and cosine of x · π/2, within 1.2e-7. The reduction is exact for every x, so a caller that
// can fold 2/π into a factor of x gets full accuracy without a long reduction.
ADDER_SIMD SinCos SinCosQuarterTurns(F32 x) {
  const F32 n = Round(x);
  // From 2²⁴ on all f32 are even, and from 2²⁵ on multiples of four.
  const F32 r = Select(Abs(x) < Set(0x1p30f), x - n, x * 0.0f);
  const I32 quadrant = __builtin_convertvector(Select(Abs(x) < Set(0x1p30f), n, Zero()), I32);
  const F32 square = r * r;
  // π/2 in two parts: the first alone is off by 2⁻²⁵.
  F32 s = Polynomial(square, 0x1.4bc256p-13f, -0x1.32ca86p-8f, 0x1.466bbap-4f, -0x1.4abbcep-1f,
                     -0x1.777a5cp-25f);
  s = MulAdd(r, s, r * 0x1.921fb6p+0f);
  const F32 c = Polynomial(square, -0x1.a0f36ap-16f, 0x1.e1e7f6p-11f, -0x1.55d3bap-6f,
                           0x1.03c1f0p-2f, -0x1.3bd3ccp+0f, 1.0f);
  const I32 swap = (quadrant & 1) != SetI32(0);
  const U32 sin_sign = BitCast<U32>((quadrant & 2) << 30);
  const U32 cos_sign = BitCast<U32>(((quadrant + 1) & 2) << 30);
  return {BitCast<F32>(BitCast<U32>(Select(swap, c, s)) ^ sin_sign),
          BitCast<F32>(BitCast<U32>(Select(swap, s, c)) ^ cos_sign)};
}

}  // namespace adder::cpu::ADDER_ISA
