// Whole runs of a tiny model: repeated, stopped, killed, resumed, out of numbers and out of disk.
#include "adder/train/training_run.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <numbers>
#include <thread>

#include "adder/core/error.h"
#include "adder/core/random.h"
#include "adder/data/byte_corpus.h"
#include "adder/formats/file.h"
#include "adder/formats/safetensors.h"
#include "adder/formats/tensorboard.h"
#include "adder/models/checkpoint.h"
#include "adder/text/bpe_trainer.h"
#include "adder/text/tokenizer.h"
#include "adder/train/trainer.h"
#include "adder/train/training_run_cases_test.h"
#include "tests/own_filesystem.h"
#include "tests/temporary_directory.h"

namespace adder {
namespace {

namespace fs = std::filesystem;
using test::ExpectSameRun;
using test::RunResult;
using test::RunResultOf;
using test::TextOfWords;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// Where the child of the kill test trains; see KilledAtAnyMoment.
constexpr const char* kChildFolder = "ADDER_TRAINING_RUN_TEST_CHILD";
// The small filesystem of another; see AFullFilesystemIsAFullDisk.
constexpr const char* kFullDiskFolder = "ADDER_TRAINING_RUN_TEST_DISK";

TrainConfig TinyConfig(const fs::path& text) {
  TrainConfig config;
  config.model.dimensions.d_model = 16;
  config.model.dimensions.n_layer = 2;
  config.model.dimensions.d_state = 4;
  config.data.train = {text.string()};
  config.data.valid_fraction = 0.1;
  config.train.steps = 14;
  config.train.batch = 2;
  config.train.length = 24;
  config.train.seed = 3;
  config.train.device = "cpu";
  config.optimizer.lr = 1e-2;
  config.eval.every = 4;
  config.eval.bytes = 200;
  config.checkpoint.every_steps = 3;
  return config;
}

class TrainingRunTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::ofstream(folder_ / "text") << TextOfWords(600);
    BpeTrainer trainer;
    trainer.Add(TextOfWords(600));
    BpeTrainingOptions options;
    options.vocab_size = 262;
    fs::create_directory(folder_ / "tokenizer");
    Tokenizer::FromVocabulary(trainer.Train(options), "trained")->Save(folder_ / "tokenizer");
  }

  TemporaryDirectory directory_;
  const fs::path folder_ = directory_.path();
};

template <class Call>
Error ErrorOf(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  return Error(ErrorCode::kUnsupported, "no error");
}

TEST_F(TrainingRunTest, LearnsAndLeavesEverything) {
  TrainConfig config = TinyConfig(folder_ / "text");
  config.train.steps = 60;
  config.checkpoint.every_steps = 20;
  config.checkpoint.keep = 2;
  int64_t steps = 0;
  double share = 0.0;
  TrainingObserver observer;
  observer.on_step = [&](const TrainingProgress& progress) {
    EXPECT_EQ(progress.metrics.step, ++steps);
    EXPECT_GT(progress.share, share);
    share = progress.share;
  };
  const fs::path run = folder_ / "run";
  const TrainingOutcome outcome = RunTraining(config, run, false, observer);
  EXPECT_FALSE(outcome.stopped);
  EXPECT_EQ(steps, 60);
  EXPECT_EQ(share, 1.0);
  EXPECT_EQ(outcome.tokens, 60 * 2 * 24);
  ASSERT_TRUE(outcome.best_evaluation && outcome.last_evaluation);
  // 8 bits untrained; the text has 22 different bytes at all.
  EXPECT_LT(outcome.best_evaluation->bits_per_byte, 4.5);
  EXPECT_EQ(outcome.last_evaluation->step, 60);
  EXPECT_EQ(outcome.last_evaluation->bytes, 200);

  for (const char* name : {"config.toml", "metrics.jsonl", "loss.svg", "latest/trainer.json",
                           "model/config.json", "model/tokenizer_config.json"}) {
    EXPECT_TRUE(fs::exists(run / name)) << name;
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(run / "checkpoints"), {}), 2);
  EXPECT_EQ(LoadModel(outcome.model, DType::kF32)->config().d_model, 16);
  int64_t events = 0;
  for (const auto& entry : fs::directory_iterator(run)) {
    if (!entry.path().filename().string().starts_with("events.out")) continue;
    events += static_cast<int64_t>(ParseTensorBoardEvents(ReadFile(entry.path()), nullptr).size());
  }
  EXPECT_EQ(events, 60 + 15);
  // The config that was written gives the same run.
  const TrainConfig again = ReadTrainConfig(run / "config.toml");
  RunTraining(again, folder_ / "again", false);
  ExpectSameRun(RunResultOf(folder_ / "again"), RunResultOf(run));
}

// Every way of reading text and of computing that keeps something from step to step.
std::vector<TrainConfig> Variants(const fs::path& text) {
  std::vector<TrainConfig> variants(5, TinyConfig(text));
  variants[1].train.truncated_backpropagation = true;
  variants[1].train.gradient_accumulation = 2;
  variants[1].data.separator = "\n";
  variants[1].train.dtype = DType::kBF16;
  variants[2].data.packing = Packing::kDocuments;
  variants[2].data.separator = "\n";
  variants[2].train.recompute = Recompute::kBlock;
  variants[2].schedule.kind = ScheduleKind::kWsd;
  variants[3].data.tokenizer = (text.parent_path() / "tokenizer").string();
  variants[3].data.packing = Packing::kDocuments;
  variants[3].data.separator = "tree.\n";
  variants[3].train.length = 8;
  variants[4].train.truncated_backpropagation = true;
  variants[4].train.segment = 10;
  variants[4].data.separator = "tree.\n";
  return variants;
}

TEST_F(TrainingRunTest, OneSeedIsOneRun) {
  for (TrainConfig config : Variants(folder_ / "text")) {
    fs::remove_all(folder_ / "a");
    fs::remove_all(folder_ / "b");
    RunTraining(config, folder_ / "a", false);
    RunTraining(config, folder_ / "b", false);
    ExpectSameRun(RunResultOf(folder_ / "a"), RunResultOf(folder_ / "b"));
    fs::remove_all(folder_ / "b");
    config.train.seed += 1;
    RunTraining(config, folder_ / "b", false);
    EXPECT_NE(RunResultOf(folder_ / "a").metrics, RunResultOf(folder_ / "b").metrics);
  }
}

TEST_F(TrainingRunTest, StoppedAndResumedIsTheRunThatWasNeverStopped) {
  int variant = 0;
  for (const TrainConfig& config : Variants(folder_ / "text")) {
    SCOPED_TRACE(fmt::format("variant {}", variant++));
    const fs::path whole = folder_ / fmt::format("whole{}", variant);
    RunTraining(config, whole, false);
    const fs::path run = folder_ / fmt::format("run{}", variant);
    // Step 4 and 12 have an evaluation to be made up for; 14 is the end.
    for (const int64_t stop_at : {1, 4, 7, 12, 14}) {
      std::atomic<bool> stop = false;
      TrainingObserver observer;
      observer.on_step = [&](const TrainingProgress& progress) {
        stop = progress.metrics.step == stop_at;
      };
      const TrainingOutcome outcome = RunTraining(config, run, stop_at > 1, observer, &stop);
      EXPECT_TRUE(outcome.stopped);
      EXPECT_EQ(outcome.steps, stop_at);
      EXPECT_TRUE(outcome.model.empty());
    }
    const TrainingOutcome outcome = RunTraining(ReadTrainConfig(run / "config.toml"), run, true);
    EXPECT_FALSE(outcome.stopped);
    ExpectSameRun(RunResultOf(run), RunResultOf(whole));
    // Once more: nothing is left to do, and nothing changes.
    RunTraining(config, run, true);
    ExpectSameRun(RunResultOf(run), RunResultOf(whole));
  }
}

TEST_F(TrainingRunTest, SegmentsChangeRoundingAlone) {
  const fs::path text = folder_ / "text";
  const ByteCorpus corpus = ByteCorpus::Open({&text, 1});
  for (TrainConfig config : Variants(text)) {
    config.train.dtype = DType::kF32;
    std::vector<std::vector<Trainer::StepResult>> runs;
    for (const int64_t segment : {0, 7, 24, 30}) {
      config.train.segment = segment;
      ModelConfig dimensions = config.model.dimensions;
      dimensions.vocab_size = 256;
      BlockLanguageModel model(dimensions, DType::kF32);
      InitializeModel(model, 5);
      Trainer trainer(model, corpus, config);
      auto& run = runs.emplace_back();
      for (int step = 0; step < 10; ++step) run.push_back(trainer.Step(1e-3));
      for (size_t step = 0; step < run.size(); ++step) {
        EXPECT_NEAR(run[step].loss, runs[0][step].loss, 1e-5 * runs[0][step].loss)
            << "segment " << segment << ", step " << step;
        EXPECT_NEAR(run[step].gradient_norm, runs[0][step].gradient_norm,
                    1e-4 * runs[0][step].gradient_norm)
            << "segment " << segment << ", step " << step;
      }
    }
  }
}

TEST_F(TrainingRunTest, SegmentsNeedAMemoryOfFixedSize) {
  const fs::path text = folder_ / "text";
  const ByteCorpus corpus = ByteCorpus::Open({&text, 1});
  TrainConfig config = TinyConfig(text);
  ModelConfig dimensions = config.model.dimensions;
  dimensions.vocab_size = 256;
  dimensions.architecture = Architecture::kMamba2;
  dimensions.head_dim = 16;
  dimensions.attention_layers = {1};
  dimensions.attention.n_head = 2;
  BlockLanguageModel model(dimensions, DType::kF32);
  InitializeModel(model, 5);
  config.train.segment = 8;
  const Error error = ErrorOf([&] { Trainer(model, corpus, config); });
  EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
  EXPECT_THAT(error.what(), HasSubstr("a model with attention remembers every row"));
}

TEST_F(TrainingRunTest, TokensAreMadeOnceAndTheModelCarriesTheTokenizer) {
  TrainConfig config = TinyConfig(folder_ / "text");
  config.data.tokenizer = (folder_ / "tokenizer").string();
  config.train.steps = 60;
  config.train.length = 8;
  int64_t tokenized = 0;
  TrainingStart begun;
  TrainingObserver observer;
  observer.on_tokenizing = [&](int64_t, int64_t) { ++tokenized; };
  observer.on_start = [&](const TrainingStart& start) { begun = start; };
  double bits = 0.0;
  double loss = 0.0;
  observer.on_step = [&](const TrainingProgress& now) {
    bits = now.metrics.bits_per_byte;
    loss = now.metrics.loss;
  };
  const TrainingOutcome outcome = RunTraining(config, folder_ / "runs/a", false, observer);
  EXPECT_LT(begun.train_tokens, begun.train_bytes);
  const auto bytes_per_token =
      static_cast<double>(begun.train_bytes) / static_cast<double>(begun.train_tokens);
  EXPECT_NEAR(bits, loss / std::numbers::ln2 / bytes_per_token, 1e-12);
  ASSERT_TRUE(outcome.best_evaluation);
  EXPECT_LT(outcome.best_evaluation->bits_per_byte, 4.5);
  EXPECT_EQ(LoadModel(outcome.model, DType::kF32)->vocab_size(), 264);
  for (const char* directory : {"runs/a/model", "runs/a/latest"}) {
    EXPECT_EQ(ReadFile(folder_ / directory / "tokenizer.json"),
              ReadFile(folder_ / "tokenizer/tokenizer.json"));
  }
  const auto token_files = [&] {
    return std::distance(fs::directory_iterator(folder_ / "runs/tokens"), {});
  };
  EXPECT_EQ(token_files(), 1);
  const fs::path file = fs::directory_iterator(folder_ / "runs/tokens")->path();
  const auto written = fs::last_write_time(file);
  RunTraining(config, folder_ / "runs/b", false);
  EXPECT_EQ(fs::last_write_time(file), written);
  ExpectSameRun(RunResultOf(folder_ / "runs/a"), RunResultOf(folder_ / "runs/b"));
  // What is damaged is made again, and other text has other tokens.
  fs::resize_file(file, fs::file_size(file) - 1);
  RunTraining(config, folder_ / "runs/c", false);
  ExpectSameRun(RunResultOf(folder_ / "runs/a"), RunResultOf(folder_ / "runs/c"));
  EXPECT_EQ(token_files(), 1);
  std::ofstream(folder_ / "text", std::ios::app) << "the snake";
  RunTraining(config, folder_ / "runs/d", false);
  EXPECT_EQ(token_files(), 2);
  // A model of bytes does not fit, nor does this model without its tokenizer.
  TrainConfig other = config;
  other.data.tokenizer.clear();
  other.model.checkpoint = outcome.model.string();
  EXPECT_THAT(ErrorOf([&] { RunTraining(other, folder_ / "runs/e", false); }).what(),
              HasSubstr("264 tokens, expected the 256 bytes; data.tokenizer"));
  other.data.tokenizer = config.data.tokenizer;
  EXPECT_FALSE(RunTraining(other, folder_ / "runs/f", false).stopped);
}

// The child that is killed. Runs only where the test below starts it.
TEST(TrainingRunChild, Trains) {
  const char* folder = std::getenv(kChildFolder);
  if (folder == nullptr) GTEST_SKIP() << "started by TrainingRunTest.KilledAtAnyMoment";
  const fs::path run = fs::path(folder) / "killed";
  RunTraining(ReadTrainConfig(fs::path(folder) / "child.toml"), run,
              fs::exists(run / "config.toml"));
}

// Trains by `config`, killed again and again, in FOLDER/killed.
void TrainKilled(const TrainConfig& config, const fs::path& folder) {
  WriteFileAtomically(folder / "child.toml", TrainConfigToToml(config));
  ASSERT_EQ(setenv(kChildFolder, folder.c_str(), 1), 0);
  std::string self = fs::read_symlink("/proc/self/exe").string();
  std::string filter = "--gtest_filter=TrainingRunChild.Trains";
  char* arguments[] = {self.data(), filter.data(), nullptr};
  Random random(5);
  int kills = 0;
  bool done = false;
  for (int attempt = 0; attempt < 200 && !done; ++attempt) {
    pid_t child = 0;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    ASSERT_EQ(posix_spawn(&child, self.c_str(), &actions, nullptr, arguments, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    // Later and later, so that the run ends at some time however slow the machine is.
    const auto longest = 20 * (static_cast<uint64_t>(attempt) + 1);
    std::this_thread::sleep_for(std::chrono::milliseconds(5 + random.NextBelow(longest)));
    kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    kills += WIFSIGNALED(status);
    done = WIFEXITED(status);
    if (done) {
      EXPECT_EQ(WEXITSTATUS(status), 0);
    }
  }
  unsetenv(kChildFolder);
  EXPECT_TRUE(done);
  EXPECT_GT(kills, 0);
}

TEST_F(TrainingRunTest, KilledAtAnyMoment) {
  // With 7 the run's last checkpoint comes before its last evaluation.
  for (const int64_t every : {3, 7}) {
    SCOPED_TRACE(fmt::format("a checkpoint every {} steps", every));
    TrainConfig config = TinyConfig(folder_ / "text");
    config.checkpoint.every_steps = every;
    fs::remove_all(folder_ / "whole");
    fs::remove_all(folder_ / "killed");
    RunTraining(config, folder_ / "whole", false);
    ASSERT_NO_FATAL_FAILURE(TrainKilled(config, folder_));
    ExpectSameRun(RunResultOf(folder_ / "killed"), RunResultOf(folder_ / "whole"));
  }
}

TEST_F(TrainingRunTest, ATimeBudgetEndsAnnealedAndRepeatsByItsRecord) {
  TrainConfig config = TinyConfig(folder_ / "text");
  config.train.steps = 0;
  config.train.minutes = 0.01;
  config.checkpoint.keep = 100000;
  config.eval.every = 0;
  double last_lr = 1.0;
  double last_time = 0;
  double longest = 0;  // seconds of a step
  TrainingObserver observer;
  observer.on_step = [&](const TrainingProgress& progress) {
    last_lr = progress.metrics.lr;
    longest = std::max(longest, progress.metrics.elapsed - last_time);
    last_time = progress.metrics.elapsed;
  };
  const fs::path run = folder_ / "run";
  const TrainingOutcome outcome = RunTraining(config, run, false, observer);
  EXPECT_GE(outcome.elapsed, 0.3);
  EXPECT_GT(outcome.steps, 2);
  // The last step's rate is one step's part of the cosine above the minimum, however long the
  // machine held that up.
  const double part = longest / (60 * config.train.minutes);
  EXPECT_LT(last_lr, config.schedule.min_lr + config.optimizer.lr * std::max(0.01, 3 * part));
  const RunResult whole = RunResultOf(run);
  // Again from an early checkpoint.
  for (const auto& entry : fs::directory_iterator(run / "checkpoints")) {
    if (entry.path().filename() > "step-00000003") fs::remove_all(entry.path());
  }
  const TrainingOutcome again = RunTraining(config, run, true);
  EXPECT_EQ(again.steps, outcome.steps);
  ExpectSameRun(RunResultOf(run), whole);
}

TEST_F(TrainingRunTest, ARunOfStepsGoesOnByTimeAndBack) {
  TrainConfig config = TinyConfig(folder_ / "text");
  const fs::path run = folder_ / "run";
  TrainingObserver observer;
  double trained = 0.0;
  observer.on_step = [&](const TrainingProgress& progress) { trained = progress.metrics.elapsed; };
  const TrainingOutcome counted = RunTraining(config, run, false, observer);
  config.train.steps = 0;
  config.train.minutes = 0.01 + counted.elapsed / 60;
  double share = 1.0;
  observer.on_step = [&](const TrainingProgress& progress) {
    share = std::min(share, progress.share);
  };
  const TrainingOutcome timed = RunTraining(config, run, true, observer);
  EXPECT_GT(timed.steps, counted.steps);
  // What was done counts: no new warm-up.
  EXPECT_GE(share, trained / (60 * config.train.minutes));
  config.train.minutes = 0.0;
  config.train.steps = timed.steps + 3;
  EXPECT_EQ(RunTraining(config, run, true).steps, timed.steps + 3);
  EXPECT_FALSE(fs::exists(run / "pace.jsonl"));
}

TEST_F(TrainingRunTest, AFinishedRunGoesOnWithAnotherBudgetOfTime) {
  TrainConfig config = TinyConfig(folder_ / "text");
  config.train.steps = 0;
  config.train.minutes = 0.005;
  const fs::path run = folder_ / "run";
  const TrainingOutcome first = RunTraining(config, run, false);
  EXPECT_EQ(RunTraining(config, run, true).steps, first.steps);
  // However long the machine held it up.
  config.train.minutes = 4 * first.elapsed / 60;
  double share = 1.0;
  TrainingObserver observer;
  observer.on_step = [&](const TrainingProgress& progress) {
    share = std::min(share, progress.share);
  };
  const TrainingOutcome second = RunTraining(config, run, true, observer);
  EXPECT_GT(second.steps, first.steps);
  EXPECT_GE(second.elapsed, 2 * first.elapsed);
  EXPECT_LT(share, 0.6);  // it went on from where the time stood, about a quarter
  // Less time than has passed: nothing is left to do.
  config.train.minutes = second.elapsed / 2 / 60;
  EXPECT_EQ(RunTraining(config, run, true).steps, second.steps);
}

// After four good steps the rate becomes so large that the fifth leaves weights that are no
// numbers, although its own loss and gradient are finite.
class RunawayTest : public TrainingRunTest {
 protected:
  void SetUp() override {
    TrainingRunTest::SetUp();
    config_.schedule.kind = ScheduleKind::kConstant;
    config_.schedule.warmup = 0.0;
    config_.checkpoint.every_steps = 1;
    config_.checkpoint.keep = 100;
    config_.eval.every = 0;
    config_.train.steps = 4;
    RunTraining(config_, run_, false);
    config_.train.steps = 20;
    config_.optimizer.lr = 1e39;
  }

  void ExpectStopped(const std::string& what) {
    const Error error = ErrorOf([&] { RunTraining(config_, run_, true); });
    EXPECT_EQ(error.code(), ErrorCode::kNumeric);
    EXPECT_THAT(error.what(), AllOf(HasSubstr(what), HasSubstr("The last good checkpoint is"),
                                    HasSubstr("checkpoints/step-00000004; ")));
    EXPECT_FALSE(fs::exists(run_ / "checkpoints/step-00000006"));
  }

  TrainConfig config_ = TinyConfig(folder_ / "text");
  const fs::path run_ = folder_ / "run";
};

TEST_F(RunawayTest, WeightsThatAreNoNumbersAreNotSaved) {
  ExpectStopped("not finite after step 5");
  EXPECT_FALSE(fs::exists(run_ / "checkpoints/step-00000005"));
  EXPECT_EQ(fs::read_symlink(run_ / "latest").filename(), "step-00000004");
}

TEST_F(RunawayTest, TheStepThatMeetsThemIsNotApplied) {
  config_.checkpoint.every_steps = 100;
  ExpectStopped("of step 6 is");
  // Going on meets the same number at the same step.
  ExpectStopped("the step was not applied");
}

TEST_F(RunawayTest, TheEvaluationThatMeetsThemSaysSo) {
  config_.checkpoint.every_steps = 100;
  config_.eval.every = 5;
  ExpectStopped("evaluating after step 5: ");
}

TEST_F(RunawayTest, ABadCheckpointIsNotCalledGood) {
  config_.optimizer.lr = 1e-3;
  config_.train.steps = 5;
  RunTraining(config_, run_, true);
  const fs::path weights = run_ / "checkpoints/step-00000005/model.safetensors";
  std::vector<std::pair<std::string, Tensor>> tensors;
  const SafetensorsFile good = SafetensorsFile::Open(weights);
  for (const auto& [name, tensor] : good.tensors()) {
    tensors.emplace_back(name, tensor.Clone());
  }
  tensors.front().second.data<float>()[0] = std::numeric_limits<float>::quiet_NaN();
  WriteSafetensors(weights, tensors);
  config_.train.steps = 20;
  ExpectStopped("of step 6 is");
}

TEST_F(TrainingRunTest, EpsilonMustBePositive) {
  TrainConfig config = TinyConfig(folder_ / "text");
  config.optimizer.eps = 0.0;
  EXPECT_THAT(ErrorOf([&] { RunTraining(config, folder_ / "run", false); }).what(),
              HasSubstr("optimizer.eps is 0"));
  EXPECT_FALSE(fs::exists(folder_ / "run"));
}

// A file size limit stands in for a full disk: writes fail in the same places with another errno.
TEST_F(TrainingRunTest, AFullDiskLeavesTheOldCheckpoint) {
  const TrainConfig config = TinyConfig(folder_ / "text");
  RunTraining(config, folder_ / "whole", false);
  const fs::path run = folder_ / "run";
  signal(SIGXFSZ, SIG_IGN);
  rlimit old = {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  TrainingObserver observer;
  observer.on_step = [&](const TrainingProgress& progress) {
    if (progress.metrics.step != 4) return;
    const rlimit full = {8192, old.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &full), 0);
  };
  const Error error = ErrorOf([&] { RunTraining(config, run, false, observer); });
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old), 0);
  EXPECT_EQ(error.code(), ErrorCode::kIo);
  EXPECT_THAT(error.what(), HasSubstr(run.string()));
  EXPECT_EQ(fs::read_symlink(run / "latest").filename(), "step-00000003");
  EXPECT_EQ(std::distance(fs::directory_iterator(run / "checkpoints"), {}), 1);
  RunTraining(config, run, true);
  ExpectSameRun(RunResultOf(run), RunResultOf(folder_ / "whole"));
}

// The child that trains on the disk of the test below. A process of its own, because what it forked
// from may have had threads.
TEST(TrainingRunChild, FillsItsDisk) {
  const char* folder = std::getenv(kFullDiskFolder);
  if (folder == nullptr) GTEST_SKIP() << "started by TrainingRunTest.AFullFilesystemIsAFullDisk";
  const fs::path disk = folder;
  std::ofstream(disk / "text") << TextOfWords(600);
  const TrainConfig config = TinyConfig(disk / "text");
  RunTraining(config, disk / "whole", false);
  TrainingObserver observer;
  observer.on_step = [&](const TrainingProgress& progress) {
    if (progress.metrics.step != 4) return;
    std::ofstream filler(disk / "filler");
    while (filler << std::string(4096, 'x') << std::flush) {
    }
  };
  const Error error = ErrorOf([&] { RunTraining(config, disk / "run", false, observer); });
  EXPECT_EQ(error.code(), ErrorCode::kIo);
  EXPECT_THAT(error.what(), HasSubstr("No space left on device"));
  EXPECT_EQ(fs::read_symlink(disk / "run/latest").filename(), "step-00000003");
  fs::remove(disk / "filler");
  RunTraining(config, disk / "run", true);
  ExpectSameRun(RunResultOf(disk / "run"), RunResultOf(disk / "whole"));
}

TEST_F(TrainingRunTest, AFullFilesystemIsAFullDisk) {
  const fs::path disk = folder_ / "disk";
  fs::create_directory(disk);
  std::string self = fs::read_symlink("/proc/self/exe").string();
  std::string filter = "--gtest_filter=TrainingRunChild.FillsItsDisk";
  char* arguments[] = {self.data(), filter.data(), nullptr};
  const int code = test::RunOnOwnFilesystem(disk, "size=4m", 0, [&] {
    setenv(kFullDiskFolder, disk.c_str(), 1);
    return execv(self.c_str(), arguments);
  });
  if (code == -1) GTEST_SKIP() << "mounting a small filesystem is not permitted here";
  EXPECT_EQ(code, 0);
}

// The model that the last evaluation found best cannot be written: the run fails, and goes on to
// write it.
TEST_F(TrainingRunTest, ADiskFullInTheLastEvaluationDoesNotLoseTheModel) {
  TrainConfig config = TinyConfig(folder_ / "text");
  config.checkpoint.every_steps = 7;
  config.eval.every = 0;
  RunTraining(config, folder_ / "whole", false);
  const fs::path run = folder_ / "run";
  signal(SIGXFSZ, SIG_IGN);
  rlimit old = {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  TrainingObserver observer;
  observer.on_evaluating = [&](int64_t, int64_t) {
    // Room for a line of metrics, not for the weights.
    const rlimit full = {8192, old.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &full), 0);
  };
  const Error error = ErrorOf([&] { RunTraining(config, run, false, observer); });
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old), 0);
  EXPECT_EQ(error.code(), ErrorCode::kIo);
  EXPECT_FALSE(fs::exists(run / "model"));
  EXPECT_FALSE(RunTraining(config, run, true).model.empty());
  ExpectSameRun(RunResultOf(run), RunResultOf(folder_ / "whole"));
}

// Without validation text: the last checkpoint is there even when the model finds no room.
TEST_F(TrainingRunTest, TheLastCheckpointIsSavedBeforeTheModel) {
  TrainConfig config = TinyConfig(folder_ / "text");
  config.data.valid_fraction = 0.0;
  config.eval.every = 0;
  const fs::path run = folder_ / "run";
  TrainingObserver observer;
  observer.on_step = [&](const TrainingProgress& progress) {
    // A file where the model's directory would be.
    if (progress.metrics.step == config.train.steps) WriteFileAtomically(run / "model", "");
  };
  EXPECT_EQ(ErrorOf([&] { RunTraining(config, run, false, observer); }).code(), ErrorCode::kIo);
  EXPECT_TRUE(fs::exists(run / "checkpoints" / fmt::format("step-{:08}", config.train.steps)));
  fs::remove(run / "model");
  int64_t steps = 0;
  observer.on_step = [&](const TrainingProgress&) { ++steps; };
  EXPECT_FALSE(RunTraining(config, run, true, observer).model.empty());
  EXPECT_EQ(steps, 0);
}

// Killed after the last evaluation and before the checkpoint that knows of it.
TEST_F(TrainingRunTest, AnEvaluationThatNoCheckpointKnowsOfIsMadeAgain) {
  TrainConfig config = TinyConfig(folder_ / "text");
  config.checkpoint.every_steps = 7;
  RunTraining(config, folder_ / "whole", false);
  const fs::path run = folder_ / "run";
  TrainingObserver observer;
  observer.on_evaluation = [&](const EvaluationMetrics& evaluation) {
    if (evaluation.step == 14) throw Error(ErrorCode::kIo, "killed");
  };
  EXPECT_STREQ(ErrorOf([&] { RunTraining(config, run, false, observer); }).what(), "killed");
  fs::remove_all(run / "model");
  RunTraining(config, run, true);
  ExpectSameRun(RunResultOf(run), RunResultOf(folder_ / "whole"));
  int64_t evaluations = 0;
  for (const auto& entry : fs::directory_iterator(run)) {
    if (!entry.path().filename().string().starts_with("events.out")) continue;
    for (const auto& event : ParseTensorBoardEvents(ReadFile(entry.path()), nullptr)) {
      evaluations += event.scalars.front().tag.starts_with("valid/");
    }
  }
  EXPECT_EQ(evaluations, 4);  // after steps 4, 8, 12 and 14
}

TEST_F(TrainingRunTest, AStartThatFailsLeavesNoFolder) {
  TrainConfig config = TinyConfig(folder_ / "text");
  config.model.checkpoint = (folder_ / "no model").string();
  EXPECT_THAT(ErrorOf([&] { RunTraining(config, folder_ / "run", false); }).what(),
              HasSubstr("no model"));
  EXPECT_FALSE(fs::exists(folder_ / "run"));
}

TEST_F(TrainingRunTest, AFolderWithPartsOfARunIsLeftAlone) {
  const TrainConfig config = TinyConfig(folder_ / "text");
  const fs::path run = folder_ / "run";
  fs::create_directories(run / "checkpoints");  // empty: a start that was killed
  for (const char* name : {"checkpoints/step-00000100/", "metrics.jsonl", "model"}) {
    const fs::path left = run / name;
    fs::create_directories(left.parent_path());
    if (left.has_filename()) WriteFileAtomically(left, "old");
    const Error error = ErrorOf([&] { RunTraining(config, run, false); });
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_THAT(error.what(), HasSubstr(fs::path(name).begin()->string()));
    EXPECT_FALSE(fs::exists(run / "lock"));
    fs::remove_all(left.has_filename() ? left : left.parent_path());
  }
  RunTraining(config, run, false);
}

// Before the text is read, which may take long.
TEST_F(TrainingRunTest, AFolderThatCannotBeWrittenIsFoundFirst) {
  TrainConfig config = TinyConfig(folder_ / "no text");
  WriteFileAtomically(folder_ / "file", "");
  const Error error = ErrorOf([&] { RunTraining(config, folder_ / "file/runs/run", false); });
  EXPECT_THAT(error.what(), HasSubstr("file/runs: "));
  EXPECT_THAT(error.what(), Not(HasSubstr("no text")));
}

TEST_F(TrainingRunTest, FoldersAndTextsThatDoNotFitAreNamed) {
  TrainConfig config = TinyConfig(folder_ / "text");
  config.train.steps = 2;
  const fs::path run = folder_ / "run";
  EXPECT_EQ(ErrorOf([&] { RunTraining(config, run, true); }).code(), ErrorCode::kNotFound);
  EXPECT_FALSE(fs::exists(run));
  TrainConfig wrong = config;
  WriteFileAtomically(folder_ / "empty", "");
  wrong.data.train = {(folder_ / "empty").string()};
  EXPECT_THAT(ErrorOf([&] { RunTraining(wrong, run, false); }).what(),
              HasSubstr("empty: the file is empty"));
  EXPECT_FALSE(fs::exists(run));
  RunTraining(config, run, false);
  const Error error = ErrorOf([&] { RunTraining(config, run, false); });
  EXPECT_THAT(error.what(), HasSubstr("holds a run already"));
  // Binary text of any content is text; files shorter than a window are too.
  std::string binary(40, '\0');
  for (size_t i = 0; i < binary.size(); ++i) binary[i] = static_cast<char>(i * 37);
  std::ofstream(folder_ / "binary", std::ios::binary) << binary;
  config.data.train = {(folder_ / "binary").string()};
  config.train.length = 4096;
  RunTraining(config, folder_ / "binary_run", false);
}

TEST_F(TrainingRunTest, TheCurveIsNamedAfterTheFolder) {
  TrainConfig config = TinyConfig(folder_ / "text");
  config.train.steps = 2;
  RunTraining(config, folder_ / "a run/", false);
  EXPECT_THAT(ReadFile(folder_ / "a run/loss.svg"), HasSubstr(">a run: "));
}

TEST_F(TrainingRunTest, BeginsFromAModelAndExtendsARun) {
  TrainConfig config = TinyConfig(folder_ / "text");
  RunTraining(config, folder_ / "first", false);
  TrainConfig second = config;
  second.model.checkpoint = (folder_ / "first/model").string();
  second.train.steps = 1;
  second.optimizer.lr = second.schedule.min_lr = 0.0;
  RunTraining(second, folder_ / "second", false);
  EXPECT_TRUE(ReadFile(folder_ / "second/model/model.safetensors") ==
              ReadFile(folder_ / "first/model/model.safetensors"));
  config.train.steps = 20;
  EXPECT_EQ(RunTraining(config, folder_ / "first", true).steps, 20);
}

}  // namespace
}  // namespace adder
