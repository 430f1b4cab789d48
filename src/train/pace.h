// How far a run has come. With a budget of steps that is a quotient. With a budget of time the
// number of steps is not known before: it is estimated from the steps done, again and again, and
// the share still to do is spread over the steps still to come. Each estimate is recorded, so that
// the learning rate stays a function of the step and of the record, and a resumed run is identical.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "adder/train/learning_rate.h"

namespace adder {

// From `step` on, where `share` of the run was done after `elapsed` of its `budget` seconds,
// `steps_left` follow (none at the run's end).
struct PaceDecision {
  int64_t step = 0;
  double share = 0.0;
  int64_t steps_left = 0;
  double elapsed = 0.0;
  double budget = 0.0;

  friend bool operator==(const PaceDecision&, const PaceDecision&) = default;
};

// A line of pace.jsonl: {"step":…,"share":…,"steps_left":…,"elapsed":…,"budget":…}.
std::string ToJsonLine(const PaceDecision& decision);
// The decisions of pace.jsonl; a last line cut short by a crash is left out. Throws kCorrupt, with
// `source` as the file's name, for what is no decision and for steps that do not ascend.
std::vector<PaceDecision> ParsePace(std::string_view text, const std::string& source);

class Pace {
 public:
  // steps ≥ 1.
  static Pace Steps(int64_t steps);
  // `recorded`: the decisions of an earlier part of the run, by ascending step. Those ahead of the
  // step at which it goes on, after `elapsed` seconds, are followed when it gets there; unless the
  // last was made for another budget: then they are dropped, and the rest of the run is estimated
  // anew, elapsed / seconds of it being done. So it is after steps that left no record, those of a
  // budget of steps.
  static Pace Seconds(double seconds, std::vector<PaceDecision> recorded = {}, int64_t step = 0,
                      double elapsed = 0.0);

  // What was decided so far, by ascending step.
  std::span<const PaceDecision> decisions() const { return decisions_; }

  // Called before each step, in order, with the seconds trained so far. Returns the decision made
  // now, to be recorded, or nullptr.
  const PaceDecision* Observe(int64_t step, double elapsed);

  // Called where the run ends: the decision that it ends there, to be recorded, or nullptr when the
  // record has it or the budget is one of steps.
  const PaceDecision* End(int64_t step, double elapsed);

  // Whether the run ends before this step.
  bool Done(int64_t step) const;
  StepSpan At(int64_t step) const;
  // The number of steps of the whole run as far as it is known now, or 0.
  int64_t TotalSteps(int64_t step) const;

 private:
  Pace() = default;
  const PaceDecision* Active(int64_t step) const;

  double seconds_ = 0.0;  // 0: a budget of steps, which is one decision at step 0
  std::vector<PaceDecision> decisions_;
  int64_t observed_step_ = -1;  // the first step this process observed, and when
  double observed_elapsed_ = 0.0;
};

}  // namespace adder
