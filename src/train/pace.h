// How far a run has come. With a budget of steps that is a quotient. With a budget of time the
// number of steps is not known before: it is estimated from the steps done, again and again, and
// the share still to do is spread over the steps still to come. Each estimate is recorded, so that
// the learning rate stays a function of the step and of the record, and a resumed run is identical.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "adder/train/learning_rate.h"

namespace adder {

// From `step` on, where `share` of the run was done after `elapsed` seconds, `steps_left` follow
// (none at the run's end).
struct PaceDecision {
  int64_t step = 0;
  double share = 0.0;
  int64_t steps_left = 0;
  double elapsed = 0.0;

  friend bool operator==(const PaceDecision&, const PaceDecision&) = default;
};

class Pace {
 public:
  // steps ≥ 1.
  static Pace Steps(int64_t steps);
  // `recorded`: the decisions of an earlier part of the run, by ascending step. Those ahead of the
  // step at which it goes on are followed when it gets there.
  static Pace Seconds(double seconds, std::vector<PaceDecision> recorded = {});

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
