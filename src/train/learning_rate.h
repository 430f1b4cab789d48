// The learning rate of a step: linear warm-up, then cosine, constant or warm-up-stable-decay (WSD).
#pragma once

#include <cstdint>

#include "adder/train/train_config.h"

namespace adder {

// Where a step stands in its run, as shares of it: 0 before the first step, 1 after the last.
struct StepSpan {
  double begin = 0.0;
  double end = 0.0;
};

// With p the share before the step, and w the end of the warm-up:
//     during warm-up        peak · (share of the warm-up done after the step)
//     cosine                min + (peak - min) · (1 + cos(π · (p - w) / (1 - w))) / 2
//     wsd                   peak until p = 1 - decay, then linearly to min
// `step` counts from 0; it matters only to a warm-up given in steps.
double LearningRate(const TrainConfig::Schedule& schedule, double peak, int64_t step,
                    StepSpan span);

}  // namespace adder
