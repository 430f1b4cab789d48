// A time budget is met at changing speeds, the share of the run grows evenly to 1, and the record
// gives the same run again.
#include "adder/train/pace.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "adder/core/error.h"

namespace adder {
namespace {

struct Simulation {
  std::vector<StepSpan> spans;
  std::vector<PaceDecision> decisions;
  double elapsed = 0.0;
};

Simulation Simulate(Pace pace, const std::function<double(int64_t)>& step_seconds,
                    int64_t first_step = 0, double elapsed = 0.0) {
  Simulation run;
  run.elapsed = elapsed;
  for (int64_t step = first_step; step < 1'000'000; ++step) {
    if (const PaceDecision* decision = pace.Observe(step, run.elapsed)) {
      run.decisions.push_back(*decision);
    }
    if (pace.Done(step)) {
      if (const PaceDecision* end = pace.End(step, run.elapsed)) run.decisions.push_back(*end);
      break;
    }
    run.spans.push_back(pace.At(step));
    run.elapsed += step_seconds(step);
  }
  return run;
}

void CheckSpans(const std::vector<StepSpan>& spans) {
  EXPECT_EQ(spans.front().begin, 0.0);
  for (size_t i = 1; i < spans.size(); ++i) {
    EXPECT_GE(spans[i].begin, spans[i - 1].begin);
    EXPECT_GE(spans[i].end, spans[i].begin);
    EXPECT_NEAR(spans[i].begin, spans[i - 1].end, 1e-12);
  }
  EXPECT_NEAR(spans.back().end, 1.0, 1e-12);
}

TEST(PaceTest, StepsAreAQuotient) {
  Pace pace = Pace::Steps(8);
  EXPECT_EQ(pace.Observe(3, 100.0), nullptr);
  EXPECT_EQ(pace.At(2).begin, 0.25);
  EXPECT_EQ(pace.At(2).end, 0.375);
  EXPECT_FALSE(pace.Done(7));
  EXPECT_TRUE(pace.Done(8));
  EXPECT_EQ(pace.TotalSteps(0), 8);
}

TEST(PaceTest, MeetsTheTimeAtSteadyAndChangingSpeed) {
  const std::vector<std::function<double(int64_t)>> speeds = {
      [](int64_t step) { return step == 0 ? 3.0 : 0.05; },
      [](int64_t) { return 0.9; },
      // A neighbour takes the machine for a while.
      [](int64_t step) { return step > 300 && step < 500 ? 0.12 : 0.04; },
      // Ever slower.
      [](int64_t step) { return 0.02 + 0.00003 * static_cast<double>(step); },
      [](int64_t step) { return 0.05 * (1.0 + 0.9 * std::sin(static_cast<double>(step) * 1.7)); },
  };
  for (size_t i = 0; i < speeds.size(); ++i) {
    const Simulation run = Simulate(Pace::Seconds(60.0), speeds[i]);
    CheckSpans(run.spans);
    // The last estimates are made in the last hundredths of the time.
    EXPECT_NEAR(run.elapsed, 60.0, 1.5) << "speed " << i;
  }
}

TEST(PaceTest, StepsLongerThanTheBudgetStillEnd) {
  const Simulation run = Simulate(Pace::Seconds(1.0), [](int64_t) { return 10.0; });
  EXPECT_EQ(run.spans.size(), 3u);
  EXPECT_NEAR(run.spans.back().end, 1.0, 1e-12);
}

TEST(PaceTest, TheRecordGivesTheSameRunAgain) {
  const auto noisy = [](int64_t step) { return 0.05 * (1.2 + std::sin(double(step))); };
  const Simulation whole = Simulate(Pace::Seconds(60.0), noisy);
  ASSERT_GT(whole.decisions.size(), 5u);
  // Again from step 100 at other speeds: the recorded decisions are followed, and no other is made.
  double elapsed = 0.0;
  for (int64_t step = 0; step < 100; ++step) elapsed += noisy(step);
  for (const double factor : {0.3, 1.0, 3.0}) {
    const Simulation again = Simulate(
        Pace::Seconds(60.0, whole.decisions), [&](int64_t step) { return noisy(step) * factor; },
        100, elapsed);
    ASSERT_EQ(again.spans.size() + 100, whole.spans.size());
    for (size_t i = 0; i < again.spans.size(); ++i) {
      EXPECT_EQ(again.spans[i].begin, whole.spans[i + 100].begin) << i;
      EXPECT_EQ(again.spans[i].end, whole.spans[i + 100].end) << i;
    }
    EXPECT_TRUE(again.decisions.empty());
  }
}

TEST(PaceTest, AnotherBudgetDecidesAnew) {
  const auto steady = [](int64_t) { return 0.1; };
  const Simulation whole = Simulate(Pace::Seconds(60.0), steady);
  const auto step = static_cast<int64_t>(whole.spans.size());
  // More time after the end: from the share that 60 of 240 seconds are.
  Pace longer = Pace::Seconds(240.0, whole.decisions, step, 60.0);
  EXPECT_EQ(longer.decisions().back(),
            (PaceDecision{step, 0.25, 1800, 60.0, 240.0}));  // 0.1 s a step for 180 s
  const Simulation more = Simulate(longer, steady, step, 60.0);
  EXPECT_NEAR(more.elapsed, 240.0, 1.0);
  EXPECT_EQ(more.spans.front().begin, 0.25);
  EXPECT_NEAR(more.spans.back().end, 1.0, 1e-12);
  // In the middle: what was decided for later steps no longer counts.
  const Pace shorter = Pace::Seconds(30.0, whole.decisions, 100, 10.0);
  EXPECT_EQ(shorter.decisions().back().step, 100);
  EXPECT_EQ(shorter.TotalSteps(100), 300);
  // Time that is over.
  EXPECT_TRUE(Pace::Seconds(5.0, whole.decisions, 100, 10.0).Done(100));
  // The same budget: the record is followed.
  const Pace same = Pace::Seconds(60.0, whole.decisions, 100, 10.0);
  EXPECT_EQ(same.decisions().size(), whole.decisions.size());
}

TEST(PaceTest, CountedStepsGoOnByTime) {
  const auto steady = [](int64_t) { return 0.1; };
  const Pace pace = Pace::Seconds(60.0, {}, 100, 10.0);
  ASSERT_EQ(pace.decisions().size(), 1u);
  EXPECT_EQ(pace.decisions().front(), (PaceDecision{100, 10.0 / 60.0, 500, 10.0, 60.0}));
  const Simulation run = Simulate(pace, steady, 100, 10.0);
  EXPECT_EQ(run.spans.front().begin, 10.0 / 60.0);
  EXPECT_NEAR(run.spans.back().end, 1.0, 1e-12);
  EXPECT_NEAR(run.elapsed, 60.0, 1.0);
  // Time that is over; and a run by time that has decided nothing yet.
  EXPECT_TRUE(Pace::Seconds(5.0, {}, 100, 10.0).Done(100));
  EXPECT_TRUE(Pace::Seconds(60.0, {}, 1, 1.0).decisions().empty());
}

TEST(PaceTest, AnEstimateThatIsFarTooLowDoesNotEndTheRun) {
  // Five seconds a step so far; then a hundredth.
  const Simulation run = Simulate(
      Pace::Seconds(100.0, {}, 10, 50.0), [](int64_t) { return 0.01; }, 10, 50.0);
  EXPECT_NEAR(run.elapsed, 100.0, 1.5);
  EXPECT_NEAR(run.spans.back().end, 1.0, 1e-12);
  for (size_t i = 1; i < run.spans.size(); ++i)
    EXPECT_GE(run.spans[i].begin, run.spans[i - 1].begin);
}

TEST(PaceTest, LinesReadBack) {
  const PaceDecision a = {2, 0.1, 40, 1.0 / 3.0, 60.0};
  const PaceDecision b = {5, 1.0, 0, 60.5, 60.0};
  const std::string text = ToJsonLine(a) + ToJsonLine(b);
  EXPECT_EQ(ParsePace(text, "pace"), (std::vector{a, b}));
  EXPECT_EQ(ParsePace(text.substr(0, text.size() - 5), "pace"), std::vector{a});
  EXPECT_THROW(ParsePace(ToJsonLine(b) + ToJsonLine(a), "pace"), Error);
  EXPECT_THROW(ParsePace("{}\n", "pace"), Error);
}

}  // namespace
}  // namespace adder
