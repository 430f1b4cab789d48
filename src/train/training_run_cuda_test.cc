// Training on a CUDA device: the losses of the CPU, and runs that repeat, stop and go on bit for
// bit.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "adder/backend/cuda/cuda_test.h"
#include "adder/core/error.h"
#include "adder/data/byte_corpus.h"
#include "adder/formats/file.h"
#include "adder/models/block_language_model.h"
#include "adder/ops/operator_test.h"
#include "adder/train/trainer.h"
#include "adder/train/training_run.h"
#include "adder/train/training_run_cases_test.h"
#include "tests/temporary_directory.h"

namespace adder {
namespace {

namespace fs = std::filesystem;
using test::ExpectSameRun;
using test::kCuda;
using test::RunResultOf;
using test::TextOfWords;

class TrainingRunCudaTest : public test::CudaTest {
 protected:
  void SetUp() override {
    test::CudaTest::SetUp();
    std::ofstream(folder_ / "text") << TextOfWords(600);
  }

  TrainConfig Config() const {
    TrainConfig config;
    config.model.dimensions.d_model = 32;
    config.model.dimensions.n_layer = 2;
    config.model.dimensions.d_state = 4;
    config.data.train = {(folder_ / "text").string()};
    config.data.valid_fraction = 0.1;
    config.train.steps = 14;
    config.train.batch = 2;
    config.train.length = 40;
    config.train.seed = 3;
    config.train.device = "cuda";
    config.optimizer.lr = 1e-2;
    config.eval.every = 4;
    config.eval.bytes = 200;
    config.checkpoint.every_steps = 3;
    return config;
  }
  // Every way of computing that keeps something from step to step.
  std::vector<TrainConfig> Variants() const {
    std::vector<TrainConfig> variants(4, Config());
    variants[1].train.truncated_backpropagation = true;
    variants[1].train.gradient_accumulation = 2;
    variants[1].data.separator = "\n";
    variants[1].train.dtype = DType::kBF16;
    variants[2].data.packing = Packing::kDocuments;
    variants[2].data.separator = "\n";
    variants[2].train.recompute = Recompute::kScan;
    variants[3].train.truncated_backpropagation = true;
    variants[3].train.segment = 16;
    variants[3].data.separator = "\n";
    return variants;
  }

  TemporaryDirectory directory_;
  const fs::path folder_ = directory_.path();
};

TEST_F(TrainingRunCudaTest, TwentyStepsAreThoseOfTheCpu) {
  const fs::path text = folder_ / "text";
  const ByteCorpus corpus = ByteCorpus::Open({&text, 1});
  ModelConfig mamba2 = Config().model.dimensions;
  mamba2.architecture = Architecture::kMamba2;
  mamba2.head_dim = 16;
  mamba2.d_state = 16;
  for (ModelConfig dimensions : {Config().model.dimensions, mamba2}) {
    dimensions.vocab_size = 256;
    dimensions.Resolve();
    for (TrainConfig config : Variants()) {
      config.train.dtype = DType::kF32;
      std::vector<std::vector<Trainer::StepResult>> runs;
      for (const Device device : {Device{}, kCuda}) {
        BlockLanguageModel model(dimensions, DType::kF32);
        model.MoveTo(device);
        InitializeModel(model, 5);
        Trainer trainer(model, corpus, config);
        auto& run = runs.emplace_back();
        for (int step = 0; step < 20; ++step) run.push_back(trainer.Step(1e-3));
        EXPECT_TRUE(trainer.Finite());
        EXPECT_EQ(model.parameters().front().value.device(), device);
      }
      for (size_t step = 0; step < 20; ++step) {
        EXPECT_NEAR(runs[1][step].loss, runs[0][step].loss, 1e-4 * runs[0][step].loss)
            << "step " << step;
        EXPECT_NEAR(runs[1][step].gradient_norm, runs[0][step].gradient_norm,
                    1e-3 * runs[0][step].gradient_norm)
            << "step " << step;
      }
    }
  }
}

TEST_F(TrainingRunCudaTest, OneSeedIsOneRun) {
  for (const TrainConfig& config : Variants()) {
    fs::remove_all(folder_ / "a");
    fs::remove_all(folder_ / "b");
    RunTraining(config, folder_ / "a", false);
    RunTraining(config, folder_ / "b", false);
    ExpectSameRun(RunResultOf(folder_ / "a"), RunResultOf(folder_ / "b"));
    const std::string written = ReadFile(folder_ / "a" / "config.toml");
    EXPECT_NE(written.find("device = \"cuda:0\""), std::string::npos);
  }
}

TEST_F(TrainingRunCudaTest, ARunThatGoesOnIsTheOneThatWasNeverStopped) {
  for (const TrainConfig& config : Variants()) {
    fs::remove_all(folder_ / "whole");
    fs::remove_all(folder_ / "parts");
    RunTraining(config, folder_ / "whole", false);
    std::atomic<bool> stop = false;
    TrainingObserver observer;
    observer.on_step = [&](const TrainingProgress& progress) { stop = progress.metrics.step == 5; };
    EXPECT_TRUE(RunTraining(config, folder_ / "parts", false, observer, &stop).stopped);
    RunTraining(config, folder_ / "parts", true);
    ExpectSameRun(RunResultOf(folder_ / "parts"), RunResultOf(folder_ / "whole"));
  }
}

TEST_F(TrainingRunCudaTest, ARunGoesOnOnTheOtherDevice) {
  for (TrainConfig config : Variants()) {
    config.train.dtype = DType::kF32;
    for (const char* first : {"cpu", "cuda"}) {
      fs::remove_all(folder_ / "whole");
      fs::remove_all(folder_ / "parts");
      config.train.device = "cpu";
      const TrainingOutcome whole = RunTraining(config, folder_ / "whole", false);
      config.train.device = first;
      std::atomic<bool> stop = false;
      TrainingObserver observer;
      observer.on_step = [&](const TrainingProgress& progress) {
        stop = progress.metrics.step == 5;
      };
      RunTraining(config, folder_ / "parts", false, observer, &stop);
      config.train.device = std::string(first) == "cpu" ? "cuda" : "cpu";
      const TrainingOutcome parts = RunTraining(config, folder_ / "parts", true);
      ASSERT_TRUE(whole.last_evaluation && parts.last_evaluation);
      EXPECT_NEAR(parts.last_evaluation->bits_per_byte, whole.last_evaluation->bits_per_byte, 1e-2);
    }
  }
}

// Some steps of training, recorded and operator by operator: the same bits.
void ExpectSameRecorded(ModelConfig dimensions, const TrainConfig& config, const fs::path& text,
                        bool repeats) {
  dimensions.vocab_size = 256;
  dimensions.Resolve();
  const ByteCorpus corpus = ByteCorpus::Open({&text, 1}, config.data.separator);
  std::vector<std::vector<Trainer::StepResult>> runs;
  std::vector<std::vector<Tensor>> weights;
  for (const bool recorded : {false, true}) {
    BlockLanguageModel model(dimensions, config.train.dtype);
    model.MoveTo(kCuda);
    InitializeModel(model, 5);
    Trainer trainer(model, corpus, config);
    if (!recorded) trainer.DisableRecording();
    auto& run = runs.emplace_back();
    for (int step = 0; step < 10; ++step) run.push_back(trainer.Step(1e-3 * (1 + step)));
    EXPECT_EQ(trainer.repeated_steps() > 0, recorded && repeats);
    auto& end = weights.emplace_back();
    for (const Parameter& p : model.parameters()) {
      end.push_back(test::OnCpu(p.value));
      end.push_back(test::OnCpu(p.compute));
    }
  }
  for (size_t step = 0; step < runs[0].size(); ++step) {
    EXPECT_EQ(runs[1][step].loss, runs[0][step].loss) << "step " << step;
    EXPECT_EQ(runs[1][step].gradient_norm, runs[0][step].gradient_norm) << "step " << step;
  }
  for (size_t i = 0; i < weights[0].size(); ++i) {
    EXPECT_TRUE(test::SameBits(weights[1][i], weights[0][i])) << "tensor " << i;
  }
}

// Steps that repeat a recording, and those between them that are laid out otherwise, are the steps
// asked for operator by operator.
TEST_F(TrainingRunCudaTest, RecordedStepsAreThoseAskedForOneByOne) {
  std::ofstream(folder_ / "text") << TextOfWords(6000);
  ModelConfig mamba2 = Config().model.dimensions;
  mamba2.architecture = Architecture::kMamba2;
  mamba2.head_dim = 16;
  mamba2.d_state = 16;
  TrainConfig carried = Variants()[1];  // one document: borders are rare
  carried.data.separator.clear();
  TrainConfig recomputed = Config();
  recomputed.train.recompute = Recompute::kBlock;
  recomputed.train.dtype = DType::kBF16;
  for (const ModelConfig& dimensions : {Config().model.dimensions, mamba2}) {
    ExpectSameRecorded(dimensions, Config(), folder_ / "text", true);
    ExpectSameRecorded(dimensions, carried, folder_ / "text", true);
    ExpectSameRecorded(dimensions, recomputed, folder_ / "text", true);
    ExpectSameRecorded(dimensions, Variants()[1], folder_ / "text", false);
  }
}

// Of more than a GiB: its memory is planned.
TEST_F(TrainingRunCudaTest, LargeRecordedStepsAreThoseAskedForOneByOne) {
  std::ofstream(folder_ / "text") << TextOfWords(6000);
  TrainConfig config = Config();
  config.model.dimensions.d_model = 256;
  config.model.dimensions.n_layer = 8;
  config.train.batch = 8;
  config.train.length = 2048;
  ExpectSameRecorded(config.model.dimensions, config, folder_ / "text", true);
}

TEST_F(TrainingRunCudaTest, ARecordedStepThatIsNotFiniteChangesNothing) {
  const fs::path text = folder_ / "text";
  const ByteCorpus corpus = ByteCorpus::Open({&text, 1});
  ModelConfig dimensions = Config().model.dimensions;
  dimensions.vocab_size = 256;
  BlockLanguageModel model(dimensions, DType::kBF16);
  model.MoveTo(kCuda);
  InitializeModel(model, 5);
  Trainer trainer(model, corpus, Config());
  for (int step = 0; step < 5; ++step) trainer.Step(1e-3);
  EXPECT_EQ(trainer.repeated_steps(), 3);
  const auto state = [&](const char* name) {
    fs::create_directories(folder_ / name);
    trainer.Save(folder_ / name);
    std::string bytes = ReadFile(folder_ / name / "optimizer.safetensors");
    for (const Parameter& p : std::as_const(model).parameters()) {
      const Tensor host = test::OnCpu(p.value);
      bytes.append(static_cast<const char*>(host.raw()), static_cast<size_t>(host.bytes()));
    }
    return bytes;
  };
  const Parameter& p = model.parameters()[3];
  const Tensor good = p.value.Clone();
  const Tensor bad = test::OnCpu(good);
  bad.data<float>()[0] = INFINITY;
  p.value.CopyFrom(bad);
  model.ParametersChanged();
  const std::string before = state("before");
  EXPECT_THROW(trainer.Step(1e-3), Error);
  EXPECT_EQ(trainer.repeated_steps(), 4);
  EXPECT_EQ(trainer.steps(), 5);
  EXPECT_TRUE(state("after") == before);
  p.value.CopyFrom(good);
  model.ParametersChanged();
  const uint64_t fingerprint = model.fingerprint();
  EXPECT_TRUE(std::isfinite(trainer.Step(1e-3).loss));
  EXPECT_EQ(trainer.steps(), 6);
  EXPECT_NE(model.fingerprint(), fingerprint);
}

TEST_F(TrainingRunCudaTest, WhatIsNotFiniteIsSeenThere) {
  const fs::path text = folder_ / "text";
  const ByteCorpus corpus = ByteCorpus::Open({&text, 1});
  ModelConfig dimensions = Config().model.dimensions;
  dimensions.vocab_size = 256;
  BlockLanguageModel model(dimensions, DType::kF32);
  model.MoveTo(kCuda);
  InitializeModel(model, 5);
  Trainer trainer(model, corpus, Config());
  EXPECT_TRUE(trainer.Finite());
  Parameter& p = model.parameters()[3];
  const Tensor host = p.value.To(Device{});
  host.data<float>()[0] = INFINITY;
  p.value.CopyFrom(host);
  model.ParametersChanged();
  EXPECT_FALSE(trainer.Finite());
  EXPECT_THROW(trainer.Step(1e-3), Error);
  EXPECT_EQ(trainer.steps(), 0);
}

}  // namespace
}  // namespace adder
