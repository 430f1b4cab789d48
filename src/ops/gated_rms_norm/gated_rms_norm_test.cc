// Tests of gated_rms_norm: the definition against finite differences, the CPU against it.
#include "adder/ops/gated_rms_norm/gated_rms_norm.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include "adder/backend/cpu/parallel.h"
#include "adder/core/error.h"
#include "adder/ops/operator_test.h"

namespace adder {
namespace {

using test::ErrorOf;
using test::ForEveryInstructionSet;
using test::GapsUntouched;
using test::Near;
using test::RandomNormal;
using test::RoundedTo;
using test::SameBits;
using testing::HasSubstr;

constexpr DType kActivations[] = {DType::kF32, DType::kBF16, DType::kF16};

struct Case {
  int64_t rows;
  int64_t channels;
  int64_t group_size;
};
// Nothing, groups of less than a vector, of vectors and a rest, of one channel, more than one block
// of sums.
const std::vector<Case> kCases = {{0, 6, 3},  {2, 0, 0},       {5, 14, 7},
                                  {3, 32, 0}, {2, 66, 33},     {37, 140, 70},
                                  {3, 6, 1},  {2, 4500, 4500}, {150, 38, 19}};

double OutputTolerance(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return 0x1p-8;  // one spacing
    case DType::kF16:
      return 0x1p-11;
    default:
      return 2e-6;  // a few roundings of 2^-24, and the gate's
  }
}

GatedRmsNormInputs RandomInputs(Random& random, const Case& c, bool norm_before_gate) {
  GatedRmsNormInputs inputs;
  inputs.x = RandomNormal(random, {c.rows, c.channels});
  inputs.z = RandomNormal(random, {c.rows, c.channels}, 0, 2);
  inputs.weight = RandomNormal(random, {c.channels});
  inputs.group_size = c.group_size;
  inputs.norm_before_gate = norm_before_gate;
  return inputs;
}

GatedRmsNormInputs Converted(const GatedRmsNormInputs& inputs, DType dtype) {
  GatedRmsNormInputs result = inputs;
  result.x = inputs.x.To(dtype);
  result.z = inputs.z.To(dtype);
  result.weight = inputs.weight.To(DType::kF32);
  return result;
}
GatedRmsNormInputs Rounded(const GatedRmsNormInputs& inputs, DType dtype) {
  GatedRmsNormInputs result = inputs;
  result.x = RoundedTo(dtype, inputs.x);
  result.z = RoundedTo(dtype, inputs.z);
  result.weight = RoundedTo(DType::kF32, inputs.weight);
  return result;
}

GatedRmsNormGradients ZeroGradients(const Shape& shape, DType dtype, DType parameters) {
  return {Tensor::Zeros(shape, dtype), Tensor::Zeros(shape, dtype),
          Tensor::Zeros({shape[1]}, parameters)};
}

std::string ToString(const Case& c, bool norm_before_gate) {
  return fmt::format("[{}, {}] in groups of {}, {} first", c.rows, c.channels, c.group_size,
                     norm_before_gate ? "norm" : "gate");
}

TEST(GatedRmsNormReference, HandComputed) {
  const auto f64 = [](const Shape& shape, std::vector<double> values) {
    return Tensor::From(shape, std::span<const double>(values));
  };
  const auto silu = [](double x) { return x / (1 + std::exp(-x)); };
  GatedRmsNormInputs inputs;
  inputs.x = f64({1, 4}, {1, 2, 3, 4});
  inputs.z = f64({1, 4}, {0.5, -1, 2, 1});
  inputs.weight = f64({4}, {1, 10, 100, 1000});
  inputs.eps = 0.25f;
  inputs.group_size = 2;
  const Tensor y = Tensor::Empty({1, 4}, DType::kF64);
  reference::GatedRmsNorm(inputs, y);
  const double u[] = {silu(0.5), 2 * silu(-1), 3 * silu(2), 4 * silu(1)};
  EXPECT_DOUBLE_EQ(y.data<double>()[1],
                   10 * u[1] / std::sqrt((u[0] * u[0] + u[1] * u[1]) / 2 + 0.25));
  EXPECT_DOUBLE_EQ(y.data<double>()[2],
                   100 * u[2] / std::sqrt((u[2] * u[2] + u[3] * u[3]) / 2 + 0.25));
  inputs.norm_before_gate = true;
  reference::GatedRmsNorm(inputs, y);
  EXPECT_DOUBLE_EQ(y.data<double>()[3], 1000 * silu(1) * 4 / std::sqrt(12.75));
}

TEST(GatedRmsNormReference, GradientsAgreeWithDifferences) {
  Random random(1);
  for (const bool norm_before_gate : {false, true}) {
    for (const Case& c : {Case{1, 1, 1}, Case{4, 6, 3}, Case{3, 10, 0}}) {
      SCOPED_TRACE(ToString(c, norm_before_gate));
      GatedRmsNormInputs inputs = RandomInputs(random, c, norm_before_gate);
      inputs.eps = 0.1f;  // large enough to matter
      const Tensor y = Tensor::Empty(inputs.x.shape(), DType::kF64);
      const Tensor dy = RandomNormal(random, y.shape());
      const GatedRmsNormGradients gradients = ZeroGradients(y.shape(), DType::kF64, DType::kF64);
      reference::GatedRmsNormBackward(inputs, dy, gradients);
      test::ExpectGradients(
          [&] {
            reference::GatedRmsNorm(inputs, y);
            return test::WeightedSum(dy, y);
          },
          {{"x", inputs.x, gradients.dx},
           {"z", inputs.z, gradients.dz},
           {"weight", inputs.weight, gradients.dweight}},
          random);
    }
  }
}

TEST(GatedRmsNormCpu, AgreesWithTheReference) {
  Random random(2);
  for (const bool norm_before_gate : {false, true}) {
    for (const Case& c : kCases) {
      for (const DType dtype : kActivations) {
        for (const DType y_dtype : kActivations) {
          SCOPED_TRACE(testing::Message() << ToString(c, norm_before_gate) << " "
                                          << DTypeName(dtype) << " to " << DTypeName(y_dtype));
          const GatedRmsNormInputs raw = RandomInputs(random, c, norm_before_gate);
          const Shape shape = raw.x.shape();
          const Tensor raw_dy = RandomNormal(random, shape);
          const Tensor expected = Tensor::Empty(shape, DType::kF64);
          reference::GatedRmsNorm(Rounded(raw, dtype), expected);
          const GatedRmsNormGradients expected_gradients =
              ZeroGradients(shape, DType::kF64, DType::kF64);
          reference::GatedRmsNormBackward(Rounded(raw, dtype), RoundedTo(y_dtype, raw_dy),
                                          expected_gradients);
          ForEveryInstructionSet([&] {
            const GatedRmsNormInputs inputs = Converted(raw, dtype);
            const Tensor y = Tensor::Empty(shape, y_dtype);
            GatedRmsNorm(inputs, y);
            EXPECT_TRUE(Near(y, expected, OutputTolerance(y_dtype)));
            const GatedRmsNormGradients gradients = ZeroGradients(shape, dtype, DType::kF32);
            GatedRmsNormBackward(inputs, raw_dy.To(y_dtype), gradients);
            // Where a group is one channel the terms of dx cancel almost entirely.
            const double terms = c.group_size == 1 ? 1e-3 : 5e-6;
            EXPECT_TRUE(Near(gradients.dx, expected_gradients.dx, OutputTolerance(dtype) + terms));
            EXPECT_TRUE(Near(gradients.dz, expected_gradients.dz, OutputTolerance(dtype) + terms));
            EXPECT_TRUE(Near(gradients.dweight, expected_gradients.dweight, 5e-6));
          });
        }
      }
    }
  }
}

TEST(GatedRmsNormCpu, InPlaceStridedAndInParts) {
  ForEveryInstructionSet([] {
    Random random(4);
    for (const DType dtype : kActivations) {
      for (const bool norm_before_gate : {false, true}) {
        const GatedRmsNormInputs inputs =
            Converted(RandomInputs(random, {9, 90, 45}, norm_before_gate), dtype);
        const Shape shape = inputs.x.shape();
        const Tensor y = Tensor::Empty(shape, dtype);
        GatedRmsNorm(inputs, y);
        const Tensor dy = RandomNormal(random, shape).To(dtype);
        const GatedRmsNormGradients gradients = ZeroGradients(shape, dtype, DType::kF32);
        GatedRmsNormBackward(inputs, dy, gradients);

        GatedRmsNormInputs strided = inputs;
        strided.x = test::WithRowGap(inputs.x, 3);
        strided.z = test::WithRowGap(inputs.z, 5);
        GatedRmsNormGradients apart = ZeroGradients(shape, dtype, DType::kF32);
        apart.dx = test::WithRowGap(apart.dx, 2);
        apart.dz = test::WithRowGap(apart.dz, 4);
        GatedRmsNormBackward(strided, test::WithRowGap(dy, 1), {apart.dx, {}, {}});
        EXPECT_TRUE(SameBits(apart.dx, gradients.dx));
        EXPECT_TRUE(GapsUntouched(apart.dx));
        GatedRmsNormBackward(strided, dy, {{}, apart.dz, {}});
        EXPECT_TRUE(SameBits(apart.dz, gradients.dz));
        EXPECT_TRUE(GapsUntouched(apart.dz));
        GatedRmsNormBackward(strided, dy, {{}, {}, apart.dweight});
        EXPECT_TRUE(SameBits(apart.dweight, gradients.dweight));
        GatedRmsNorm(strided, strided.x);
        EXPECT_TRUE(SameBits(strided.x, y));
        EXPECT_TRUE(GapsUntouched(strided.x));
      }
    }
  });
}

TEST(GatedRmsNormCpu, SquaresPastTheRangeOfF32) {
  Random random(6);
  for (const double scale : {1e15, 1e25, 1e36}) {
    SCOPED_TRACE(scale);
    GatedRmsNormInputs raw = RandomInputs(random, {3, 50, 25}, false);
    raw.x = RandomNormal(random, {3, 50}, 0, scale);
    const Tensor expected = Tensor::Empty({3, 50}, DType::kF64);
    reference::GatedRmsNorm(Rounded(raw, DType::kF32), expected);
    ForEveryInstructionSet([&] {
      const Tensor y = Tensor::Empty({3, 50}, DType::kF32);
      GatedRmsNorm(Converted(raw, DType::kF32), y);
      EXPECT_TRUE(Near(y, expected, 2e-6));
    });
  }
}

TEST(GatedRmsNormCpu, ResultsDoNotDependOnThreads) {
  const int threads = cpu::ThreadCount();
  Random random(8);
  const GatedRmsNormInputs inputs =
      Converted(RandomInputs(random, {1037, 66, 33}, false), DType::kF32);
  const Tensor dy = RandomNormal(random, {1037, 66}).To(DType::kF32);
  std::vector<GatedRmsNormGradients> all;
  for (const int count : {1, 2, 3, 5}) {
    cpu::SetThreadCount(count);
    all.push_back(ZeroGradients({1037, 66}, DType::kF32, DType::kF32));
    GatedRmsNormBackward(inputs, dy, all.back());
    EXPECT_TRUE(SameBits(all.back().dx, all.front().dx));
    EXPECT_TRUE(SameBits(all.back().dweight, all.front().dweight));
  }
  cpu::SetThreadCount(threads);
}

TEST(GatedRmsNorm, RefusesWhatDoesNotFit) {
  const auto zeros = [](const Shape& shape, DType dtype = DType::kF32) {
    return Tensor::Zeros(shape, dtype);
  };
  GatedRmsNormInputs good;
  good.x = zeros({4, 6});
  good.z = zeros({4, 6});
  good.weight = zeros({6});
  const auto message = [&](auto change) {
    GatedRmsNormInputs inputs = good;
    change(inputs);
    return ErrorOf([&] { GatedRmsNorm(inputs, zeros({4, 6})); });
  };
  using In = GatedRmsNormInputs;
  EXPECT_THAT(message([&](In& in) { in.x = {}; }), HasSubstr("gated_rms_norm: x is not given"));
  EXPECT_THAT(message([&](In& in) { in.z = {}; }), HasSubstr("z is not given"));
  EXPECT_THAT(message([&](In& in) { in.z = zeros({4, 6}, DType::kF16); }), HasSubstr("z is f16"));
  EXPECT_THAT(message([&](In& in) { in.weight = zeros({5}); }), HasSubstr("weight is f32 [5]"));
  EXPECT_THAT(message([&](In& in) { in.group_size = 4; }),
              HasSubstr("a group has 4 channels, expected a divisor of the 6 channels"));
  EXPECT_THAT(message([&](In& in) { in.group_size = -1; }), HasSubstr("a group has -1"));
  EXPECT_THAT(message([&](In& in) { in.eps = -1; }), HasSubstr("eps is -1"));
  EXPECT_THAT(ErrorOf([&] { GatedRmsNorm(good, zeros({4, 5})); }), HasSubstr("y is f32 [4, 5]"));
  EXPECT_THAT(ErrorOf([&] {
                GatedRmsNormBackward(good, zeros({4, 5}), {});
              }),
              HasSubstr("gated_rms_norm backward: dy is f32 [4, 5]"));
  const Tensor dy = zeros({4, 6});
  const auto backward = [&](const GatedRmsNormGradients& gradients) {
    return ErrorOf([&] { GatedRmsNormBackward(good, dy, gradients); });
  };
  EXPECT_THAT(backward({.dx = good.x}), HasSubstr("dx lies on x"));
  EXPECT_THAT(backward({.dx = dy}), HasSubstr("dx lies on dy"));
  EXPECT_THAT(backward({.dz = good.z}), HasSubstr("dz lies on z"));
  EXPECT_THAT(backward({.dweight = good.weight}), HasSubstr("dweight lies on weight"));
}

}  // namespace
}  // namespace adder
