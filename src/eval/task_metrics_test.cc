// Metrics of log-likelihoods worked out by hand, and the bootstrap as Python ran it.
#include "adder/eval/task_metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "adder/core/error.h"

namespace adder {
namespace {

TaskDocument Document(std::vector<int64_t> lengths, int64_t gold) {
  TaskDocument document;
  document.requests.resize(lengths.size());
  document.lengths = std::move(lengths);
  document.gold = gold;
  return document;
}

using All = std::vector<std::vector<LogLikelihood>>;

std::vector<LogLikelihood> Results(std::initializer_list<double> nats, bool greedy = false) {
  std::vector<LogLikelihood> results;
  for (const double value : nats) results.push_back({value, greedy});
  return results;
}

TEST(TaskMetrics, OfChoices) {
  const std::vector<TaskDocument> documents = {
      Document({10, 20}, 0),    // likelier, but not per character
      Document({10, 20}, 1),    // the other way round
      Document({2, 2, 2}, 0),   // the first of equals
      Document({4, 4, 4}, 2)};  // wrong in both
  const All results = {Results({-10.0, -12.0}), Results({-10.0, -12.0}),
                       Results({-3.0, -3.0, -5.0}), Results({-1.0, -2.0, -3.0})};
  const std::vector<MetricValue> metrics =
      ComputeMetrics(FindTask("hellaswag"), documents, results);
  ASSERT_EQ(metrics.size(), 2u);
  EXPECT_EQ(metrics[0].name, "acc");
  EXPECT_EQ(metrics[0].value, 0.5);
  // Deviations of ±½ from the mean: the sample's standard deviation is √(4·¼/3), over √4.
  EXPECT_DOUBLE_EQ(metrics[0].standard_error.value(), std::sqrt(1.0 / 3.0) / 2.0);
  EXPECT_EQ(metrics[1].name, "acc_norm");
  EXPECT_EQ(metrics[1].value, 0.5);
  // Without the first and third documents: 0 of 2 and 1 of 2.
  const std::vector<TaskDocument> two = {documents[1], documents[3]};
  const std::vector<MetricValue> fewer =
      ComputeMetrics(FindTask("piqa"), two, All{results[1], results[3]});
  EXPECT_EQ(fewer[0].value, 0.0);
  EXPECT_EQ(fewer[0].standard_error.value(), 0.0);
  EXPECT_EQ(fewer[1].value, 0.5);
  EXPECT_EQ(ComputeMetrics(FindTask("winogrande"), two, All{results[1], results[3]}).size(), 1u);
}

TEST(TaskMetrics, AnEmptyChoiceIsTheLastOne) {
  // -4/0 is minus infinity.
  const std::vector<MetricValue> metrics = ComputeMetrics(
      FindTask("hellaswag"), std::vector{Document({0, 1}, 1)}, All{Results({-4.0, -9.0})});
  EXPECT_EQ(metrics[0].value, 0.0);
  EXPECT_EQ(metrics[1].value, 1.0);
  EXPECT_FALSE(metrics[0].standard_error.has_value());  // of one document
}

TEST(TaskMetrics, OfLastWords) {
  const std::vector<TaskDocument> documents(4, Document({5}, 0));
  const All results = {Results({-1.0}, true), Results({-2.0}), Results({-3.0}, true),
                       Results({-6.0})};
  const std::vector<MetricValue> metrics =
      ComputeMetrics(FindTask("lambada_openai"), documents, results);
  ASSERT_EQ(metrics.size(), 2u);
  EXPECT_EQ(metrics[0].name, "perplexity");
  EXPECT_DOUBLE_EQ(metrics[0].value, std::exp(3.0));
  EXPECT_GT(metrics[0].standard_error.value(), 0.0);
  EXPECT_EQ(metrics[1].name, "acc");
  EXPECT_EQ(metrics[1].value, 0.5);
}

// What the same computation with Python 3.11's random module and floats printed.
TEST(TaskMetrics, BootstrapDrawsAsPythonDoes) {
  const std::vector<double> values = {-1.5, -0.25, -3.0, -2.0, -0.125};
  // Sums in another order: a few units in the last place.
  EXPECT_NEAR(PerplexityStandardError(values, 3000), 2.318812341051115, 1e-12);
  EXPECT_NEAR(PerplexityStandardError(std::vector<double>(3, -2.0), 2000), 0.0, 1e-12);
}

TEST(TaskMetrics, RefuseNumbersThatDisagree) {
  const Task& task = FindTask("piqa");
  const std::vector<TaskDocument> one = {Document({1, 1}, 0)};
  EXPECT_THROW(ComputeMetrics(task, {}, {}), Error);
  EXPECT_THROW(ComputeMetrics(task, one, {}), Error);
  EXPECT_THROW(ComputeMetrics(task, one, All{Results({-1.0})}), Error);
  const std::atomic<bool> cancel = true;
  EXPECT_THROW(PerplexityStandardError(std::vector{-1.0, -2.0}, 1000, &cancel), Error);
}

}  // namespace
}  // namespace adder
