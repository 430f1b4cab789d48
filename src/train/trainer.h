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
#include "adder/train/segmented_backward.h"
#include "adder/train/train_config.h"

namespace adder {

class Trainer {
 public:
  struct StepResult {
    double loss = 0.0;           // nats per token, the mean over the step's targets
    double gradient_norm = 0.0;  // before clipping
  };

  // Model and corpus must outlive the trainer; the model's parameters have values. Throws
  // kInvalidArgument for a config out of its range, kUnsupported for one that carries or cuts the
  // memory of a model with attention.
  Trainer(LanguageModel& model, const TrainingCorpus& corpus, const TrainConfig& config);

  // One optimizer step at learning rate `lr`. Throws kNumeric, and leaves weights, optimizer and
  // carried state as they were, when the loss or the gradient is not finite.
  StepResult Step(double lr);

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
};

}  // namespace adder
