// Element types and the 16-bit floats' conversions.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <string_view>

namespace adder {

// The last four are weights in blocks that share scales, GGML's formats: quantization.h has their
// layout. Elements of a block follow each other in the last dimension, which is a multiple of it.
enum class DType : uint8_t {
  kF64,
  kF32,
  kF16,
  kBF16,
  kI64,
  kI32,
  kI16,
  kI8,
  kU8,
  kBool,
  kQ8_0,
  kQ4_0,
  kQ4_K,
  kQ6_K,
};

// Bytes of one element. Throws kInvalidArgument for a quantized dtype, which has none.
int64_t DTypeSize(DType dtype);
// q8_0, q4_0, q4_k or q6_k.
bool IsQuantized(DType dtype);
// Elements and bytes of a block; one element where elements have a size of their own.
int64_t DTypeBlockElements(DType dtype);
int64_t DTypeBlockBytes(DType dtype);
// Bytes of that many elements. Throws kInvalidArgument unless they are whole blocks.
int64_t DTypeBytes(DType dtype, int64_t elements);
// "f32", "bf16", "q4_k", ...: the name on the command line and in messages.
std::string_view DTypeName(DType dtype);
// The inverse of DTypeName. Throws kInvalidArgument for any other text.
DType ParseDType(std::string_view name);
// f64, f32, f16 or bf16.
bool IsFloating(DType dtype);

// bfloat16: the upper half of an f32. Conversion rounds to nearest even; a NaN stays a quiet NaN.
struct BFloat16 {
  uint16_t bits = 0;

  BFloat16() = default;
  explicit BFloat16(float value) {
    const uint32_t u = std::bit_cast<uint32_t>(value);
    const bool is_nan = (u & 0x7fffffffu) > 0x7f800000u;
    bits =
        static_cast<uint16_t>(is_nan ? (u >> 16) | 0x40u : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  explicit operator float() const { return std::bit_cast<float>(uint32_t{bits} << 16); }
};

// IEEE 754 binary16. Conversion rounds to nearest even; values past 65504 become infinity.
struct Half {
  uint16_t bits = 0;

  Half() = default;
  explicit Half(float value);
  explicit operator float() const;
};

static_assert(sizeof(BFloat16) == 2 && sizeof(Half) == 2);

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::kF64;
};
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::kF32;
};
template <>
struct DTypeOf<Half> {
  static constexpr DType value = DType::kF16;
};
template <>
struct DTypeOf<BFloat16> {
  static constexpr DType value = DType::kBF16;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType value = DType::kI64;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::kI32;
};
template <>
struct DTypeOf<int16_t> {
  static constexpr DType value = DType::kI16;
};
template <>
struct DTypeOf<int8_t> {
  static constexpr DType value = DType::kI8;
};
template <>
struct DTypeOf<uint8_t> {
  static constexpr DType value = DType::kU8;
};
template <>
struct DTypeOf<bool> {
  static constexpr DType value = DType::kBool;
};

// The DType that stores C++ type T.
template <class T>
inline constexpr DType kDTypeOf = DTypeOf<T>::value;

}  // namespace adder
