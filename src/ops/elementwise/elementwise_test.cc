// Tests of elementwise on the CPU: hand-made loops beside it, strided targets, bad arguments.
#include "adder/ops/elementwise/elementwise.h"

#include <gmock/gmock.h>

#include <cmath>

#include "adder/ops/operator_test.h"

namespace adder {
namespace {

using test::ErrorOf;
using test::GapsUntouched;
using test::Near;
using test::RandomNormal;
using testing::HasSubstr;

TEST(Elementwise, AddsToStridedTargets) {
  Random random(1);
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kBF16, DType::kF16}) {
    for (const Shape& shape : {Shape{0, 3}, Shape{1, 1}, Shape{5, 7}, Shape{40, 1000}}) {
      const Tensor before = RandomNormal(random, shape).To(dtype);
      const Tensor source = RandomNormal(random, shape).To(dtype);
      const Tensor target = test::WithRowGap(before, 3);
      AddTo(target, source);
      const Tensor expected = before.To(DType::kF64).Clone();
      const Tensor added = source.To(DType::kF64);
      for (int64_t i = 0; i < expected.elements(); ++i) {
        expected.data<double>()[i] += added.data<double>()[i];
      }
      const double tolerance = dtype == DType::kF64 ? 0 : dtype == DType::kF32 ? 1e-7 : 0x1p-8;
      EXPECT_TRUE(Near(target, expected, tolerance));
      EXPECT_TRUE(GapsUntouched(target));
    }
  }
}

TEST(Elementwise, ProductsAndExponentials) {
  Random random(2);
  for (const int64_t elements : {0, 1, 1000, 40000}) {
    const Tensor a = RandomNormal(random, {elements}).To(DType::kF32);
    const Tensor b = RandomNormal(random, {elements}).To(DType::kF32);
    const Tensor sum = RandomNormal(random, {elements}).To(DType::kF32);
    const Tensor before = sum.Clone();
    AddProduct(sum, a, b);
    const Tensor y = a.Clone();
    NegativeExp(y, y);
    for (int64_t i = 0; i < elements; ++i) {
      EXPECT_NEAR(sum.data<float>()[i],
                  before.data<float>()[i] + a.data<float>()[i] * b.data<float>()[i], 2e-6);
      EXPECT_FLOAT_EQ(y.data<float>()[i], -std::exp(a.data<float>()[i]));
    }
  }
}

TEST(Elementwise, RefusesWhatDoesNotFit) {
  const auto zeros = [](const Shape& shape, DType dtype = DType::kF32) {
    return Tensor::Zeros(shape, dtype);
  };
  EXPECT_THAT(ErrorOf([&] { AddTo({}, zeros({2})); }), HasSubstr("add to: target is not given"));
  EXPECT_THAT(ErrorOf([&] { AddTo(zeros({2}), zeros({3})); }), HasSubstr("source is f32 [3]"));
  EXPECT_THAT(ErrorOf([&] { AddTo(zeros({2}), zeros({2}, DType::kF16)); }),
              HasSubstr("source is f16"));
  EXPECT_THAT(ErrorOf([&] { AddTo(zeros({2}, DType::kI32), zeros({2}, DType::kI32)); }),
              HasSubstr("expected a floating dtype"));
  EXPECT_THAT(ErrorOf([&] { AddProduct(zeros({2}), zeros({2}), zeros({3})); }),
              HasSubstr("add product: b is f32 [3]"));
  EXPECT_THAT(ErrorOf([&] { NegativeExp(zeros({2}, DType::kF16), zeros({2})); }),
              HasSubstr("negative exp: x is f16"));
}

}  // namespace
}  // namespace adder
