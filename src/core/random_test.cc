// Philox: the published known answers, any position in O(1), independent streams, right moments.
#include "adder/core/random.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <vector>

#include "adder/core/error.h"

namespace adder {
namespace {

using Words = std::array<uint32_t, 4>;

// Philox4x32-10 as section 3.3 and figure 4 of Salmon et al. 2011 define it.
Words Philox(Words counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53} * counter[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57} * counter[2];
    counter = {
        static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key0, static_cast<uint32_t>(product1),
        static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key1, static_cast<uint32_t>(product0)};
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  return counter;
}

// Draw number `offset` of a stream by the definition.
uint32_t Expected(uint64_t seed, uint64_t stream, uint64_t offset) {
  const uint64_t block = offset / 4;
  return Philox({static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32),
                 static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)},
                static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32))[offset % 4];
}

TEST(RandomTest, GivesThePublishedKnownAnswers) {
  // The vectors for philox4x32 10 that come with Random123.
  EXPECT_EQ(Philox({0, 0, 0, 0}, 0, 0), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox({~0u, ~0u, ~0u, ~0u}, ~0u, ~0u),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0xa4093822, 0x299f31d0),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
  Random random(0);
  for (const uint32_t word : {0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}) {
    EXPECT_EQ(random.NextU32(), word);
  }
}

TEST(RandomTest, SeedStreamAndOffsetArePhiloxsKeyAndCounter) {
  for (const uint64_t seed : {uint64_t{0}, uint64_t{1}, 0x299f31d0a4093822u, ~uint64_t{0}}) {
    for (const uint64_t stream : {uint64_t{0}, uint64_t{7}, 0x0370734413198a2eu, ~uint64_t{0}}) {
      for (const uint64_t offset :
           {uint64_t{0}, uint64_t{3}, (uint64_t{1} << 34) - 2, uint64_t{0x123456789abcdef}}) {
        Random random(seed, stream, offset);
        for (uint64_t i = 0; i < 9; ++i) {
          ASSERT_EQ(random.NextU32(), Expected(seed, stream, offset + i));
          ASSERT_EQ(random.offset(), offset + i + 1);
        }
      }
    }
  }
}

TEST(RandomTest, AnyDrawCanBeSkippedTo) {
  // Whatever has been drawn, a generator made with offset() goes on with the same values.
  Random random(3, 4);
  for (int i = 0; i < 200; ++i) {
    switch (i % 6) {
      case 0:
        random.NextU32();
        break;
      case 1:
        random.NextU64();
        break;
      case 2:
        random.NextFloat();
        break;
      case 3:
        random.NextDouble();
        break;
      case 4:
        random.NextBelow(10);
        break;
      default:
        random.NextNormal();
    }
    Random resumed(3, 4, random.offset());
    Random same = random;
    for (int j = 0; j < 5; ++j) ASSERT_EQ(resumed.NextU32(), same.NextU32());
  }
  Random normal(3);
  normal.NextNormal();
  EXPECT_EQ(normal.offset(), 4u);  // two doubles: a normal draw can be skipped without drawing
}

TEST(RandomTest, DrawsHaveTheirRanges) {
  Random random(1);
  Random words(1);
  for (int i = 0; i < 10000; ++i) {
    const float value = random.NextFloat();
    ASSERT_EQ(value, static_cast<float>(words.NextU32() >> 8) / 16777216.0f);
    ASSERT_GE(value, 0.0f);
    ASSERT_LT(value, 1.0f);
  }
  for (int i = 0; i < 10000; ++i) {
    const double value = random.NextDouble();
    ASSERT_GE(value, 0.0);
    ASSERT_LT(value, 1.0);
  }
  EXPECT_EQ(random.NextBelow(1), 0u);
  for (int i = 0; i < 1000; ++i) {
    ASSERT_LT(random.NextBelow(~uint64_t{0}), ~uint64_t{0});
    ASSERT_LT(random.NextBelow((uint64_t{1} << 63) + 1), (uint64_t{1} << 63) + 1);
  }
}

// Draws are deterministic, so these cannot fail by chance: the bounds, of five standard errors, say
// what would be surprising of true randomness.
TEST(RandomTest, BoundedDrawsAreUniform) {
  Random random(2);
  constexpr int kDraws = 70000;
  std::array<int, 7> counts = {};
  for (int i = 0; i < kDraws; ++i) ++counts[random.NextBelow(7)];
  for (const int count : counts) EXPECT_NEAR(count, 10000, 5 * std::sqrt(10000 * 6.0 / 7));
}

TEST(RandomTest, NormalDrawsHaveNormalMoments) {
  Random random(4);
  constexpr int kDraws = 200000;
  double sum[5] = {};
  int past_two = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double value = random.NextNormal();
    ASSERT_TRUE(std::isfinite(value));
    for (int power = 1; power <= 4; ++power) sum[power] += std::pow(value, power);
    past_two += std::abs(value) > 2 ? 1 : 0;
  }
  const double root = std::sqrt(kDraws);
  EXPECT_NEAR(sum[1] / kDraws, 0, 5 / root);
  EXPECT_NEAR(sum[2] / kDraws, 1, 5 * std::sqrt(2.0) / root);
  EXPECT_NEAR(sum[3] / kDraws, 0, 5 * std::sqrt(15.0) / root);
  EXPECT_NEAR(sum[4] / kDraws, 3, 5 * std::sqrt(96.0) / root);
  EXPECT_NEAR(past_two, 0.0455003 * kDraws, 5 * std::sqrt(0.0434 * kDraws));
}

TEST(RandomTest, StreamsSeedsAndNeighboursAreUncorrelated) {
  constexpr int kDraws = 100000;
  const auto draws = [&](uint64_t seed, uint64_t stream, uint64_t offset) {
    Random random(seed, stream, offset);
    std::vector<double> values(kDraws);
    for (double& value : values) value = random.NextDouble() - 0.5;
    return values;
  };
  const std::vector<double> base = draws(1, 0, 0);
  for (const auto& other : {draws(1, 1, 0), draws(2, 0, 0), draws(1, uint64_t{1} << 32, 0),
                            draws(1, 0, 2), draws(1, 0, 8), draws(1, 0, 2 * kDraws)}) {
    double product = 0;
    int equal = 0;
    for (size_t i = 0; i < base.size(); ++i) {
      product += base[i] * other[i];
      equal += base[i] == other[i] ? 1 : 0;
    }
    EXPECT_NEAR(12 * product / kDraws, 0, 5 / std::sqrt(kDraws));
    EXPECT_EQ(equal, 0);
  }
}

TEST(RandomTest, FillsInRowMajorOrderWhateverTheStrides) {
  const Tensor wide = Tensor::Zeros({3, 8}, DType::kF64);
  const Tensor view = wide.Columns(2, 4);
  Random fill(6);
  FillUniform(view, fill, -2, 3);
  Random expected(6);
  for (int64_t row = 0; row < 3; ++row) {
    for (int64_t column = 0; column < 8; ++column) {
      const double value = wide.data<double>()[8 * row + column];
      if (column < 2 || column >= 6) {
        EXPECT_EQ(value, 0);
      } else {
        EXPECT_EQ(value, -2 + 5 * expected.NextDouble());
      }
    }
  }
  EXPECT_EQ(fill.offset(), expected.offset());
}

TEST(RandomTest, EveryDTypeGetsTheSameDraws) {
  const auto filled = [](DType dtype) {
    const Tensor tensor = Tensor::Empty({5}, dtype);
    Random random(7);
    FillNormal(tensor, random, 1, 2);
    return tensor;
  };
  const Tensor exact = filled(DType::kF64);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const Tensor got = filled(dtype).To(DType::kF64);
    const Tensor expected = exact.To(DType::kF32).To(dtype).To(DType::kF64);
    for (int i = 0; i < 5; ++i) EXPECT_EQ(got.data<double>()[i], expected.data<double>()[i]);
  }
  Random random(7);
  EXPECT_THROW(FillUniform(Tensor::Zeros({2}, DType::kI32), random, 0, 1), Error);
}

}  // namespace
}  // namespace adder
