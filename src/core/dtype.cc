#include "adder/core/dtype.h"

#include <array>
#include <string>
#include <utility>

#include "adder/core/error.h"

namespace adder {
namespace {

struct DTypeEntry {
  DType dtype;
  std::string_view name;
  int64_t block_elements;
  int64_t block_bytes;
};

// Indexed by the enumerator's value.
constexpr std::array<DTypeEntry, 14> kDTypes = {{{DType::kF64, "f64", 1, 8},
                                                 {DType::kF32, "f32", 1, 4},
                                                 {DType::kF16, "f16", 1, 2},
                                                 {DType::kBF16, "bf16", 1, 2},
                                                 {DType::kI64, "i64", 1, 8},
                                                 {DType::kI32, "i32", 1, 4},
                                                 {DType::kI16, "i16", 1, 2},
                                                 {DType::kI8, "i8", 1, 1},
                                                 {DType::kU8, "u8", 1, 1},
                                                 {DType::kBool, "bool", 1, 1},
                                                 {DType::kQ8_0, "q8_0", 32, 34},
                                                 {DType::kQ4_0, "q4_0", 32, 18},
                                                 {DType::kQ4_K, "q4_k", 256, 144},
                                                 {DType::kQ6_K, "q6_k", 256, 210}}};

const DTypeEntry& Entry(DType dtype) { return kDTypes.at(static_cast<size_t>(dtype)); }

}  // namespace

int64_t DTypeSize(DType dtype) {
  if (IsQuantized(dtype)) {
    throw Error(ErrorCode::kInvalidArgument,
                "an element of dtype " + std::string(DTypeName(dtype)) + " has no size of its own");
  }
  return Entry(dtype).block_bytes;
}

bool IsQuantized(DType dtype) { return Entry(dtype).block_elements > 1; }

int64_t DTypeBlockElements(DType dtype) { return Entry(dtype).block_elements; }

int64_t DTypeBlockBytes(DType dtype) { return Entry(dtype).block_bytes; }

int64_t DTypeBytes(DType dtype, int64_t elements) {
  const DTypeEntry& entry = Entry(dtype);
  if (elements % entry.block_elements != 0) {
    throw Error(ErrorCode::kInvalidArgument, std::to_string(elements) +
                                                 " elements are no whole blocks of " +
                                                 std::string(entry.name) + ", which have " +
                                                 std::to_string(entry.block_elements));
  }
  return elements / entry.block_elements * entry.block_bytes;
}

std::string_view DTypeName(DType dtype) { return Entry(dtype).name; }

DType ParseDType(std::string_view name) {
  for (const DTypeEntry& entry : kDTypes) {
    if (entry.name == name) return entry.dtype;
  }
  throw Error(ErrorCode::kInvalidArgument,
              "unknown dtype '" + std::string(name) + "', expected f32, bf16, f16, ...");
}

bool IsFloating(DType dtype) {
  return dtype == DType::kF64 || dtype == DType::kF32 || dtype == DType::kF16 ||
         dtype == DType::kBF16;
}

Half::Half(float value) {
  const uint32_t u = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (u >> 16) & 0x8000u;
  const uint32_t magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {  // NaN: keep the payload's top bits, make it quiet
    bits = static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x1ffu));
  } else if (magnitude >= 0x477ff000u) {  // rounds past 65504
    bits = static_cast<uint16_t>(sign | 0x7c00u);
  } else if (magnitude < 0x38800000u) {  // subnormal half: let the f32 adder round
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    bits = static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  } else {
    const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    bits = static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
  }
}

Half::operator float() const {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu;
  const uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent == 0) {
    const float magnitude = std::ldexp(static_cast<float>(mantissa), -24);
    return sign != 0 ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

}  // namespace adder
