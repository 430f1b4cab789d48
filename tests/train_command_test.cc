// adder train as its users meet it: mistakes in one line, signals that stop it cleanly, the printed
// command that goes on.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "tests/program.h"
#include "tests/temporary_directory.h"

namespace adder {
namespace {

namespace fs = std::filesystem;
using test::Finished;
using test::Program;
using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class TrainCommandTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::ofstream text(folder_ / "text.txt");
    for (int i = 0; i < 500; ++i) text << "line " << i << " of the text\n";
    std::ofstream(folder_ / "tiny.toml") << "[model]\nd_model = 8\nn_layer = 1\n"
                                            "[data]\ntrain = \"text.txt\"\n"
                                            "[train]\nsteps = 20\nbatch = 1\nlength = 16\n";
  }

  // Runs `adder train ARGUMENTS…` in the folder; `meanwhile` gets the program.
  Finished Train(std::vector<std::string> arguments,
                 const std::function<void(const Program&)>& meanwhile = {},
                 const std::function<void()>& before = {}) {
    arguments.insert(arguments.begin(), "train");
    const Program program(folder_, arguments, "", before);
    if (meanwhile) meanwhile(program);
    return program.Wait();
  }

  void ExpectOneLine(const Finished& finished, int exit_code, const std::string& part) {
    EXPECT_EQ(finished.exit_code, exit_code);
    EXPECT_THAT(finished.err, AllOf(StartsWith("adder: "), HasSubstr(part), EndsWith("\n")));
    EXPECT_EQ(std::count(finished.err.begin(), finished.err.end(), '\n'), 1) << finished.err;
  }

  TemporaryDirectory directory_;
  const fs::path folder_ = directory_.path();
};

TEST_F(TrainCommandTest, MistakesAreOneLine) {
  ExpectOneLine(Train({"--config", "none.toml"}), 1, "none.toml");
  ExpectOneLine(Train({"--config", "tiny.toml", "--set", "train.lr=1"}), 2,
                "--set train.lr=1: unknown key \"train.lr\" (did you mean optimizer.lr?)");
  std::ofstream(folder_ / "tiny.toml", std::ios::app) << "batches = 3\n";
  ExpectOneLine(Train({"--config", "tiny.toml"}), 1,
                "tiny.toml:10: unknown key \"train.batches\" (did you mean train.batch?)");
  ExpectOneLine(Train({}), 2, "--config");
  ExpectOneLine(Train({"--resume", "nowhere"}), 1, "nowhere/config.toml");
  EXPECT_FALSE(fs::exists(folder_ / "runs"));
}

TEST_F(TrainCommandTest, TrainsIntoItsFolderOnce) {
  const Finished finished = Train({"--config", "tiny.toml", "--run", "out"});
  EXPECT_EQ(finished.exit_code, 0) << finished.err;
  EXPECT_THAT(finished.err, HasSubstr("20 steps, 320 bytes read"));
  EXPECT_TRUE(fs::exists(folder_ / "out/model/model.safetensors"));
  ExpectOneLine(Train({"--config", "tiny.toml", "--run", "out"}), 1, "holds a run already");
}

TEST_F(TrainCommandTest, SignalsStopAtAStepAndThePrintedCommandGoesOn) {
  for (const int signal : {SIGINT, SIGTERM}) {
    const std::string run = "run" + std::to_string(signal);
    const Finished stopped =
        Train({"--config", "tiny.toml", "--run", run, "--set", "train.steps=1000000000"},
              [&](const Program& program) {
                // The handlers are there once training has begun.
                const fs::path metrics = folder_ / run / "metrics.jsonl";
                std::error_code error;
                for (int i = 0; i < 6000 && !(fs::file_size(metrics, error) > 0 && !error); ++i) {
                  std::this_thread::sleep_for(std::chrono::milliseconds(10));
                }
                program.Signal(signal);
              });
    EXPECT_EQ(stopped.exit_code, 128 + signal) << stopped.err;
    const std::string command = ADDER_BINARY_DIR "/adder train --resume " + run;
    EXPECT_THAT(stopped.err, HasSubstr("go on with: " + command + "\n"));
    EXPECT_TRUE(fs::exists(folder_ / run / "latest/trainer.json"));
    // The command as it was printed works.
    const std::string shell =
        "cd " + folder_.string() + " && " + command + " --set train.steps=1 > /dev/null 2> err";
    EXPECT_EQ(std::system(shell.c_str()), 0);
    EXPECT_THAT(test::Slurp(folder_ / "err"), HasSubstr("going on after step "));
  }
}

TEST_F(TrainCommandTest, AProgressThatNobodyCanReadDoesNotEndTheTraining) {
  // A full disk under the log, and a pipe whose reader has gone.
  const Finished full = Train({"--config", "tiny.toml", "--run", "full"}, {},
                              [] { dup2(open("/dev/full", O_WRONLY), STDERR_FILENO); });
  EXPECT_EQ(full.exit_code, 0);
  EXPECT_TRUE(fs::exists(folder_ / "full/model/model.safetensors"));
  const Finished gone = Train({"--config", "tiny.toml", "--run", "gone"}, {}, [] {
    int ends[2];
    if (pipe(ends) != 0) _exit(126);
    close(ends[0]);
    dup2(ends[1], STDERR_FILENO);
  });
  EXPECT_EQ(gone.exit_code, 0);
  EXPECT_TRUE(fs::exists(folder_ / "gone/model/model.safetensors"));
}

TEST_F(TrainCommandTest, ThreadsGivenToAResumedRunCount) {
  const auto threads = [&] {
    const std::string config = test::Slurp(folder_ / "run/config.toml");
    const size_t at = config.find("\nthreads = ") + 1;
    return config.substr(at, config.find('\n', at) - at);
  };
  EXPECT_EQ(Train({"--config", "tiny.toml", "--run", "run", "--threads", "1"}).exit_code, 0);
  EXPECT_EQ(threads(), "threads = 1");
  const std::vector<std::string> longer = {"--resume", "run", "--set", "train.steps=22"};
  EXPECT_EQ(Train(longer).exit_code, 0);
  EXPECT_EQ(threads(), "threads = 1");
  EXPECT_EQ(Train({"--resume", "run", "--threads", "2", "--set", "train.steps=24"}).exit_code, 0);
  EXPECT_EQ(threads(), "threads = 2");
  ExpectOneLine(Train({"--resume", "run", "--threads", "2", "--set", "train.threads=1"}), 2,
                "--threads and --set train.threads");
  ExpectOneLine(Train({"--resume", "run", "--device", "cpu", "--set", "train.device=cpu"}), 2,
                "--device and --set train.device");
  ExpectOneLine(Train({"--resume", "run", "--device", "cuda"}), 1, "CUDA");
  EXPECT_EQ(Train({"--resume", "run", "--device", "cpu", "--set", "train.steps=26"}).exit_code, 0);
  EXPECT_THAT(test::Slurp(folder_ / "run/config.toml"), HasSubstr("\ndevice = \"cpu\"\n"));
}

}  // namespace
}  // namespace adder
