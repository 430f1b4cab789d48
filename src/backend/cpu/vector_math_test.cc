// The functions of simd.h against double precision, on every instruction set of this machine.
#include "adder/backend/cpu/vector_math.h"

#include <gtest/gtest.h>

#include <bit>
#include <cfloat>
#include <cmath>
#include <limits>
#include <numbers>
#include <string>
#include <vector>

#include "adder/core/random.h"

namespace adder::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class VectorMathTest : public testing::TestWithParam<InstructionSet> {
 protected:
  void SetUp() override { SetActiveInstructionSet(GetParam()); }
  void TearDown() override { SetActiveInstructionSet(SupportedInstructionSets().back()); }
};

INSTANTIATE_TEST_SUITE_P(EverySet, VectorMathTest, testing::ValuesIn(SupportedInstructionSets()),
                         [](const auto& test) {
                           return std::string(InstructionSetName(test.param));
                         });

std::vector<float> Apply(VectorFunction function, const std::vector<float>& x) {
  std::vector<float> y(x.size());
  VectorMath({function, x.data(), y.data(), static_cast<int64_t>(x.size())});
  return y;
}

// Every order of magnitude of either sign, and [low, high] densely.
std::vector<float> Arguments(float low, float high) {
  Random random(7);
  std::vector<float> x = {0.0f, -0.0f, 1.0f, -1.0f, FLT_MIN, FLT_MAX, -FLT_MAX, low, high};
  for (int i = 0; i < 40000; ++i) {
    const auto any = std::bit_cast<float>(random.NextU32());
    if (std::isfinite(any)) x.push_back(any);
  }
  for (int i = 0; i < 80001; ++i) x.push_back(low + (high - low) * random.NextFloat());
  return x;
}

// Distance from the exact result in units of the f32 spacing there.
double UlpError(float y, double exact) {
  if (std::isnan(exact)) return std::isnan(y) ? 0 : INFINITY;
  if (std::abs(exact) < FLT_MIN && std::abs(y) <= FLT_MIN) return 0;  // may be flushed
  // Halfway between the largest f32 and 2^128 is where rounding gives infinity; 1 ulp of slack.
  if (std::abs(exact) > 0x1.fffffep127 - 0x1p104 && std::abs(y) >= 0x1.fffffcp127f) {
    return std::signbit(exact) == std::signbit(y) ? 0 : INFINITY;
  }
  const double ulp = std::ldexp(1.0, std::max(-126, std::ilogb(exact)) - 23);
  return std::abs(y - exact) / ulp;
}

struct FunctionCase {
  const char* name;
  VectorFunction function;
  double (*exact)(double);
  float low, high;  // where most of the function happens
  double most_ulp;
};

TEST_P(VectorMathTest, IsAccurateEverywhere) {
  const FunctionCase cases[] = {
      {"Exp", VectorFunction::kExp, [](double x) { return std::exp(x); }, -90, 90, 1.25},
      {"Exp2", VectorFunction::kExp2, [](double x) { return std::exp2(x); }, -130, 130, 1.25},
      {"Log", VectorFunction::kLog, [](double x) { return std::log(x); }, 0, 4, 1.0},
      {"Log1p", VectorFunction::kLog1p, [](double x) { return std::log1p(x); }, -1, 4, 1.5},
      {"Softplus", VectorFunction::kSoftplus,
       [](double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); }, -30,
       30, 2.25},
      {"Sigmoid", VectorFunction::kSigmoid, [](double x) { return 1 / (1 + std::exp(-x)); }, -90,
       30, 2.5},
      {"Silu", VectorFunction::kSilu, [](double x) { return x / (1 + std::exp(-x)); }, -80, 30,
       2.5},
      {"Sqrt", VectorFunction::kSqrt, [](double x) { return std::sqrt(x); }, 0, 4, 0.5},
      {"Rsqrt", VectorFunction::kRsqrt, [](double x) { return 1 / std::sqrt(x); }, 0, 4, 1.5},
      {"Round", VectorFunction::kRound, [](double x) { return std::nearbyint(x); }, -100, 100, 0},
  };
  for (const FunctionCase& c : cases) {
    const std::vector<float> x = Arguments(c.low, c.high);
    const std::vector<float> y = Apply(c.function, x);
    double worst = 0;
    float worst_x = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      // Where the set flushes subnormal arguments, functions with a pole at 0 see a 0.
      if (std::fpclassify(x[i]) == FP_SUBNORMAL) continue;
      // x·sigmoid(x) for x so negative that the sigmoid is below the smallest normal.
      if (c.function == VectorFunction::kSilu && x[i] < -87 && std::abs(y[i]) < 1e-35f) continue;
      const double error = UlpError(y[i], c.exact(x[i]));
      if (!(error <= worst)) {
        worst = error;
        worst_x = x[i];
      }
    }
    EXPECT_LE(worst, c.most_ulp) << c.name << "(" << worst_x << ")";
    RecordProperty(c.name, std::to_string(worst));
  }
}

TEST_P(VectorMathTest, QuarterTurnsAreAccurateAtEveryMagnitude) {
  const std::vector<float> x = Arguments(-5, 5);
  const std::vector<float> sin = Apply(VectorFunction::kSinQuarterTurns, x);
  const std::vector<float> cos = Apply(VectorFunction::kCosQuarterTurns, x);
  for (size_t i = 0; i < x.size(); ++i) {
    // fmod and the doubling of the fraction are exact, so this is sin(x · π/2) in f64.
    const double angle = std::remainder(static_cast<double>(x[i]), 4.0) * std::numbers::pi / 2;
    // Absolute: next to a zero of the other function f64 itself has only that.
    ASSERT_NEAR(sin[i], std::sin(angle), 1.2e-7) << x[i];
    ASSERT_NEAR(cos[i], std::cos(angle), 1.2e-7) << x[i];
    if (std::abs(x[i]) < 0.5f) {
      ASSERT_LE(UlpError(sin[i], std::sin(angle)), 1.5) << x[i];
    }
  }
}

TEST_P(VectorMathTest, HandlesInfinityAndNan) {
  const std::vector<float> x = {-kInfinity, -0.0f, 0.0f, kInfinity, kNan};
  const auto expect = [&](VectorFunction function, const std::vector<float>& expected) {
    const std::vector<float> y = Apply(function, x);
    for (size_t i = 0; i < x.size(); ++i) {
      if (std::isnan(expected[i])) {
        EXPECT_TRUE(std::isnan(y[i])) << "x = " << x[i] << " gives " << y[i];
      } else {
        EXPECT_EQ(y[i], expected[i]) << "x = " << x[i];
      }
    }
  };
  expect(VectorFunction::kExp, {0, 1, 1, kInfinity, kNan});
  expect(VectorFunction::kExp2, {0, 1, 1, kInfinity, kNan});
  expect(VectorFunction::kLog, {kNan, -kInfinity, -kInfinity, kInfinity, kNan});
  expect(VectorFunction::kLog1p, {kNan, 0, 0, kInfinity, kNan});
  expect(VectorFunction::kSoftplus, {0, std::log(2.0f), std::log(2.0f), kInfinity, kNan});
  expect(VectorFunction::kSigmoid, {0, 0.5, 0.5, 1, kNan});
  expect(VectorFunction::kSilu, {kNan, 0, 0, kInfinity, kNan});
  expect(VectorFunction::kRsqrt, {kNan, -kInfinity, kInfinity, 0, kNan});
  expect(VectorFunction::kRound, {-kInfinity, 0, 0, kInfinity, kNan});
  EXPECT_TRUE(std::isnan(Apply(VectorFunction::kSinQuarterTurns, {kInfinity})[0]));
  EXPECT_TRUE(std::isnan(Apply(VectorFunction::kCosQuarterTurns, {kNan})[0]));
}

// Arrays of every length up to a few vectors: the elements after the last stay as they were.
TEST_P(VectorMathTest, TouchesNothingBeyondTheEnd) {
  for (size_t count = 0; count <= 70; ++count) {
    std::vector<float> x(count);  // its own allocation, so that a sanitizer sees a read beyond
    std::vector<float> y(count + 16, -7.0f);
    for (size_t i = 0; i < count; ++i) x[i] = static_cast<float>(i) * 0.1f;
    const std::vector<float> exact = Apply(VectorFunction::kExp, x);
    VectorMath({VectorFunction::kExp, x.data(), y.data(), static_cast<int64_t>(count)});
    for (size_t i = 0; i < count; ++i) ASSERT_EQ(y[i], exact[i]);
    for (size_t i = count; i < y.size(); ++i) ASSERT_EQ(y[i], -7.0f);
    // A lane's result doesn't depend on its place.
    for (size_t i = 0; i < count; ++i) {
      ASSERT_EQ(Apply(VectorFunction::kExp, {x[i]})[0], exact[i]);
    }
  }
}

template <class T>
class VectorConvertCheck {
 public:
  static void EveryValueWidensExactly() {
    std::vector<T> from(65536);
    for (size_t i = 0; i < from.size(); ++i) from[i].bits = static_cast<uint16_t>(i);
    std::vector<float> to(from.size());
    VectorConvert(
        {from.data(), kDTypeOf<T>, to.data(), DType::kF32, static_cast<int64_t>(from.size())});
    for (size_t i = 0; i < from.size(); ++i) {
      const auto expected = static_cast<float>(from[i]);
      if (std::isnan(expected)) {
        ASSERT_TRUE(std::isnan(to[i])) << i;
      } else {
        ASSERT_EQ(std::bit_cast<uint32_t>(to[i]), std::bit_cast<uint32_t>(expected)) << i;
      }
    }
  }

  static void RoundsToNearestEven(std::vector<float> from) {
    for (uint32_t bits = 0; bits < 65536; ++bits) {  // exact values, and ties between them
      T narrow;
      narrow.bits = static_cast<uint16_t>(bits);
      const auto value = static_cast<float>(narrow);
      if (!std::isfinite(value)) continue;
      narrow.bits = static_cast<uint16_t>(bits + 1);
      const auto next = static_cast<float>(narrow);
      from.push_back(value);
      if (std::isfinite(next)) from.push_back(value + (next - value) / 2);
    }
    std::vector<T> to(from.size());
    VectorConvert(
        {from.data(), DType::kF32, to.data(), kDTypeOf<T>, static_cast<int64_t>(from.size())});
    for (size_t i = 0; i < from.size(); ++i) {
      const T expected(from[i]);
      // The bf16 instruction flushes subnormal values.
      if (std::fpclassify(from[i]) == FP_SUBNORMAL && (to[i].bits & 0x7fff) == 0) continue;
      if (std::isnan(from[i])) {
        ASSERT_TRUE(std::isnan(static_cast<float>(to[i]))) << from[i];
      } else {
        ASSERT_EQ(to[i].bits, expected.bits) << from[i];
      }
    }
  }
};

TEST_P(VectorMathTest, ConvertsHalvesAndBFloat16s) {
  std::vector<float> values = Arguments(-70000, 70000);
  for (const float value : {kInfinity, -kInfinity, kNan, 65504.0f, 65519.9f, 65520.0f, 3e-8f}) {
    values.push_back(value);
  }
  VectorConvertCheck<BFloat16>::EveryValueWidensExactly();
  VectorConvertCheck<Half>::EveryValueWidensExactly();
  VectorConvertCheck<BFloat16>::RoundsToNearestEven(values);
  VectorConvertCheck<Half>::RoundsToNearestEven(values);
  for (size_t count = 0; count <= 40; ++count) {
    const std::vector<float> from(count, 1.5f);
    std::vector<Half> to(count + 8, Half(9.0f));
    VectorConvert({from.data(), DType::kF32, to.data(), DType::kF16, static_cast<int64_t>(count)});
    for (size_t i = 0; i < to.size(); ++i) {
      ASSERT_EQ(static_cast<float>(to[i]), i < count ? 1.5f : 9.0f);
    }
  }
}

}  // namespace
}  // namespace adder::cpu
