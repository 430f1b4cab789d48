// The training step: batches through the tape, gradients clipped, AdamW; and the optimizer's part
// of a checkpoint. Knows nothing of time, files of a run or schedules.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "adder/core/tensor.h"
#include "adder/data/batch_sampler.h"
#include "adder/data/training_corpus.h"
#include "adder/models/language_model.h"
#include "adder/train/recorded_step.h"
#include "adder/train/segmented_backward.h"
#include "adder/train/train_config.h"

namespace adder {

class Trainer {
 public:
  struct StepResult {
    double loss = 0.0;           // nats per token, the mean over the step's targets
    double gradient_norm = 0.0;  // before clipping
  };

  // Model and corpus must outlive the trainer; the model's parameters have values, and stay where
  // they are. Throws kInvalidArgument for a config out of its range, kUnsupported for one that
  // carries or cuts the memory of a model with attention.
  Trainer(LanguageModel& model, const TrainingCorpus& corpus, const TrainConfig& config);
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  // One optimizer step at learning rate `lr`. Throws kNumeric, and leaves weights, optimizer and
  // carried state as they were, when the loss or the gradient is not finite.
  //
  // On a CUDA device all of a step (forward, backward, clipping, AdamW, the weights' copies in the
  // compute dtype, the memory that streams carry) is recorded as one graph, which repeats steps
  // whose batches are laid out as those of the step before, for the same bits; see RecordedStep.
  // Others are asked for operator by operator, and so are all steps of models with attention and of
  // rows in segments.
  StepResult Step(double lr);

  // Steps of this trainer that were repetitions of a recorded one.
  int64_t repeated_steps() const { return recorded_.repeated(); }
  // Asks for all steps operator by operator from now on.
  void DisableRecording() { recorded_.Disable(); }

  // Whether all weights and all of the optimizer's numbers are finite: a step can be finite itself
  // and still leave a number that overflows.
  bool Finite() const;

  // Optimizer steps, and tokens read, so far.
  int64_t steps() const { return steps_; }
  int64_t tokens() const { return tokens_; }

  // Writes optimizer.safetensors (m.NAME, v.NAME of every parameter) and, when the state is carried
  // from step to step, carried.safetensors into the folder. Throws kIo.
  void Save(const std::filesystem::path& folder) const;
  // Goes on after `steps` steps that read `tokens` tokens. Throws kNotFound, kIo, kCorrupt; the
  // model's parameters are the caller's to restore.
  void Load(const std::filesystem::path& folder, int64_t steps, int64_t tokens);

 private:
  // The memory of one batch's streams: per entry of the model's state, f32 [streams, ...].
  using Carried = std::vector<Tensor>;

  // What the sequences of a batch begin with; undefined variables never.
  Memory BeginningMemory(const Batch& batch) const;
  // What the streams of a batch end with.
  Carried EndingMemory(const Batch& batch, const Memory& memory) const;
  // All that a step computes. Changes the model and the optimizer, unless a number is not finite.
  StepOutputs Compute(const StepInputs& inputs);

  LanguageModel& model_;
  TrainConfig::Train options_;
  TrainConfig::Optimizer optimizer_;
  BatchSampler sampler_;
  std::optional<SegmentedBackward> segmented_;  // where train.segment asks for it
  std::vector<Tensor> m_;
  std::vector<Tensor> v_;
  std::vector<Carried> carried_;  // per batch of a step; empty without truncated backpropagation
  int64_t steps_ = 0;
  int64_t tokens_ = 0;
  RecordedStep recorded_;
};

}  // namespace adder
