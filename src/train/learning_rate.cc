// Schedules as functions of the share of the run.
#include "adder/train/learning_rate.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace adder {

double LearningRate(const TrainConfig::Schedule& schedule, double peak, int64_t step,
                    StepSpan span) {
  const bool warmup_in_steps = schedule.warmup >= 1.0;
  if (schedule.warmup > 0.0) {
    const double warm = warmup_in_steps ? static_cast<double>(step + 1) / schedule.warmup
                                        : span.end / schedule.warmup;
    if (warm < 1.0) return peak * warm;
  }
  if (schedule.kind == ScheduleKind::kConstant) return peak;
  double left = 0.0;  // of the way from peak to min
  if (schedule.kind == ScheduleKind::kCosine) {
    // A warm-up in steps is short, and the length of a run by time is not known: the cosine then
    // spans the whole run.
    const double begin = warmup_in_steps ? 0.0 : schedule.warmup;
    const double decayed = std::clamp((span.begin - begin) / (1.0 - begin), 0.0, 1.0);
    left = (1.0 + std::cos(std::numbers::pi * decayed)) / 2.0;
  } else {
    left = schedule.decay <= 0.0 ? 1.0 : std::clamp((1.0 - span.begin) / schedule.decay, 0.0, 1.0);
  }
  return schedule.min_lr + (peak - schedule.min_lr) * left;
}

}  // namespace adder
