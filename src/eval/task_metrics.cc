// Means, their errors, and the bootstrap of the perplexity.
#include "adder/eval/task_metrics.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>

#include "adder/backend/cpu/parallel.h"
#include "adder/core/error.h"
#include "adder/eval/python_random.h"

namespace adder {
namespace {

// Draws with one seed.
constexpr int64_t kDrawsPerSeed = 1000;

double Mean(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

// With Bessel's correction; two values or more.
double SampleDeviation(std::span<const double> values) {
  const double mean = Mean(values);
  double sum = 0.0;
  for (const double value : values) sum += (value - mean) * (value - mean);
  return std::sqrt(sum / static_cast<double>(values.size() - 1));
}

const char* NameOf(TaskMetric metric) {
  switch (metric) {
    case TaskMetric::kPerplexity:
      return "perplexity";
    case TaskMetric::kAcc:
      return "acc";
    case TaskMetric::kAccNorm:
      return "acc_norm";
  }
  return "unknown";
}

// What a document contributes to the mean.
double ItemOf(const Task& task, TaskMetric metric, const TaskDocument& document,
              const std::vector<LogLikelihood>& results) {
  if (metric == TaskMetric::kPerplexity) return results.front().nats;
  if (task.single()) return results.front().greedy ? 1.0 : 0.0;
  std::vector<double> scores;
  for (size_t c = 0; c < results.size(); ++c) {
    const double length =
        metric == TaskMetric::kAccNorm ? static_cast<double>(document.lengths[c]) : 1.0;
    scores.push_back(results[c].nats / length);
  }
  const auto best = std::max_element(scores.begin(), scores.end()) - scores.begin();
  return best == document.gold ? 1.0 : 0.0;
}

}  // namespace

double PerplexityStandardError(std::span<const double> log_likelihoods, int64_t draws,
                               const std::atomic<bool>* cancel) {
  const auto count = static_cast<int64_t>(log_likelihoods.size());
  const int64_t seeds = draws / kDrawsPerSeed;
  std::vector<double> perplexities(static_cast<size_t>(seeds * kDrawsPerSeed));
  cpu::ParallelFor(seeds, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t seed = begin; seed < end; ++seed) {
      PythonRandom random(static_cast<uint32_t>(seed));
      for (int64_t draw = 0; draw < kDrawsPerSeed; ++draw) {
        if (cancel != nullptr && cancel->load()) return;
        double sum = 0.0;
        for (int64_t i = 0; i < count; ++i) {
          sum += log_likelihoods[static_cast<size_t>(random.NextIndex(count))];
        }
        perplexities[static_cast<size_t>(seed * kDrawsPerSeed + draw)] =
            std::exp(-sum / static_cast<double>(count));
      }
    }
  });
  if (cancel != nullptr && cancel->load()) {
    throw Error(ErrorCode::kCancelled, "evaluation stopped");
  }
  return SampleDeviation(perplexities);
}

std::vector<MetricValue> ComputeMetrics(const Task& task, std::span<const TaskDocument> documents,
                                        std::span<const std::vector<LogLikelihood>> results,
                                        const std::atomic<bool>* cancel) {
  bool agree = !documents.empty() && documents.size() == results.size();
  for (size_t d = 0; agree && d < documents.size(); ++d) {
    agree = documents[d].requests.size() == results[d].size();
  }
  if (!agree) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: {} documents and the results of {}, or of other choices",
                            task.name, documents.size(), results.size()));
  }
  std::vector<MetricValue> metrics;
  for (const TaskMetric metric : task.metrics) {
    std::vector<double> items;
    items.reserve(documents.size());
    for (size_t d = 0; d < documents.size(); ++d) {
      items.push_back(ItemOf(task, metric, documents[d], results[d]));
    }
    MetricValue value = {NameOf(metric), Mean(items), std::nullopt};
    if (metric == TaskMetric::kPerplexity) value.value = std::exp(-value.value);
    if (items.size() > 1) {
      value.standard_error =
          metric == TaskMetric::kPerplexity
              ? PerplexityStandardError(items, 100000, cancel)
              : SampleDeviation(items) / std::sqrt(static_cast<double>(items.size()));
    }
    metrics.push_back(std::move(value));
  }
  return metrics;
}

}  // namespace adder
