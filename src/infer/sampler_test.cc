// The filters against distributions worked out by hand, the draw against its frequencies.
#include "adder/infer/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "adder/core/error.h"

namespace adder {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Everything off: softmax.
SamplingOptions Plain() {
  SamplingOptions options;
  options.temperature = 1.0;
  options.top_p = 1.0;
  return options;
}

// Logits whose softmax is 0.1, 0.4, 0.2, 0.3.
const std::array<float, 4> kLogits = {std::log(0.1f), std::log(0.4f), std::log(0.2f),
                                      std::log(0.3f)};

// The logits are rounded to f32, so probabilities agree to some 1e-7.
constexpr double kTolerance = 1e-6;

void ExpectDistribution(const std::vector<Candidate>& actual,
                        const std::vector<Candidate>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(actual[i].token, expected[i].token);
    EXPECT_NEAR(actual[i].probability, expected[i].probability, kTolerance);
  }
}

ErrorCode CodeOf(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code();
  }
  ADD_FAILURE() << "no error was thrown";
  return ErrorCode::kIo;
}

TEST(Sampler, SoftmaxWithoutFilters) {
  ExpectDistribution(SamplingDistribution(kLogits, Plain()),
                     {{0, 0.1}, {1, 0.4}, {2, 0.2}, {3, 0.3}});
}

TEST(Sampler, GreedyTakesTheMostLikelyAndOfEqualsTheFirst) {
  SamplingOptions options = Plain();
  options.temperature = 0.0;
  ExpectDistribution(SamplingDistribution(kLogits, options), {{1, 1.0}});
  ExpectDistribution(SamplingDistribution(std::array{0.5f, 2.0f, 2.0f}, options), {{1, 1.0}});
}

// Logits are searched in blocks: every place of a vocabulary of no whole number of them, and what
// is no number is found in every place too.
TEST(Sampler, GreedySearchesAllOfALargeVocabulary) {
  SamplingOptions options = Plain();
  options.temperature = 0.0;
  std::vector<float> logits(700);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = -1.0f - static_cast<float>(i % 13);
  for (size_t i = 0; i < logits.size(); ++i) {
    const float before = logits[i];
    logits[i] = 0.25f;
    EXPECT_EQ(SamplingDistribution(logits, options).front().token, static_cast<int32_t>(i));
    const float after = std::exchange(logits.back(), 0.25f);  // as likely, but later
    EXPECT_EQ(SamplingDistribution(logits, options).front().token, static_cast<int32_t>(i));
    logits.back() = after;
    for (const float wrong : {std::nanf(""), kInfinity}) {
      logits[i] = wrong;
      EXPECT_EQ(CodeOf([&] { SamplingDistribution(logits, options); }), ErrorCode::kNumeric);
    }
    logits[i] = before;
  }
}

TEST(Sampler, TemperatureSharpensAndFlattens) {
  SamplingOptions options = Plain();
  options.temperature = 0.5;  // probabilities squared: 1, 16, 4, 9 of 30
  ExpectDistribution(SamplingDistribution(kLogits, options),
                     {{0, 1 / 30.0}, {1, 16 / 30.0}, {2, 4 / 30.0}, {3, 9 / 30.0}});
  options.temperature = 1e-300;  // quotients overflow to -infinity; equals share
  ExpectDistribution(SamplingDistribution(std::array{1.0f, 3.0f, 3.0f}, options),
                     {{1, 0.5}, {2, 0.5}});
}

TEST(Sampler, TopK) {
  SamplingOptions options = Plain();
  options.top_k = 2;
  ExpectDistribution(SamplingDistribution(kLogits, options), {{1, 4 / 7.0}, {3, 3 / 7.0}});
  options.top_k = 100;
  EXPECT_EQ(SamplingDistribution(kLogits, options).size(), 4u);
  options.top_k = 2;  // three equals compete for two places
  ExpectDistribution(SamplingDistribution(std::array{1.0f, 1.0f, 0.0f, 1.0f}, options),
                     {{0, 0.5}, {1, 0.5}});
}

TEST(Sampler, TopPKeepsTheSmallestSetThatReachesIt) {
  SamplingOptions options = Plain();
  options.top_p = 0.65;  // 0.4 + 0.3
  ExpectDistribution(SamplingDistribution(kLogits, options), {{1, 4 / 7.0}, {3, 3 / 7.0}});
  options.top_p = 0.75;
  ExpectDistribution(SamplingDistribution(kLogits, options),
                     {{1, 4 / 9.0}, {2, 2 / 9.0}, {3, 3 / 9.0}});
  options.top_p = 1e-9;  // never less than one token
  ExpectDistribution(SamplingDistribution(kLogits, options), {{1, 1.0}});
}

TEST(Sampler, MinP) {
  SamplingOptions options = Plain();
  options.min_p = 0.4;  // at least 0.16
  ExpectDistribution(SamplingDistribution(kLogits, options),
                     {{1, 4 / 9.0}, {2, 2 / 9.0}, {3, 3 / 9.0}});
  options.min_p = 1.0;
  ExpectDistribution(SamplingDistribution(kLogits, options), {{1, 1.0}});
}

TEST(Sampler, FiltersComposeInTheDocumentedOrder) {
  SamplingOptions options = Plain();
  options.top_k = 3;    // 0.4, 0.3, 0.2 become 4/9, 3/9, 2/9
  options.top_p = 0.7;  // of those: 4/9 + 3/9; of the whole it would take 0.2 as well
  ExpectDistribution(SamplingDistribution(kLogits, options), {{1, 4 / 7.0}, {3, 3 / 7.0}});
}

TEST(Sampler, RepetitionPenaltyCountsATokenOnceAndForgetsOldOnes) {
  SamplingOptions options = Plain();
  options.repetition_penalty = 2.0;
  const std::array<float, 3> logits = {2.0f, -1.0f, 0.5f};
  const auto softmax = [](double a, double b, double c) {
    const double sum = std::exp(a) + std::exp(b) + std::exp(c);
    return std::vector<Candidate>{
        {0, std::exp(a) / sum}, {1, std::exp(b) / sum}, {2, std::exp(c) / sum}};
  };
  const std::array<int32_t, 4> recent = {2, 0, 1, 0};
  ExpectDistribution(SamplingDistribution(logits, options, recent), softmax(1.0, -2.0, 0.25));
  options.repetition_window = 2;
  ExpectDistribution(SamplingDistribution(logits, options, recent), softmax(1.0, -2.0, 0.5));
  options.repetition_window = 0;
  ExpectDistribution(SamplingDistribution(logits, options, recent), softmax(2.0, -1.0, 0.5));
}

TEST(Sampler, MaskedTokensAreNeverDrawn) {
  ExpectDistribution(SamplingDistribution(std::array{-kInfinity, 0.0f, -kInfinity, 0.0f}, Plain()),
                     {{1, 0.5}, {3, 0.5}});
}

TEST(Sampler, RefusesLogitsThatAreNoNumbers) {
  const auto sample = [](std::vector<float> logits) {
    return [logits = std::move(logits)] {
      SamplingOptions greedy;
      greedy.temperature = 0.0;
      SamplingDistribution(logits, greedy);
    };
  };
  EXPECT_EQ(CodeOf(sample({0.0f, std::nanf(""), 1.0f})), ErrorCode::kNumeric);
  EXPECT_EQ(CodeOf(sample({0.0f, kInfinity})), ErrorCode::kNumeric);
  EXPECT_EQ(CodeOf(sample({-kInfinity, -kInfinity})), ErrorCode::kNumeric);
  EXPECT_EQ(CodeOf(sample({})), ErrorCode::kNumeric);
}

TEST(Sampler, RefusesInvalidOptions) {
  const double nan = std::nan("");
  for (const auto& change : std::vector<std::function<void(SamplingOptions&)>>{
           [](SamplingOptions& o) { o.temperature = -1.0; },
           [&](SamplingOptions& o) { o.temperature = nan; },
           [](SamplingOptions& o) { o.top_k = -1; },
           [](SamplingOptions& o) { o.top_p = 0.0; },
           [](SamplingOptions& o) { o.top_p = 1.5; },
           [&](SamplingOptions& o) { o.top_p = nan; },
           [](SamplingOptions& o) { o.min_p = -0.1; },
           [](SamplingOptions& o) { o.min_p = 1.1; },
           [](SamplingOptions& o) { o.repetition_penalty = 0.0; },
           [](SamplingOptions& o) { o.repetition_window = kMaxRepetitionWindow + 1; },
       }) {
    SamplingOptions options;
    change(options);
    EXPECT_EQ(CodeOf([&] { CheckSamplingOptions(options); }), ErrorCode::kInvalidArgument);
  }
}

TEST(Sampler, FrequenciesFollowTheDistribution) {
  Random random(/*seed=*/7);
  std::array<int, 4> counts = {};
  constexpr int kDraws = 40000;
  for (int i = 0; i < kDraws; ++i) {
    ++counts[static_cast<size_t>(SampleToken(kLogits, Plain(), {}, random))];
  }
  // Pearson's statistic with 3 degrees of freedom: below 16.27 with probability 0.999.
  double chi_squared = 0.0;
  const std::array<double, 4> probabilities = {0.1, 0.4, 0.2, 0.3};
  for (size_t i = 0; i < 4; ++i) {
    const double expected = probabilities[i] * kDraws;
    chi_squared += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  EXPECT_LT(chi_squared, 16.27);
}

TEST(Sampler, TheStreamsPositionIsTheNumberOfTokensDrawn) {
  Random random(1, 2);
  SampleToken(kLogits, Plain(), {}, random);
  const uint64_t one = random.offset();
  SampleToken(std::array{0.0f, -kInfinity}, Plain(), {}, random);  // only one token is possible
  EXPECT_EQ(random.offset(), 2 * one);
  SamplingOptions greedy = Plain();
  greedy.temperature = 0.0;
  SampleToken(kLogits, greedy, {}, random);
  EXPECT_EQ(random.offset(), 2 * one);
}

}  // namespace
}  // namespace adder
