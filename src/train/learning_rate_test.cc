// Schedules at their corners.
#include "adder/train/learning_rate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

namespace adder {
namespace {

constexpr double kPeak = 2.0;

double Rate(const TrainConfig::Schedule& schedule, int64_t step, int64_t steps) {
  const auto n = static_cast<double>(steps);
  return LearningRate(schedule, kPeak, step,
                      {static_cast<double>(step) / n, static_cast<double>(step + 1) / n});
}

TEST(LearningRateTest, WarmsUpLinearly) {
  for (const double warmup : {0.1, 10.0}) {
    const TrainConfig::Schedule schedule = {ScheduleKind::kConstant, warmup, 0.0, 0.0};
    for (int64_t step = 0; step < 10; ++step) {
      EXPECT_NEAR(Rate(schedule, step, 100), kPeak * static_cast<double>(step + 1) / 10.0, 1e-12);
    }
    EXPECT_EQ(Rate(schedule, 99, 100), kPeak);
  }
}

TEST(LearningRateTest, CosineFallsFromPeakToMinimum) {
  const TrainConfig::Schedule schedule = {ScheduleKind::kCosine, 0.2, 0.0, 0.5};
  EXPECT_NEAR(Rate(schedule, 200, 1000), kPeak, 1e-12);
  EXPECT_NEAR(Rate(schedule, 600, 1000), (kPeak + 0.5) / 2.0, 1e-12);
  const double end = (1.0 + std::cos(std::numbers::pi * 799.0 / 800.0)) / 2.0;
  EXPECT_NEAR(Rate(schedule, 999, 1000), 0.5 + 1.5 * end, 1e-12);
  for (int64_t step = 200; step < 999; ++step) {
    EXPECT_GT(Rate(schedule, step, 1000), Rate(schedule, step + 1, 1000));
  }
}

TEST(LearningRateTest, WsdStaysThenDecaysLinearly) {
  const TrainConfig::Schedule schedule = {ScheduleKind::kWsd, 0.0, 0.25, 0.4};
  EXPECT_EQ(Rate(schedule, 0, 100), kPeak);
  EXPECT_EQ(Rate(schedule, 75, 100), kPeak);
  EXPECT_NEAR(Rate(schedule, 85, 100), 0.4 + 1.6 * 0.6, 1e-12);
  EXPECT_NEAR(Rate(schedule, 99, 100), 0.4 + 1.6 * 0.04, 1e-12);
}

TEST(LearningRateTest, NoWarmUpStartsAtThePeak) {
  EXPECT_EQ(Rate({ScheduleKind::kCosine, 0.0, 0.0, 0.0}, 0, 10), kPeak);
}

}  // namespace
}  // namespace adder
