// A task's metrics and their standard errors, as lm-evaluation-harness computes and prints them.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "adder/eval/log_likelihood.h"
#include "adder/eval/task.h"

namespace adder {

struct MetricValue {
  std::string name;  // "acc", "acc_norm", "perplexity"
  double value = 0.0;
  std::optional<double> standard_error;  // none for a single document
};

// results[d][c] is the answer to request c of document d. Of equally likely choices the first
// counts. The standard error of a mean is the sample's, that of the perplexity the bootstrap's.
// Throws kInvalidArgument when there are no documents or the numbers of them disagree; kCancelled
// once `cancel` is true.
std::vector<MetricValue> ComputeMetrics(const Task& task, std::span<const TaskDocument> documents,
                                        std::span<const std::vector<LogLikelihood>> results,
                                        const std::atomic<bool>* cancel = nullptr);

// exp(-mean) of as many log-likelihoods drawn with replacement, `draws` times (rounded down to
// whole thousands): the standard deviation of that. The draws are those of Python's
// random.Random(i).choices(log_likelihoods, k=n) for each thousand i, so that the result is the
// harness's digit for digit.
double PerplexityStandardError(std::span<const double> log_likelihoods, int64_t draws = 100000,
                               const std::atomic<bool>* cancel = nullptr);

}  // namespace adder
