// Shapes and checked products: sizes are exact or refused.
#include "adder/core/shape.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "adder/core/error.h"

namespace adder {
namespace {

TEST(CheckedProductTest, IsExactOrRefused) {
  EXPECT_EQ(CheckedProduct(0, INT64_MAX, "x"), 0);
  EXPECT_EQ(CheckedProduct(INT64_MAX, 1, "x"), INT64_MAX);
  EXPECT_EQ(CheckedProduct(int64_t{1} << 31, int64_t{1} << 31, "x"), int64_t{1} << 62);
  EXPECT_THROW(CheckedProduct(int64_t{1} << 32, int64_t{1} << 31, "x"), Error);
  EXPECT_THROW(CheckedProduct(-1, 1, "x"), Error);
  EXPECT_THROW(CheckedProduct(0, -1, "x"), Error);
  EXPECT_THROW(CheckedProduct(INT64_MIN, -1, "x"), Error);
  try {
    CheckedProduct(-3, 4, "rows");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_STREQ(error.what(), "rows: -3 × 4 is not a valid size");
  }
}

TEST(ShapeTest, HoldsSizes) {
  EXPECT_EQ(Shape().rank(), 0);
  EXPECT_EQ(Shape().elements(), 1);
  EXPECT_EQ(Shape().ToString(), "[]");
  const Shape shape = {2, 3, 4};
  EXPECT_EQ(shape.rank(), 3);
  EXPECT_EQ(shape.elements(), 24);
  EXPECT_EQ(shape[0], 2);
  EXPECT_EQ(shape[-1], 4);
  EXPECT_EQ(shape[-3], 2);
  EXPECT_EQ(shape.ToString(), "[2, 3, 4]");
  EXPECT_EQ(std::vector<int64_t>(shape.dims().begin(), shape.dims().end()),
            (std::vector<int64_t>{2, 3, 4}));
  EXPECT_EQ((Shape{2, 0, 3}).elements(), 0);
  EXPECT_EQ((Shape{1, 1, 1, 1, 1, 7}).elements(), 7);
}

TEST(ShapeTest, ComparesRankAndSizes) {
  EXPECT_EQ((Shape{2, 3}), (Shape{2, 3}));
  EXPECT_NE((Shape{2, 3}), (Shape{3, 2}));
  EXPECT_NE((Shape{2}), (Shape{2, 1}));
  EXPECT_NE((Shape{2}), (Shape{2, 0}));
  EXPECT_NE(Shape(), (Shape{0}));
}

TEST(ShapeTest, RefusesWhatHasNoByteCount) {
  const int64_t large = int64_t{1} << 31;
  EXPECT_NO_THROW((Shape{large, int64_t{1} << 28}));
  EXPECT_THROW((Shape{large, large}), Error);  // 2^62 elements: 2^65 bytes of f64
  EXPECT_THROW((Shape{large, large, large}), Error);
  EXPECT_THROW((Shape{0, large, large, large}), Error);  // strides would not fit
  EXPECT_THROW((Shape{large, large, large, 0}), Error);
  EXPECT_THROW((Shape{-1}), Error);
  EXPECT_THROW((Shape{0, -1}), Error);
  EXPECT_THROW((Shape{INT64_MIN}), Error);
  EXPECT_THROW((Shape{1, 1, 1, 1, 1, 1, 1}), Error);
}

}  // namespace
}  // namespace adder
