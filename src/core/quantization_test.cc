// The block formats: their bits against values computed by hand, and what quantizing loses.
#include "adder/core/quantization.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "adder/core/error.h"
#include "adder/core/random.h"
#include "adder/core/tensor.h"

namespace adder {
namespace {

using testing::HasSubstr;

constexpr DType kQuantized[] = {DType::kQ8_0, DType::kQ4_0, DType::kQ4_K, DType::kQ6_K};

template <class Block>
std::vector<float> Values(DType dtype, const Block& block) {
  std::vector<float> values(static_cast<size_t>(DTypeBlockElements(dtype)));
  Dequantize(dtype, &block, DTypeBlockElements(dtype), values.data());
  return values;
}

std::vector<float> RoundTrip(DType dtype, const std::vector<float>& values) {
  const auto count = static_cast<int64_t>(values.size());
  std::vector<std::byte> blocks(static_cast<size_t>(DTypeBytes(dtype, count)));
  Quantize(dtype, values.data(), count, blocks.data());
  std::vector<float> back(values.size());
  Dequantize(dtype, blocks.data(), count, back.data());
  return back;
}

std::vector<float> Normals(uint64_t seed, size_t count) {
  Random random(seed);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(random.NextNormal());
  return values;
}

// The root of the mean squared error, of that of the values.
double RelativeError(const std::vector<float>& values, const std::vector<float>& back) {
  double error = 0;
  double sum = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    error += std::pow(static_cast<double>(values[i]) - back[i], 2);
    sum += std::pow(static_cast<double>(values[i]), 2);
  }
  return std::sqrt(error / sum);
}

TEST(QuantizationTest, LayoutOfQ8_0) {
  BlockQ8_0 block;
  const uint8_t bytes[34] = {0x00, 0x38,  // d = 0.5
                             0x80, 0xff, 0x00, 0x01, 0x7f};
  std::memcpy(&block, bytes, sizeof block);
  const std::vector<float> values = Values(DType::kQ8_0, block);
  EXPECT_EQ(values[0], -64);
  EXPECT_EQ(values[1], -0.5);
  EXPECT_EQ(values[2], 0);
  EXPECT_EQ(values[3], 0.5);
  EXPECT_EQ(values[4], 63.5);
}

TEST(QuantizationTest, LayoutOfQ4_0) {
  uint8_t bytes[18] = {0x00, 0xbc,  // d = -1
                       0x0f, 0xf0, 0x7a};
  BlockQ4_0 block;
  std::memcpy(&block, bytes, sizeof block);
  const std::vector<float> values = Values(DType::kQ4_0, block);
  EXPECT_EQ(values[0], -7);
  EXPECT_EQ(values[16], 8);
  EXPECT_EQ(values[1], 8);
  EXPECT_EQ(values[17], -7);
  EXPECT_EQ(values[2], -2);
  EXPECT_EQ(values[18], 1);
}

TEST(QuantizationTest, LayoutOfQ4_K) {
  uint8_t bytes[144] = {0x00, 0x40,   // d = 2
                        0x00, 0x34};  // dmin = 0.25
  uint8_t* scales = bytes + 4;
  scales[0] = 0x85;   // s[0] = 5, the upper bits of s[4]: 2
  scales[4] = 0x49;   // m[0] = 9, the upper bits of m[4]: 1
  scales[8] = 0xcb;   // s[4] = 2 · 16 + 11, m[4] = 1 · 16 + 12
  scales[3] = 0x3f;   // s[3] = 63, s[7]'s upper bits 0
  scales[7] = 0xc1;   // m[3] = 1, m[7]'s upper bits 3
  scales[11] = 0xf2;  // s[7] = 2, m[7] = 63
  uint8_t* q = bytes + 16;
  q[0] = 0x0f;            // the first element of sub-blocks 0 and 1
  q[2 * 32 + 31] = 0x03;  // the last of 4 and 5
  q[32 + 1] = 0x40;       // the second of 2 and 3
  q[3 * 32 + 2] = 0xa0;   // the third of 6 and 7
  BlockQ4_K block;
  std::memcpy(&block, bytes, sizeof block);
  const std::vector<float> values = Values(DType::kQ4_K, block);
  EXPECT_EQ(values[0], 2 * 5 * 15 - 0.25 * 9);
  EXPECT_EQ(values[1], -0.25 * 9);
  EXPECT_EQ(values[32], 0);  // s[1] = m[1] = 0
  EXPECT_EQ(values[4 * 32 + 31], 2 * 43 * 3 - 0.25 * 28);
  EXPECT_EQ(values[4 * 32], -0.25 * 28);
  EXPECT_EQ(values[3 * 32 + 1], 2 * 63 * 4 - 0.25);
  EXPECT_EQ(values[7 * 32 + 2], 2 * 2 * 10 - 0.25 * 63);
}

TEST(QuantizationTest, LayoutOfQ6_K) {
  uint8_t bytes[210] = {};
  uint8_t* ql = bytes;
  uint8_t* qh = bytes + 128;
  auto* scales = reinterpret_cast<int8_t*>(bytes + 192);
  bytes[208] = 0x00;  // d = 0.125
  bytes[209] = 0x30;
  for (int j = 0; j < 16; ++j) scales[j] = static_cast<int8_t>(j - 8);
  ql[101] = 0x70;  // 229 = 128 + 3 · 32 + 5: the upper half of ql[64 + 32 + 5],
  qh[37] = 0x80;   // bits 6 and 7 of qh[32 + 5]
  ql[32] = 0x0c;   // 32: the lower half of ql[32],
  qh[0] = 0x0c;    // bits 2 and 3 of qh[0]
  BlockQ6_K block;
  std::memcpy(&block, bytes, sizeof block);
  const std::vector<float> values = Values(DType::kQ6_K, block);
  EXPECT_EQ(values[229], 0.125f * 6 * (7 + 2 * 16 - 32));
  EXPECT_EQ(values[32], 0.125f * -6 * (12 + 3 * 16 - 32));
  EXPECT_EQ(values[0], 0.125f * -8 * -32);
  EXPECT_EQ(values[255], 0.125f * 7 * -32);
  EXPECT_EQ(values[128], 0);  // scale 8 is 0
}

// Rounding as GGML's: half away from zero by the exact scale, not the stored one.
TEST(QuantizationTest, RoundsQ8_0AndQ4_0AsGgml) {
  std::vector<float> values(32, 0.0f);
  values[0] = -127;
  values[1] = 2.5f;
  values[2] = -2.5f;
  values[3] = 3.49f;
  BlockQ8_0 q8;
  Quantize(DType::kQ8_0, values.data(), 32, &q8);
  EXPECT_EQ(q8.d.bits, 0x3c00);
  EXPECT_EQ(q8.q[0], -127);
  EXPECT_EQ(q8.q[1], 3);
  EXPECT_EQ(q8.q[2], -3);
  EXPECT_EQ(q8.q[3], 3);
  values[0] = 16;  // becomes -8 by a scale of -2
  values[1] = -16;
  values[2] = 3;
  values[3] = -3;
  values[17] = 13;
  BlockQ4_0 q4;
  Quantize(DType::kQ4_0, values.data(), 32, &q4);
  EXPECT_EQ(q4.d.bits, 0xc000);
  EXPECT_EQ(q4.q[0], 0x80);       // -8 and 0
  EXPECT_EQ(q4.q[1], 0x20 | 15);  // 8 is cut to 7; 13 / -2 = -6.5 becomes -6
  EXPECT_EQ(q4.q[2], 0x87);       // -1.5 becomes -1
  EXPECT_EQ(q4.q[3], 0x8a);       // 1.5 becomes 2
}

// Errors against theory: of q8_0 and q4_0 half a step and the rounding of the step to f16 (at 127
// steps), but that q4_0 lacks a step at one end.
TEST(QuantizationTest, ErrorsStayWithinTheStep) {
  const std::vector<float> values = Normals(1, 32 * 256);
  const std::vector<float> q8 = RoundTrip(DType::kQ8_0, values);
  const std::vector<float> q4 = RoundTrip(DType::kQ4_0, values);
  for (size_t block = 0; block < values.size(); block += 32) {
    float most = 0;
    for (size_t i = 0; i < 32; ++i) most = std::max(most, std::abs(values[block + i]));
    for (size_t i = 0; i < 32; ++i) {
      ASSERT_LE(std::abs(q8[block + i] - values[block + i]), most / 127 * (0.5f + 127.0f / 2048));
      ASSERT_LE(std::abs(q4[block + i] - values[block + i]), most / 8 * (1 + 8.0f / 2048));
    }
  }
}

// Root mean squared errors on normal values. Rounding to steps of d costs d/√12: for 32 normal
// values, whose largest is 2.1 on average, 0.0048 in 8 and 0.076 in 4 bits (with the missing step
// somewhat more). The others are what GGML's own search reaches.
TEST(QuantizationTest, ErrorsOnNormalValues) {
  const std::vector<float> values = Normals(2, 256 * 256);
  const auto error = [&](DType dtype) { return RelativeError(values, RoundTrip(dtype, values)); };
  EXPECT_NEAR(error(DType::kQ8_0), 0.0048, 0.0007);
  EXPECT_NEAR(error(DType::kQ4_0), 0.082, 0.008);
  EXPECT_NEAR(error(DType::kQ4_K), 0.070, 0.004);
  EXPECT_NEAR(error(DType::kQ6_K), 0.0165, 0.0015);
}

// Each sub-block's steps are its own: values of very different size side by side.
TEST(QuantizationTest, SubBlocksHaveTheirOwnScales) {
  std::vector<float> values = Normals(3, 256);
  for (size_t i = 0; i < 256; ++i) {
    values[i] *= i / 32 % 2 == 0 ? 1.0f : 0.1f;
  }
  for (const DType dtype : {DType::kQ4_K, DType::kQ6_K}) {
    const std::vector<float> back = RoundTrip(dtype, values);
    const std::vector<float> small(values.begin() + 32, values.begin() + 64);
    const std::vector<float> small_back(back.begin() + 32, back.begin() + 64);
    EXPECT_LT(RelativeError(small, small_back), dtype == DType::kQ4_K ? 0.15 : 0.05)
        << DTypeName(dtype);
  }
}

// Values all positive need no minimum; constants, zeros and the tiniest values are no trap.
TEST(QuantizationTest, SpecialBlocks) {
  for (const DType dtype : kQuantized) {
    SCOPED_TRACE(DTypeName(dtype));
    for (const float value : {0.0f, -0.0f, 1.0f, -3.0f, 1e-3f, 1e-30f, 1e-45f, -1e-39f, 60000.0f}) {
      std::vector<float> values(256, value);
      for (const float back : RoundTrip(dtype, values)) {
        // The smallest step of f16 is 6e-8; at most one of 8 is lost at the end of the range.
        ASSERT_NEAR(back, value, std::abs(value) / 8 + 4e-6) << value;
      }
      values[100] = 0;
      values[200] = -value;
      for (const float back : RoundTrip(dtype, values)) ASSERT_TRUE(std::isfinite(back)) << value;
    }
    std::vector<float> positive = Normals(4, 256);
    for (float& value : positive) value = 1 + std::abs(value);
    EXPECT_LT(RelativeError(positive, RoundTrip(dtype, positive)), 0.07);
  }
}

TEST(QuantizationTest, WhatIsRepresentableStaysAsItIs) {
  for (const DType dtype : kQuantized) {
    const std::vector<float> once = RoundTrip(dtype, Normals(5, 1024));
    const std::vector<float> twice = RoundTrip(dtype, once);
    // The scales of the second round differ by their rounding to f16, or a search finds others
    // that are as good.
    EXPECT_LT(RelativeError(once, twice),
              dtype == DType::kQ8_0 || dtype == DType::kQ4_0 ? 5e-4 : 0.02)
        << DTypeName(dtype);
  }
}

TEST(QuantizationTest, RefusesValuesWithoutAScale) {
  for (const DType dtype : kQuantized) {
    for (const float bad :
         {HUGE_VALF, -HUGE_VALF, std::numeric_limits<float>::quiet_NaN(), 1e30f, -3e38f}) {
      std::vector<float> values(256, 1.0f);
      values[17] = bad;
      try {
        RoundTrip(dtype, values);
        ADD_FAILURE() << DTypeName(dtype) << " took " << bad;
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kNumeric);
        EXPECT_THAT(error.what(), HasSubstr("cannot be quantized"));
      }
    }
  }
  std::vector<float> values(33);
  std::byte blocks[64];
  EXPECT_THROW(Quantize(DType::kQ8_0, values.data(), 33, blocks), Error);
  EXPECT_THROW(Quantize(DType::kF32, values.data(), 32, blocks), Error);
}

// ---- Tensors ------------------------------------------------------------------------------------

TEST(QuantizedTensorTest, HasBytesRowsAndCopies) {
  Random random(6);
  const Tensor values = Tensor::Empty({6, 512}, DType::kF32);
  FillNormal(values, random, 0, 1);
  for (const DType dtype : kQuantized) {
    const Tensor tensor = values.To(dtype);
    EXPECT_EQ(tensor.bytes(), DTypeBytes(dtype, 6 * 512));
    EXPECT_TRUE(tensor.contiguous());
    const Tensor rows = tensor.Rows(2, 3);
    EXPECT_EQ(static_cast<std::byte*>(rows.raw()) - static_cast<std::byte*>(tensor.raw()),
              DTypeBytes(dtype, 2 * 512));
    const Tensor back = rows.To(DType::kF32);
    const Tensor all = tensor.To(DType::kF32);
    EXPECT_EQ(std::memcmp(back.raw(), all.Rows(2, 3).raw(), 3 * 512 * 4), 0);
    // A third dimension, rows that lie apart, and copying them.
    const Tensor apart = tensor.Reshape({3, 2, 512}).Slice(1, 1, 1);
    EXPECT_FALSE(apart.contiguous());
    const Tensor copy = apart.Clone();
    for (int64_t i = 0; i < 3; ++i) {
      EXPECT_EQ(std::memcmp(copy.Rows(i, 1).raw(), tensor.Rows(2 * i + 1, 1).raw(),
                            static_cast<size_t>(DTypeBytes(dtype, 512))),
                0);
    }
    const Tensor half = apart.To(DType::kBF16);
    EXPECT_EQ(static_cast<float>(half.data<BFloat16>()[512]),
              static_cast<float>(BFloat16(all.data<float>()[3 * 512])));
    apart.SetZero();
    EXPECT_EQ(tensor.To(DType::kF32).data<float>()[512], 0);
    EXPECT_EQ(tensor.To(DType::kF32).data<float>()[1024], all.data<float>()[1024]);
    // From one to another.
    EXPECT_EQ(tensor.To(DType::kQ8_0).dtype(), DType::kQ8_0);
    // Tensors larger than a piece of the conversion.
    const Tensor large = Tensor::Empty({5, 1280}, DType::kF32);
    FillNormal(large, random, 0, 1);
    const std::vector<float> expected =
        RoundTrip(dtype, {large.data<float>(), large.data<float>() + large.elements()});
    EXPECT_EQ(
        std::memcmp(large.To(dtype).To(DType::kF32).raw(), expected.data(), expected.size() * 4),
        0);
  }
}

TEST(QuantizedTensorTest, RefusesWhatCutsBlocks) {
  const auto error = [](const std::function<void()>& call) -> std::string {
    try {
      call();
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument);
      return e.what();
    }
    return "nothing was thrown";
  };
  EXPECT_THAT(
      error([] {
        Tensor::Empty({4, 48}, DType::kQ8_0);
      }),
      HasSubstr("q8_0 [4, 48] does not exist: the last dimension must be a multiple of 32"));
  EXPECT_THAT(error([] { Tensor::Empty({}, DType::kQ4_0); }), HasSubstr("does not exist"));
  EXPECT_THAT(error([] {
                Tensor::Zeros({2, 32}, DType::kF32).To(DType::kQ4_K);
              }),
              HasSubstr("multiple of 256"));
  const Tensor tensor = Tensor::Zeros({4, 64}, DType::kQ8_0);
  EXPECT_THAT(error([&] { tensor.Columns(0, 32); }), HasSubstr("cut through quantized rows"));
  EXPECT_THAT(error([&] { tensor.Reshape({16, 16}); }), HasSubstr("does not exist"));
  EXPECT_THAT(error([&] { tensor.data<float>(); }), HasSubstr("q8_0 [4, 64]"));
  EXPECT_THAT(error([] { Tensor::Zeros({32}, DType::kI32).To(DType::kQ8_0); }),
              HasSubstr("cannot convert dtype i32"));
  EXPECT_EQ(tensor.Columns(0, 64).bytes(), tensor.bytes());
  EXPECT_EQ(Tensor::Empty({0, 64}, DType::kQ8_0).bytes(), 0);
  EXPECT_EQ(Tensor::Empty({3, 0}, DType::kQ8_0).bytes(), 0);
}

}  // namespace
}  // namespace adder
