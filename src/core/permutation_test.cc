// Every index has its place, places look random, and another stream gives another order.
#include "adder/core/permutation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

namespace adder {
namespace {

TEST(PermutationTest, EveryIndexHasAPlaceOfItsOwn) {
  for (const int64_t size : {1, 2, 3, 4, 5, 7, 8, 9, 64, 65, 1000, 4097}) {
    const Permutation permutation(size, 1, 2);
    std::vector<bool> seen(static_cast<size_t>(size));
    for (int64_t i = 0; i < size; ++i) {
      const int64_t place = permutation(i);
      ASSERT_GE(place, 0);
      ASSERT_LT(place, size);
      EXPECT_FALSE(seen[static_cast<size_t>(place)]) << size << ": " << i;
      seen[static_cast<size_t>(place)] = true;
    }
  }
  const Permutation large(int64_t{1} << 61, 1, 2);
  EXPECT_LT(large((int64_t{1} << 61) - 1), int64_t{1} << 61);
}

// Over many streams each index comes to each place equally often, and neighbours part.
TEST(PermutationTest, LooksRandom) {
  constexpr int64_t kSize = 6;
  constexpr int kStreams = 6000;
  std::array<std::array<int, kSize>, kSize> counts = {};
  for (uint64_t stream = 0; stream < kStreams; ++stream) {
    const Permutation permutation(kSize, 7, stream);
    for (int64_t i = 0; i < kSize; ++i) {
      ++counts[static_cast<size_t>(i)][static_cast<size_t>(permutation(i))];
    }
  }
  // 1000 expected, with a standard deviation of 29: six of them.
  for (const auto& row : counts) {
    for (const int count : row) EXPECT_NEAR(count, double{kStreams} / kSize, 173);
  }
  const Permutation permutation(10000, 3, 4);
  double sum = 0.0;
  for (int64_t i = 0; i + 1 < 10000; ++i) {
    sum += std::abs(static_cast<double>(permutation(i + 1) - permutation(i)));
  }
  // Two random places lie a third of the range apart, on average; the mean's deviation is 24.
  EXPECT_NEAR(sum / 9999.0, 10000.0 / 3.0, 150.0);
}

TEST(PermutationTest, SeedAndStreamChooseTheOrder) {
  const auto order = [](uint64_t seed, uint64_t stream) {
    std::vector<int64_t> places;
    const Permutation permutation(50, seed, stream);
    for (int64_t i = 0; i < 50; ++i) places.push_back(permutation(i));
    return places;
  };
  EXPECT_EQ(order(1, 2), order(1, 2));
  EXPECT_NE(order(1, 2), order(2, 2));
  EXPECT_NE(order(1, 2), order(1, 3));
}

}  // namespace
}  // namespace adder
