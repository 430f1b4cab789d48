// Tests of activation: the definitions against finite differences, the CPU against them.
#include "adder/ops/activation/activation.h"

#include <gmock/gmock.h>

#include <cmath>

#include "adder/ops/operator_test.h"

namespace adder {
namespace {

using test::ErrorOf;
using test::ForEveryInstructionSet;
using test::Near;
using test::RandomNormal;
using test::RoundedTo;
using test::SameBits;
using testing::HasSubstr;

constexpr Activation kActivations[] = {Activation::kGelu, Activation::kGeluTanh, Activation::kSilu};
const std::vector<Shape> kShapes = {{0, 5}, {3, 0}, {1, 1}, {5, 7}, {3, 16}, {2, 33}, {37, 70}};

double OutputTolerance(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return 0x1p-8;  // one spacing
    case DType::kF16:
      return 0x1p-11;
    default:
      return 2e-6;  // f32 roundings, of which a slope multiplies the sigmoid's by up to 8
  }
}

Tensor Zeros(const Shape& shape, DType dtype = DType::kF64) { return Tensor::Zeros(shape, dtype); }

TEST(ActivationReference, HandComputed) {
  const std::vector<double> values = {1.5, -0.5};
  const Tensor x = Tensor::From<double>({1, 2}, values);
  const Tensor y = Zeros({1, 2});
  reference::Activate(Activation::kGelu, x, y);
  EXPECT_NEAR(y.data<double>()[0], 1.5 * 0.9331927987311419, 1e-14);   // a table's Φ(1.5)
  EXPECT_NEAR(y.data<double>()[1], -0.5 * 0.3085375387259869, 1e-14);  // and Φ(-0.5)
  reference::Activate(Activation::kGeluTanh, x, y);
  EXPECT_NEAR(y.data<double>()[0], 1.5 * 0.9331927987311419, 1e-3);
  reference::SwiGlu(x, x, y);
  EXPECT_DOUBLE_EQ(y.data<double>()[0], 1.5 * 1.5 / (1 + std::exp(-1.5)));
  reference::Add(x, x, y);
  EXPECT_EQ(y.data<double>()[1], -1);
}

TEST(ActivationReference, GradientsAgreeWithDifferences) {
  Random random(1);
  const Shape shape = {4, 9};
  const Tensor x = RandomNormal(random, shape, 0, 2);
  const Tensor up = RandomNormal(random, shape);
  const Tensor dy = RandomNormal(random, shape);
  const Tensor y = Zeros(shape);
  for (const Activation activation : kActivations) {
    const Tensor dx = Zeros(shape);
    reference::ActivateBackward(activation, x, dy, dx);
    test::ExpectGradients(
        [&] {
          reference::Activate(activation, x, y);
          return test::WeightedSum(dy, y);
        },
        {{"x", x, dx}}, random);
  }
  const SwiGluGradients gradients = {Zeros(shape), Zeros(shape)};
  reference::SwiGluBackward(x, up, dy, gradients);
  test::ExpectGradients(
      [&] {
        reference::SwiGlu(x, up, y);
        return test::WeightedSum(dy, y);
      },
      {{"gate", x, gradients.dgate}, {"up", up, gradients.dup}}, random);
}

TEST(ActivationCpu, AgreesWithTheReference) {
  Random random(2);
  for (const Shape& shape : kShapes) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      SCOPED_TRACE(testing::Message() << shape.ToString() << " " << DTypeName(dtype));
      const double tolerance = OutputTolerance(dtype);
      const Tensor raw = RandomNormal(random, shape, 0, 3);
      const Tensor raw_up = RandomNormal(random, shape);
      const Tensor raw_dy = RandomNormal(random, shape);
      const Tensor exact = RoundedTo(dtype, raw);
      const Tensor exact_up = RoundedTo(dtype, raw_up);
      const Tensor exact_dy = RoundedTo(dtype, raw_dy);
      ForEveryInstructionSet([&] {
        // Strided inputs; results beside them.
        const Tensor x = test::WithRowGap(raw.To(dtype), 3);
        const Tensor up = test::WithRowGap(raw_up.To(dtype), 1);
        const Tensor dy = raw_dy.To(dtype);
        const Tensor y = Zeros(shape, dtype);
        const Tensor expected = Zeros(shape);
        for (const Activation activation : kActivations) {
          SCOPED_TRACE(static_cast<int>(activation));
          Activate(activation, x, y);
          reference::Activate(activation, exact, expected);
          EXPECT_TRUE(Near(y, expected, tolerance));
          const Tensor in_place = x.Clone();
          Activate(activation, in_place, in_place);
          EXPECT_TRUE(SameBits(in_place, y));
          ActivateBackward(activation, x, dy, y);
          reference::ActivateBackward(activation, exact, exact_dy, expected);
          EXPECT_TRUE(Near(y, expected, tolerance));
        }
        SwiGlu(x, up, y);
        reference::SwiGlu(exact, exact_up, expected);
        EXPECT_TRUE(Near(y, expected, tolerance));
        const SwiGluGradients gradients = {Zeros(shape, dtype), Zeros(shape, dtype)};
        const SwiGluGradients expected_gradients = {Zeros(shape), Zeros(shape)};
        SwiGluBackward(x, up, dy, gradients);
        reference::SwiGluBackward(exact, exact_up, exact_dy, expected_gradients);
        EXPECT_TRUE(Near(gradients.dgate, expected_gradients.dgate, tolerance));
        EXPECT_TRUE(Near(gradients.dup, expected_gradients.dup, tolerance));
        const SwiGluGradients in_parts = {x.Clone(), {}};
        SwiGluBackward(in_parts.dgate, up, dy, in_parts);
        EXPECT_TRUE(SameBits(in_parts.dgate, gradients.dgate));
        Add(x, up, y);
        reference::Add(exact, exact_up, expected);
        EXPECT_TRUE(Near(y, expected, tolerance));
      });
    }
  }
}

// Far out the functions are 0 or x, and nothing is NaN.
TEST(ActivationCpu, ExtremeArguments) {
  const std::vector<float> values = {-3e38f, -1e10f, -100, -14, -6, 0, 6, 14, 100, 1e10f, 3e38f};
  const auto count = static_cast<int64_t>(values.size());
  const Tensor x = Tensor::From<float>({1, count}, values);
  const Tensor ones = Zeros({1, count}, DType::kF32);
  std::fill_n(ones.data<float>(), count, 1.0f);
  ForEveryInstructionSet([&] {
    for (const Activation activation : kActivations) {
      SCOPED_TRACE(static_cast<int>(activation));
      const Tensor y = Zeros({1, count}, DType::kF32);
      const Tensor dx = Zeros({1, count}, DType::kF32);
      Activate(activation, x, y);
      ActivateBackward(activation, x, ones, dx);
      for (int64_t i = 0; i < count; ++i) {
        const float at = values[static_cast<size_t>(i)];
        const float limit = at > 0 ? at : 0;
        EXPECT_NEAR(y.data<float>()[i], limit, 0.02 + 1e-6 * std::abs(limit)) << at;
        const double slope = at == 0 ? 0.5 : at > 0 ? 1 : 0;
        EXPECT_NEAR(dx.data<float>()[i], slope, 0.02) << at;
      }
    }
  });
}

TEST(Activation, RefusesWhatDoesNotFit) {
  const Tensor x = Zeros({3, 4}, DType::kF32);
  EXPECT_THAT(ErrorOf([&] { Activate(Activation::kGelu, {}, x); }),
              HasSubstr("gelu: x is not given"));
  EXPECT_THAT(ErrorOf([&] { Activate(Activation::kSilu, x, {}); }),
              HasSubstr("silu: y is not given"));
  EXPECT_THAT(ErrorOf([&] {
                Activate(Activation::kGelu, x, Zeros({3, 4}, DType::kF16));
              }),
              HasSubstr("gelu: y is f16"));
  EXPECT_THAT(ErrorOf([&] {
                SwiGlu(x, Zeros({3, 5}, DType::kF32), x);
              }),
              HasSubstr("swiglu: up is f32 [3, 5]"));
  EXPECT_THAT(ErrorOf([&] { SwiGluBackward(x, x, {}, {}); }), HasSubstr("dy is not given"));
  EXPECT_THAT(ErrorOf([&] { Add(x, x, Zeros({3, 4}, DType::kI32)); }), HasSubstr("add: y is i32"));
  const Tensor wide = Zeros({3, 8}, DType::kF32);
  EXPECT_THAT(ErrorOf([&] {
                Activate(Activation::kGelu, wide.Columns(0, 4),
                         Tensor::Wrap(wide.raw(), {3, 4}, DType::kF32));
              }),
              HasSubstr("lies on an input"));
}

}  // namespace
}  // namespace adder
