// The distribution of one row and the draw from it, in host memory: what sample is defined by.
// Filters work on penalised logits, in double; probabilities are formed once, at the end of each
// filter that needs them. Nothing is sorted but what top-k and top-p keep.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>

#include "adder/core/error.h"
#include "adder/ops/most_likely/most_likely.h"
#include "adder/ops/sample/sample.h"

namespace adder {
namespace {

// A token and its logit, later its probability.
using Scores = std::vector<Candidate>;

bool MoreLikely(const Candidate& a, const Candidate& b) {
  return a.probability != b.probability ? a.probability > b.probability : a.token < b.token;
}

void CheckLogits(std::span<const float> logits) {
  bool any = false;
  for (size_t i = 0; i < logits.size(); ++i) {
    const float logit = logits[i];
    if (std::isnan(logit) || logit == std::numeric_limits<float>::infinity()) {
      throw Error(
          ErrorCode::kNumeric,
          fmt::format("the model's logit of token {} is {}, expected a finite number", i, logit));
    }
    any = any || std::isfinite(logit);
  }
  if (!any) {
    throw Error(ErrorCode::kNumeric, fmt::format("none of the {} logits is a finite number, there "
                                                 "is no token to draw",
                                                 logits.size()));
  }
}

Scores Penalised(std::span<const float> logits, const SamplingOptions& options,
                 std::span<const int32_t> recent) {
  Scores scores(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    scores[i] = {static_cast<int32_t>(i), static_cast<double>(logits[i])};
  }
  if (options.repetition_penalty == 1.0) return scores;
  const auto window = std::min(recent.size(), static_cast<size_t>(options.repetition_window));
  for (const int32_t token : recent.last(window)) {
    if (token < 0 || static_cast<size_t>(token) >= logits.size()) continue;
    // From the logits, not from the score: a token that occurs twice is penalised once.
    const double logit = logits[static_cast<size_t>(token)];
    if (std::isinf(logit)) continue;
    const double penalised =
        logit > 0.0 ? logit / options.repetition_penalty : logit * options.repetition_penalty;
    constexpr double kMost = std::numeric_limits<float>::max();
    scores[static_cast<size_t>(token)].probability =
        static_cast<float>(std::clamp(penalised, -kMost, kMost));
  }
  return scores;
}

void Normalise(Scores& scores) {
  double sum = 0.0;
  for (const Candidate& score : scores) sum += score.probability;
  for (Candidate& score : scores) score.probability /= sum;
}

// Keeps the most likely tokens until `probability` of the whole is reached. A heap gives them one
// by one without sorting the rest.
void KeepNucleus(Scores& scores, double probability) {
  const auto less_likely = [](const Candidate& a, const Candidate& b) { return MoreLikely(b, a); };
  std::make_heap(scores.begin(), scores.end(), less_likely);
  auto rest = scores.end();
  double sum = 0.0;
  while (rest != scores.begin() && sum < probability) {
    std::pop_heap(scores.begin(), rest, less_likely);
    --rest;
    sum += rest->probability;
  }
  scores.erase(scores.begin(), rest);
}

}  // namespace

void CheckSamplingOptions(const SamplingOptions& options) {
  const auto check = [](bool valid, const char* name, double value, const char* expected) {
    if (!valid) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("{} is {}, expected {}", name, value, expected));
    }
  };
  check(std::isfinite(options.temperature) && options.temperature >= 0.0, "temperature",
        options.temperature, "a number of at least 0");
  check(options.top_k >= 0, "top_k", static_cast<double>(options.top_k), "at least 0");
  check(options.top_p > 0.0 && options.top_p <= 1.0, "top_p", options.top_p,
        "more than 0 and at most 1");
  check(options.min_p >= 0.0 && options.min_p <= 1.0, "min_p", options.min_p,
        "at least 0 and at most 1");
  check(std::isfinite(options.repetition_penalty) && options.repetition_penalty > 0.0,
        "repetition_penalty", options.repetition_penalty, "a number above 0");
  check(options.repetition_window >= 0 && options.repetition_window <= kMaxRepetitionWindow,
        "repetition_window", static_cast<double>(options.repetition_window), "0 to 1024");
}

std::vector<Candidate> SamplingDistribution(std::span<const float> logits,
                                            const SamplingOptions& options,
                                            std::span<const int32_t> recent) {
  CheckSamplingOptions(options);
  if (options.temperature == 0.0 && options.repetition_penalty == 1.0) {
    const int32_t token = MostLikely(logits);
    if (token < 0) CheckLogits(logits);  // throws
    return {{token, 1.0}};
  }
  CheckLogits(logits);
  Scores scores = Penalised(logits, options, recent);
  const Candidate best = *std::min_element(scores.begin(), scores.end(), MoreLikely);
  if (options.temperature == 0.0) return {{best.token, 1.0}};

  if (options.top_k > 0 && static_cast<size_t>(options.top_k) < scores.size()) {
    const auto kept = scores.begin() + options.top_k;
    std::nth_element(scores.begin(), kept, scores.end(), MoreLikely);
    scores.erase(kept, scores.end());
  }
  // Relative to the best, whose exponential is 1: nothing overflows.
  for (Candidate& score : scores) {
    score.probability = std::exp((score.probability - best.probability) / options.temperature);
  }
  Normalise(scores);
  if (options.top_p < 1.0) KeepNucleus(scores, options.top_p);
  double most = 0.0;
  for (const Candidate& score : scores) most = std::max(most, score.probability);
  std::erase_if(scores, [&](const Candidate& score) {
    return score.probability == 0.0 || score.probability < options.min_p * most;
  });
  Normalise(scores);
  std::sort(scores.begin(), scores.end(),
            [](const Candidate& a, const Candidate& b) { return a.token < b.token; });
  return scores;
}

int32_t SampleToken(std::span<const float> logits, const SamplingOptions& options,
                    std::span<const int32_t> recent, double uniform) {
  const std::vector<Candidate> distribution = SamplingDistribution(logits, options, recent);
  double left = uniform;
  for (const Candidate& candidate : distribution) {
    left -= candidate.probability;
    if (left < 0.0) return candidate.token;
  }
  return distribution.back().token;  // the probabilities' sum was rounded below 1
}

double UniformFor(const SamplingOptions& options, Random& random) {
  return options.temperature == 0.0 ? 0.0 : random.NextDouble();
}

}  // namespace adder
