// Element types: names, sizes, and the 16-bit floats against a slow definition, bit by bit.
#include "adder/core/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "adder/core/error.h"
#include "adder/core/random.h"

namespace adder {
namespace {

constexpr DType kAll[] = {DType::kF64, DType::kF32, DType::kF16, DType::kBF16, DType::kI64,
                          DType::kI32, DType::kI16, DType::kI8,  DType::kU8,   DType::kBool};

// A binary floating-point format of 16 bits, by IEEE 754's definition, in double.
struct Format {
  int exponent_bits;
  int mantissa_bits;

  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  int largest_exponent() const { return (1 << exponent_bits) - 1; }

  double Value(uint16_t bits) const {
    const int sign = bits >> 15;
    const int exponent = (bits >> mantissa_bits) & largest_exponent();
    const int mantissa = bits & ((1 << mantissa_bits) - 1);
    double magnitude = 0;
    if (exponent == largest_exponent()) {
      magnitude = mantissa == 0 ? std::numeric_limits<double>::infinity()
                                : std::numeric_limits<double>::quiet_NaN();
    } else if (exponent == 0) {
      magnitude = std::ldexp(mantissa, 1 - bias() - mantissa_bits);
    } else {
      magnitude = std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias() - mantissa_bits);
    }
    return sign != 0 ? -magnitude : magnitude;
  }

  // The nearest value, ties to the even mantissa; infinity from half a unit past the largest on.
  double Round(double value) const {
    if (std::isnan(value) || std::isinf(value) || value == 0) return value;
    const int exponent = std::max(std::ilogb(value), 1 - bias());
    const double unit = std::ldexp(1.0, exponent - mantissa_bits);
    const double rounded = std::nearbyint(value / unit) * unit;
    const double limit = std::ldexp(1.0, largest_exponent() - bias());
    return std::abs(rounded) >= limit ? std::copysign(HUGE_VAL, value) : rounded;
  }
};

constexpr Format kHalf = {5, 10};
constexpr Format kBFloat16 = {8, 7};

template <class T>
void ExpectRounds(const Format& format, float value) {
  const T converted(value);
  if (std::isnan(value)) {
    ASSERT_TRUE(std::isnan(static_cast<float>(converted)));
    return;
  }
  const double expected = format.Round(value);
  const double got = format.Value(converted.bits);
  ASSERT_EQ(got, expected) << std::hexfloat << value;
  ASSERT_EQ(std::signbit(got), std::signbit(value)) << std::hexfloat << value;
}

template <class T>
void ExpectEveryPatternRoundTrips(const Format& format) {
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    T value;
    value.bits = static_cast<uint16_t>(bits);
    const float wide = static_cast<float>(value);
    const double expected = format.Value(value.bits);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(wide)) << bits;
      // A NaN stays one, keeps its sign, and becomes quiet.
      const T back(wide);
      ASSERT_TRUE(std::isnan(format.Value(back.bits))) << bits;
      ASSERT_EQ(back.bits, bits | 1u << (format.mantissa_bits - 1));
      continue;
    }
    ASSERT_EQ(static_cast<double>(wide), expected) << bits;
    ASSERT_EQ(std::signbit(wide), (bits & 0x8000) != 0) << bits;
    ASSERT_EQ(T(wide).bits, bits);
  }
}

// Around every value and every midpoint of two neighbours: exactly there, and one f32 to each side.
template <class T>
void ExpectNeighboursRound(const Format& format) {
  for (uint32_t bits = 0; bits < 0x8000; ++bits) {
    const double low = format.Value(static_cast<uint16_t>(bits));
    const double high = format.Value(static_cast<uint16_t>(bits + 1));
    if (std::isnan(low) || std::isinf(low)) continue;
    const double middle = std::isinf(high) || std::isnan(high) ? low * 1.001 : (low + high) / 2;
    for (const float at : {static_cast<float>(low), static_cast<float>(middle)}) {
      for (const float value :
           {at, std::nextafter(at, HUGE_VALF), std::nextafter(at, -HUGE_VALF)}) {
        ASSERT_NO_FATAL_FAILURE(ExpectRounds<T>(format, value));
        ASSERT_NO_FATAL_FAILURE(ExpectRounds<T>(format, -value));
      }
    }
  }
}

template <class T>
void ExpectAnyFloatRounds(const Format& format) {
  Random random(5);
  for (int i = 0; i < 300000; ++i) {
    ASSERT_NO_FATAL_FAILURE(ExpectRounds<T>(format, std::bit_cast<float>(random.NextU32())));
  }
  for (const float value : {65504.0f, 65519.99f, 65520.0f, 65536.0f, 3.3895314e38f, 3.3961775e38f,
                            3.4028235e38f, HUGE_VALF, 1e-45f, 2.9802322e-8f, 2.9802326e-8f}) {
    ASSERT_NO_FATAL_FAILURE(ExpectRounds<T>(format, value));
    ASSERT_NO_FATAL_FAILURE(ExpectRounds<T>(format, -value));
  }
}

TEST(DTypeTest, NamesAndSizesAreInverse) {
  for (const DType dtype : kAll) {
    EXPECT_EQ(ParseDType(DTypeName(dtype)), dtype);
    EXPECT_GT(DTypeSize(dtype), 0);
  }
  EXPECT_EQ(DTypeSize(DType::kBF16), 2);
  EXPECT_EQ(DTypeSize(DType::kF64), 8);
  EXPECT_EQ(DTypeName(kDTypeOf<Half>), "f16");
  EXPECT_EQ(DTypeName(kDTypeOf<int64_t>), "i64");
  EXPECT_TRUE(IsFloating(DType::kBF16));
  EXPECT_FALSE(IsFloating(DType::kI32));
  for (const char* name : {"", "F32", "f32 ", "float32", "u16"}) {
    EXPECT_THROW(ParseDType(name), Error) << name;
  }
}

TEST(DTypeTest, QuantizedDTypesHaveBlocks) {
  struct Block {
    DType dtype;
    const char* name;
    int64_t elements, bytes;
  };
  for (const Block& block :
       {Block{DType::kQ8_0, "q8_0", 32, 34}, Block{DType::kQ4_0, "q4_0", 32, 18},
        Block{DType::kQ4_K, "q4_k", 256, 144}, Block{DType::kQ6_K, "q6_k", 256, 210}}) {
    EXPECT_EQ(ParseDType(block.name), block.dtype);
    EXPECT_EQ(DTypeName(block.dtype), block.name);
    EXPECT_TRUE(IsQuantized(block.dtype));
    EXPECT_FALSE(IsFloating(block.dtype));
    EXPECT_EQ(DTypeBlockElements(block.dtype), block.elements);
    EXPECT_EQ(DTypeBlockBytes(block.dtype), block.bytes);
    EXPECT_EQ(DTypeBytes(block.dtype, 3 * block.elements), 3 * block.bytes);
    EXPECT_THROW(DTypeBytes(block.dtype, block.elements + 1), Error);
    EXPECT_THROW(DTypeSize(block.dtype), Error);
  }
  EXPECT_EQ(DTypeBytes(DType::kBF16, 5), 10);
  EXPECT_FALSE(IsQuantized(DType::kF16));
}

TEST(HalfTest, EveryPatternRoundTrips) { ExpectEveryPatternRoundTrips<Half>(kHalf); }
TEST(HalfTest, RoundsToNearestEvenAroundEveryValue) { ExpectNeighboursRound<Half>(kHalf); }
TEST(HalfTest, RoundsAnyFloat) { ExpectAnyFloatRounds<Half>(kHalf); }
TEST(BFloat16Test, EveryPatternRoundTrips) { ExpectEveryPatternRoundTrips<BFloat16>(kBFloat16); }
TEST(BFloat16Test, RoundsToNearestEvenAroundEveryValue) {
  ExpectNeighboursRound<BFloat16>(kBFloat16);
}
TEST(BFloat16Test, RoundsAnyFloat) { ExpectAnyFloatRounds<BFloat16>(kBFloat16); }

}  // namespace
}  // namespace adder
