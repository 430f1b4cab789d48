// What operators refuse before they touch a tensor: other shapes, dtypes, devices, gaps, and
// results that lie on what is still to be read.
#include "adder/ops/argument_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "adder/core/error.h"
#include "adder/ops/operator_test.h"

namespace adder {
namespace {

using test::ErrorOf;
using testing::StrEq;

const ArgumentCheck kCheck("norm", Device{});

Tensor F32(const Shape& shape) { return Tensor::Zeros(shape, DType::kF32); }

TEST(ArgumentCheckTest, SaysWhatIsAndWhatWasExpected) {
  const Tensor x = F32({2, 3});
  EXPECT_NO_THROW(kCheck.Rows(x, "x", {DType::kBF16, DType::kF32}, {2, 3}));
  EXPECT_NO_THROW(kCheck.Dense(x, "x", {DType::kF32}, {2, 3}));
  EXPECT_NO_THROW(kCheck.OptionalDense({}, "x", {DType::kF32}, {2, 3}));
  EXPECT_THAT(ErrorOf([&] {
                kCheck.Rows(x, "x", {DType::kBF16, DType::kF16}, {2, 3});
              }),
              StrEq("norm: x is f32 [2, 3], expected bf16 or f16 [2, 3]"));
  EXPECT_THAT(ErrorOf([&] {
                kCheck.Rows({}, "x", {DType::kF32}, {2, 3});
              }),
              StrEq("norm: x is not given, expected f32 [2, 3]"));
  EXPECT_THAT(ErrorOf([&] { kCheck.Rank(x, "x", 1); }),
              StrEq("norm: x is f32 [2, 3], expected 1 dimensions"));
  EXPECT_THAT(ErrorOf([&] { kCheck.Rank({}, "x", 1); }), StrEq("norm: x is not given"));
  EXPECT_THAT(ErrorOf([&] { kCheck.That(false, "so it is"); }), StrEq("norm: so it is"));
}

TEST(ArgumentCheckTest, RowsMayLieApartButNotTheirElements) {
  const Tensor wide = F32({4, 6});
  EXPECT_NO_THROW(kCheck.Rows(wide.Columns(1, 3), "x", {DType::kF32}, {4, 3}));
  EXPECT_THAT(ErrorOf([&] {
                kCheck.Dense(wide.Columns(1, 3), "x", {DType::kF32}, {4, 3});
              }),
              StrEq("norm: x has gaps between its elements"));
}

TEST(ArgumentCheckTest, NamesTheDeviceThatIsMissed) {
  const ArgumentCheck cuda("norm", {DeviceType::kCuda, 0});
  EXPECT_THAT(ErrorOf([&] { cuda.Rows(F32({1}), "weight", {DType::kF32}, {1}); }),
              StrEq("norm: weight is on cpu, expected cuda:0"));
  try {
    ThrowNoBackend("norm", {DeviceType::kCuda, 1});
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_STREQ(error.what(), "norm: not implemented on cuda:1");
  }
}

bool AreApart(const Tensor& a, const Tensor& b) {
  try {
    kCheck.Apart(a, "y", b, "x");
    kCheck.Apart(b, "y", a, "x");
    return true;
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "norm: y lies on x");
    EXPECT_THROW(kCheck.Apart(a, "y", b, "x"), Error);
    EXPECT_THROW(kCheck.Apart(b, "y", a, "x"), Error);
    return false;
  }
}

TEST(ArgumentCheckTest, SeesWhichTensorsShareMemory) {
  const Tensor wide = F32({4, 10});
  EXPECT_TRUE(AreApart(wide, F32({4, 10})));
  EXPECT_TRUE(AreApart(wide, {}));
  EXPECT_TRUE(AreApart(wide, wide.Rows(2, 0)));
  EXPECT_FALSE(AreApart(wide, wide));
  // Rows of one matrix.
  EXPECT_TRUE(AreApart(wide.Rows(0, 2), wide.Rows(2, 2)));
  EXPECT_FALSE(AreApart(wide.Rows(0, 3), wide.Rows(2, 2)));
  // Columns of one matrix: x and z of a projection.
  EXPECT_TRUE(AreApart(wide.Columns(0, 5), wide.Columns(5, 5)));
  EXPECT_TRUE(AreApart(wide.Columns(0, 3), wide.Columns(3, 2).Rows(1, 2)));
  EXPECT_TRUE(AreApart(wide.Columns(2, 3).Rows(1, 2), wide.Columns(0, 2)));
  EXPECT_TRUE(AreApart(wide.Columns(7, 3), wide.Columns(0, 2).Rows(1, 3)));
  EXPECT_FALSE(AreApart(wide.Columns(0, 6), wide.Columns(5, 5)));
  EXPECT_FALSE(AreApart(wide.Columns(4, 3), wide.Columns(0, 5)));
  EXPECT_FALSE(AreApart(wide.Columns(7, 3), wide.Columns(9, 1).Rows(1, 3)));
  // One row of one against all of the other.
  EXPECT_TRUE(AreApart(wide.Columns(0, 5).Rows(1, 1), wide.Columns(5, 5)));
  EXPECT_FALSE(AreApart(wide.Columns(0, 6).Rows(1, 1), wide.Columns(5, 5)));
  EXPECT_FALSE(AreApart(wide.Rows(1, 1), wide.Rows(1, 1)));
  EXPECT_TRUE(AreApart(wide.Columns(0, 5).Rows(1, 1), wide.Columns(5, 5).Rows(1, 1)));
  // Another dtype, another shape of the same memory.
  EXPECT_FALSE(AreApart(wide, Tensor::Wrap(wide.raw(), {4, 10}, DType::kBF16)));
  EXPECT_FALSE(AreApart(wide, wide.Reshape({5, 8})));
}

TEST(ArgumentCheckTest, InPlaceMeansElementOnElement) {
  const Tensor wide = F32({4, 10});
  const Tensor x = wide.Columns(2, 4);
  EXPECT_NO_THROW(kCheck.ApartOrSame(x, "y", x, "x"));
  EXPECT_NO_THROW(kCheck.ApartOrSame(x, "y", wide.Columns(6, 4), "x"));
  EXPECT_NO_THROW(kCheck.ApartOrSame({}, "y", x, "x"));
  const std::string expected = "norm: y lies on x, but not element on element";
  EXPECT_EQ(ErrorOf([&] { kCheck.ApartOrSame(wide.Columns(3, 4), "y", x, "x"); }), expected);
  EXPECT_EQ(ErrorOf([&] {
              kCheck.ApartOrSame(Tensor::Wrap(x.raw(), {4, 4}, DType::kF32), "y", x, "x");
            }),
            expected);
  EXPECT_EQ(ErrorOf([&] {
              kCheck.ApartOrSame(Tensor::Wrap(wide.raw(), {4, 10}, DType::kF16), "y", wide, "x");
            }),
            expected);
}

}  // namespace
}  // namespace adder
