// A training run from its config to its model: data, model, steps, evaluations, checkpoints,
// metrics. What `adder train` does, without a terminal.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "adder/core/device.h"
#include "adder/train/metrics.h"
#include "adder/train/train_config.h"

namespace adder {

// What is known when a run begins or goes on.
struct TrainingStart {
  int64_t parameters = 0;            // trained numbers
  int64_t train_bytes = 0;           // of training text
  int64_t train_tokens = 0;          // it became; as many as bytes without a tokenizer
  int64_t valid_bytes = 0;           // read at each evaluation; 0: none
  int64_t step = 0;                  // already done
  std::filesystem::path checkpoint;  // gone on from; empty: begun anew
  Device device;                     // trained on
};

// Where a run stands after a step.
struct TrainingProgress {
  StepMetrics metrics;
  double share = 0.0;         // of the run
  int64_t total_steps = 0;    // as far as it is known; 0: not yet
  double seconds_left = 0.0;  // estimated
};

// Called from the training thread; all may be empty.
struct TrainingObserver {
  std::function<void(int64_t bytes, int64_t total)> on_tokenizing;  // before the start
  std::function<void(const TrainingStart&)> on_start;
  std::function<void(const TrainingProgress&)> on_step;
  std::function<void(int64_t bytes, int64_t total)> on_evaluating;
  std::function<void(const EvaluationMetrics&)> on_evaluation;
};

struct TrainingOutcome {
  bool stopped = false;  // by `stop`, after a checkpoint; false: the run is complete
  int64_t steps = 0;
  int64_t tokens = 0;
  double elapsed = 0.0;
  std::optional<EvaluationMetrics> last_evaluation;
  std::optional<EvaluationMetrics> best_evaluation;
  std::filesystem::path checkpoint;  // the newest
  std::filesystem::path model;       // the result's directory; empty when stopped
};

// Trains in `folder` (see run_folder.h). Without `resume` the folder must not hold a run, or parts
// of one, yet; with it the run goes on from its newest checkpoint, or from its beginning when it
// has none. A run that goes on gives bit for bit the weights, the optimizer and the losses of one
// that was never stopped, given the same config, text, device, threads and processor.
//
// model/ is written at every evaluation that is the best so far, or at the end when there is no
// validation text. Once *stop is true, the step in progress is finished, a checkpoint written, and
// the outcome says so.
//
// Throws kInvalidArgument, kNotFound, kIo, kCorrupt for config, text and folder; kNumeric when loss
// or gradient are not finite: the step is not applied, or when weights are not: they are not saved.
// The message names the newest checkpoint with finite weights. What fails before training begins
// leaves no folder behind.
TrainingOutcome RunTraining(const TrainConfig& config, const std::filesystem::path& folder,
                            bool resume, const TrainingObserver& observer = {},
                            const std::atomic<bool>* stop = nullptr);

}  // namespace adder
