// The filters against distributions worked out by hand, the draw against its frequencies.
#include "adder/ops/sample/sample.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <span>
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

TEST(SamplingTest, SoftmaxWithoutFilters) {
  ExpectDistribution(SamplingDistribution(kLogits, Plain()),
                     {{0, 0.1}, {1, 0.4}, {2, 0.2}, {3, 0.3}});
}

TEST(SamplingTest, GreedyTakesTheMostLikelyAndOfEqualsTheFirst) {
  SamplingOptions options = Plain();
  options.temperature = 0.0;
  ExpectDistribution(SamplingDistribution(kLogits, options), {{1, 1.0}});
  ExpectDistribution(SamplingDistribution(std::array{0.5f, 2.0f, 2.0f}, options), {{1, 1.0}});
}

// Logits are searched in blocks: every place of a vocabulary of no whole number of them, and what
// is no number is found in every place too.
TEST(SamplingTest, GreedySearchesAllOfALargeVocabulary) {
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

TEST(SamplingTest, TemperatureSharpensAndFlattens) {
  SamplingOptions options = Plain();
  options.temperature = 0.5;  // probabilities squared: 1, 16, 4, 9 of 30
  ExpectDistribution(SamplingDistribution(kLogits, options),
                     {{0, 1 / 30.0}, {1, 16 / 30.0}, {2, 4 / 30.0}, {3, 9 / 30.0}});
  options.temperature = 1e-300;  // quotients overflow to -infinity; equals share
  ExpectDistribution(SamplingDistribution(std::array{1.0f, 3.0f, 3.0f}, options),
                     {{1, 0.5}, {2, 0.5}});
}

TEST(SamplingTest, TopK) {
  SamplingOptions options = Plain();
  options.top_k = 2;
  ExpectDistribution(SamplingDistribution(kLogits, options), {{1, 4 / 7.0}, {3, 3 / 7.0}});
  options.top_k = 100;
  EXPECT_EQ(SamplingDistribution(kLogits, options).size(), 4u);
  options.top_k = 2;  // three equals compete for two places
  ExpectDistribution(SamplingDistribution(std::array{1.0f, 1.0f, 0.0f, 1.0f}, options),
                     {{0, 0.5}, {1, 0.5}});
}

TEST(SamplingTest, TopPKeepsTheSmallestSetThatReachesIt) {
  SamplingOptions options = Plain();
  options.top_p = 0.65;  // 0.4 + 0.3
  ExpectDistribution(SamplingDistribution(kLogits, options), {{1, 4 / 7.0}, {3, 3 / 7.0}});
  options.top_p = 0.75;
  ExpectDistribution(SamplingDistribution(kLogits, options),
                     {{1, 4 / 9.0}, {2, 2 / 9.0}, {3, 3 / 9.0}});
  options.top_p = 1e-9;  // never less than one token
  ExpectDistribution(SamplingDistribution(kLogits, options), {{1, 1.0}});
}

TEST(SamplingTest, MinP) {
  SamplingOptions options = Plain();
  options.min_p = 0.4;  // at least 0.16
  ExpectDistribution(SamplingDistribution(kLogits, options),
                     {{1, 4 / 9.0}, {2, 2 / 9.0}, {3, 3 / 9.0}});
  options.min_p = 1.0;
  ExpectDistribution(SamplingDistribution(kLogits, options), {{1, 1.0}});
}

TEST(SamplingTest, FiltersComposeInTheDocumentedOrder) {
  SamplingOptions options = Plain();
  options.top_k = 3;    // 0.4, 0.3, 0.2 become 4/9, 3/9, 2/9
  options.top_p = 0.7;  // of those: 4/9 + 3/9; of the whole it would take 0.2 as well
  ExpectDistribution(SamplingDistribution(kLogits, options), {{1, 4 / 7.0}, {3, 3 / 7.0}});
}

TEST(SamplingTest, RepetitionPenaltyCountsATokenOnceAndForgetsOldOnes) {
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

TEST(SamplingTest, MaskedTokensAreNeverDrawn) {
  ExpectDistribution(SamplingDistribution(std::array{-kInfinity, 0.0f, -kInfinity, 0.0f}, Plain()),
                     {{1, 0.5}, {3, 0.5}});
}

TEST(SamplingTest, RefusesLogitsThatAreNoNumbers) {
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

TEST(SamplingTest, RefusesInvalidOptions) {
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

TEST(SamplingTest, FrequenciesFollowTheDistribution) {
  Random random(/*seed=*/7);
  std::array<int, 4> counts = {};
  constexpr int kDraws = 40000;
  for (int i = 0; i < kDraws; ++i) {
    ++counts[static_cast<size_t>(SampleToken(kLogits, Plain(), {}, random.NextDouble()))];
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

TEST(SamplingTest, TheStreamsPositionIsTheNumberOfTokensDrawn) {
  Random random(1, 2);
  UniformFor(Plain(), random);
  const uint64_t one = random.offset();
  SamplingOptions narrow = Plain();
  narrow.top_k = 1;  // only one token is possible
  UniformFor(narrow, random);
  EXPECT_EQ(random.offset(), 2 * one);
  SamplingOptions greedy = Plain();
  greedy.temperature = 0.0;
  UniformFor(greedy, random);
  EXPECT_EQ(random.offset(), 2 * one);
}

// Rows with options of their own; one without a token leaves the others alone.
TEST(SampleTest, IsSampleTokenOfEachRow) {
  constexpr int64_t kRows = 40;
  constexpr int64_t kVocab = 37;
  Random random(3);
  const Tensor wide = Tensor::Empty({kRows, kVocab + 2}, DType::kF32);
  FillNormal(wide, random, 0, 2);
  const Tensor logits = wide.Columns(1, kVocab);
  std::vector<float*> at;
  for (int64_t r = 0; r < kRows; ++r) at.push_back(static_cast<float*>(logits.row(r)));
  at[3][5] = std::nanf("");
  at[4][36] = kInfinity;
  std::fill_n(at[5], kVocab, -kInfinity);
  std::vector<std::vector<int32_t>> recent(kRows);
  std::vector<RowSampling> rows;
  for (int64_t r = 0; r < kRows; ++r) {
    RowSampling row;
    row.options.temperature = static_cast<double>(r % 3);
    row.options.top_k = r % 5;
    row.options.repetition_penalty = r % 2 == 0 ? 1.0 : 1.5;
    for (int64_t i = 0; i < r; ++i) {
      recent[static_cast<size_t>(r)].push_back(static_cast<int32_t>(random.NextBelow(kVocab)));
    }
    row.recent = recent[static_cast<size_t>(r)];
    row.uniform = random.NextDouble();
    rows.push_back(row);
  }
  const Tensor tokens = Tensor::Empty({kRows}, DType::kI32);
  Sample(logits, rows, tokens);
  for (size_t r = 0; r < rows.size(); ++r) {
    const std::span<const float> row(at[r], kVocab);
    const bool none = r >= 3 && r <= 5;
    EXPECT_EQ(tokens.data<int32_t>()[r],
              none ? -1 : SampleToken(row, rows[r].options, rows[r].recent, rows[r].uniform))
        << r;
  }
}

TEST(SampleTest, PenalisedLogitsStayFinite) {
  RowSampling row;
  row.options.temperature = 0.0;
  row.options.repetition_penalty = 1e300;
  const int32_t recent[] = {0, 1, 2};
  const std::array<float, 3> logits = {-2.0f, -1e-30f, -kInfinity};
  EXPECT_EQ(SampleToken(logits, row.options, recent, 0.0), 0);  // both as low as can be
  row.options.repetition_penalty = 1e-300;
  EXPECT_EQ(SampleToken(std::array{-1.0f, 3.0f, 2.0f}, row.options, recent, 0.0), 1);
}

TEST(SampleTest, ArgumentsAreChecked) {
  const Tensor logits = Tensor::Zeros({2, 5}, DType::kF32);
  const Tensor tokens = Tensor::Zeros({2}, DType::kI32);
  std::vector<RowSampling> rows(2);
  EXPECT_THROW(Sample(logits, rows, tokens.Rows(0, 1)), Error);
  EXPECT_THROW(Sample(logits.To(DType::kBF16), rows, tokens), Error);
  EXPECT_THROW(Sample(logits, rows, Tensor::Zeros({2}, DType::kF32)), Error);
  EXPECT_THROW(Sample(logits, std::span(rows).first(1), tokens), Error);
  rows[1].options.top_p = 2.0;
  EXPECT_THROW(Sample(logits, rows, tokens), Error);
}

}  // namespace
}  // namespace adder
