// Estimating the number of steps that fit into the time left.
#include "adder/train/pace.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "adder/formats/json.h"

namespace adder {
namespace {

// Shares of the time after which the estimate is renewed: densely at the end, so that the run ends
// on time, and at the beginning, where the first steps say little.
constexpr std::array<double, 16> kMarks = {0.02, 0.05, 0.1, 0.2,  0.3,  0.4,  0.5,  0.6,
                                           0.7,  0.8,  0.9, 0.94, 0.96, 0.98, 0.99, 1.0};

// The first step prepares kernels and is slower than all others; the first estimate is made after
// one step more.
constexpr int64_t kFirstDecisionStep = 2;

// More than any run has; sums of two fit.
constexpr int64_t kMostSteps = int64_t{1} << 62;

// How many steps fit into the seconds left, at least one.
int64_t Fitting(double seconds_left, double seconds_per_step) {
  return std::llround(std::clamp(seconds_left / std::max(1e-9, seconds_per_step), 1.0, 1e15));
}

}  // namespace

std::string ToJsonLine(const PaceDecision& decision) {
  return fmt::format(
      "{{\"step\":{},\"share\":{},\"steps_left\":{},\"elapsed\":{},\"budget\":{}}}\n",
      decision.step, decision.share, decision.steps_left, decision.elapsed, decision.budget);
}

std::vector<PaceDecision> ParsePace(std::string_view text, const std::string& source) {
  std::vector<PaceDecision> decisions;
  for (size_t end = text.find('\n'); end != std::string_view::npos; end = text.find('\n')) {
    const JsonObject line = JsonObject::Parse(text.substr(0, end), source);
    const int64_t least = decisions.empty() ? 0 : decisions.back().step + 1;
    decisions.push_back({line.Int("step", least, kMostSteps - 1), line.Double("share", 0.0, 1.0),
                         line.Int("steps_left", 0, kMostSteps), line.Double("elapsed", 0.0),
                         line.Double("budget", 0.0)});
    text.remove_prefix(end + 1);
  }
  return decisions;
}

Pace Pace::Steps(int64_t steps) {
  Pace pace;
  pace.decisions_ = {{0, 0.0, steps, 0.0, 0.0}};
  return pace;
}

Pace Pace::Seconds(double seconds, std::vector<PaceDecision> recorded, int64_t step,
                   double elapsed) {
  Pace pace;
  pace.seconds_ = seconds;
  pace.decisions_ = std::move(recorded);
  std::vector<PaceDecision>& decisions = pace.decisions_;
  if (decisions.empty()) {
    // Either this budget has made no decision yet, or the steps so far were counted.
    if (step < kFirstDecisionStep) return pace;
  } else if (decisions.back().budget == seconds) {
    return pace;
  }
  std::erase_if(decisions, [&](const PaceDecision& decision) { return decision.step >= step; });
  if (step == 0) return pace;
  const double left = seconds - elapsed;
  const int64_t fitting = left > 0.0 ? Fitting(left, elapsed / static_cast<double>(step)) : 0;
  decisions.push_back({step, fitting > 0 ? elapsed / seconds : 1.0, fitting, elapsed, seconds});
  return pace;
}

const PaceDecision* Pace::Active(int64_t step) const {
  const auto next =
      std::upper_bound(decisions_.begin(), decisions_.end(), step,
                       [](int64_t s, const PaceDecision& decision) { return s < decision.step; });
  return next == decisions_.begin() ? nullptr : &*std::prev(next);
}

const PaceDecision* Pace::Observe(int64_t step, double elapsed) {
  if (seconds_ <= 0.0) return nullptr;
  if (!decisions_.empty() && decisions_.back().step >= step) return nullptr;  // follow the record
  const bool first = decisions_.empty();
  if (observed_step_ < 0 || step == 1) {
    observed_step_ = step;
    observed_elapsed_ = elapsed;
  }
  if (first) {
    if (step < kFirstDecisionStep || step == observed_step_) return nullptr;
  } else {
    const PaceDecision& last = decisions_.back();
    const auto* mark = std::upper_bound(kMarks.begin(), kMarks.end(), last.elapsed / seconds_);
    const bool at_mark = mark != kMarks.end() && elapsed >= *mark * seconds_;
    // Half of the steps done before the next mark: there will be more than was thought.
    const bool ahead = 2 * (step - last.step) >= last.steps_left;
    if ((!at_mark && !ahead) || Done(step)) return nullptr;
  }
  // Seconds per step since the decision before the last: recent, but long enough not to be noise.
  int64_t since_step = observed_step_;
  double since_elapsed = observed_elapsed_;
  if (!first) {
    const PaceDecision& since =
        decisions_[decisions_.size() - std::min<size_t>(2, decisions_.size())];
    since_step = since.step;
    since_elapsed = since.elapsed;
  }
  const double seconds_per_step =
      (elapsed - since_elapsed) / static_cast<double>(step - since_step);
  decisions_.push_back(
      {step, At(step).begin, Fitting(seconds_ - elapsed, seconds_per_step), elapsed, seconds_});
  return &decisions_.back();
}

const PaceDecision* Pace::End(int64_t step, double elapsed) {
  if (seconds_ <= 0.0 || decisions_.back().step >= step) return nullptr;
  decisions_.push_back({step, 1.0, 0, elapsed, seconds_});
  return &decisions_.back();
}

bool Pace::Done(int64_t step) const {
  const PaceDecision* active = Active(step);
  return active != nullptr && step >= active->step + active->steps_left;
}

StepSpan Pace::At(int64_t step) const {
  const auto share = [&](int64_t at) {
    const PaceDecision* active = Active(step);
    if (active == nullptr) return 0.0;
    const double done =
        static_cast<double>(at - active->step) / static_cast<double>(active->steps_left);
    return active->share + (1.0 - active->share) * std::min(1.0, done);
  };
  // A step at which a decision takes over begins where the one before had come: its share.
  return {share(step), share(step + 1)};
}

int64_t Pace::TotalSteps(int64_t step) const {
  const PaceDecision* active = Active(step);
  return active == nullptr ? 0 : active->step + active->steps_left;
}

}  // namespace adder
