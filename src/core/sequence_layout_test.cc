// Layouts: offsets, lengths and what is refused.
#include "adder/core/sequence_layout.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "adder/core/error.h"

namespace adder {
namespace {

TEST(SequenceLayoutTest, WaysToMakeOneAgree) {
  EXPECT_EQ(SequenceLayout::Single(5), SequenceLayout({0, 5}));
  EXPECT_EQ(SequenceLayout::Uniform(3, 4), SequenceLayout({0, 4, 8, 12}));
  const std::vector<int64_t> lengths = {2, 0, 3};
  const SequenceLayout layout = SequenceLayout::FromLengths(lengths);
  EXPECT_EQ(layout, SequenceLayout({0, 2, 2, 5}));
  EXPECT_NE(layout, SequenceLayout({0, 2, 5}));
  EXPECT_EQ(layout.sequences(), 3);
  EXPECT_EQ(layout.rows(), 5);
  for (int64_t s = 0; s < 3; ++s) {
    EXPECT_EQ(layout.length(s), lengths[static_cast<size_t>(s)]);
    EXPECT_EQ(layout.end(s) - layout.begin(s), layout.length(s));
  }
  EXPECT_EQ(layout.offsets().size(), 4u);
}

TEST(SequenceLayoutTest, MayBeEmpty) {
  EXPECT_EQ(SequenceLayout().sequences(), 0);
  EXPECT_EQ(SequenceLayout().rows(), 0);
  EXPECT_EQ(SequenceLayout::FromLengths({}), SequenceLayout());
  EXPECT_EQ(SequenceLayout::Uniform(0, 7), SequenceLayout());
  EXPECT_EQ(SequenceLayout::Uniform(2, 0), SequenceLayout({0, 0, 0}));
  EXPECT_EQ(SequenceLayout::Single(0).sequences(), 1);
}

TEST(SequenceLayoutTest, CountsPastThirtyTwoBits) {
  const int64_t length = int64_t{3} << 31;
  const SequenceLayout layout = SequenceLayout::Uniform(4, length);
  EXPECT_EQ(layout.begin(3), 3 * length);
  EXPECT_EQ(layout.rows(), 4 * length);
}

TEST(SequenceLayoutTest, RefusesWhatIsNoLayout) {
  EXPECT_THROW(SequenceLayout(std::vector<int64_t>{}), Error);
  EXPECT_THROW(SequenceLayout({1, 2}), Error);
  EXPECT_THROW(SequenceLayout({0, 3, 2}), Error);
  EXPECT_THROW(SequenceLayout({0, -1}), Error);
  EXPECT_THROW(SequenceLayout::Single(-1), Error);
  EXPECT_THROW(SequenceLayout::Uniform(-1, 2), Error);
  EXPECT_THROW(SequenceLayout::Uniform(2, -1), Error);
  EXPECT_THROW(SequenceLayout::Uniform(4, INT64_MAX / 2), Error);
  EXPECT_THROW(SequenceLayout::Uniform(int64_t{1} << 62, 0), Error);
  EXPECT_THROW(SequenceLayout::Uniform(INT64_MAX, 0), Error);
  EXPECT_THROW(SequenceLayout::FromLengths(std::vector<int64_t>{2, -1}), Error);
  EXPECT_THROW(SequenceLayout::FromLengths(std::vector<int64_t>{INT64_MAX, 1}), Error);
}

}  // namespace
}  // namespace adder
