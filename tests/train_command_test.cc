// adder train as its users meet it: mistakes in one line, signals that stop it cleanly, the printed
// command that goes on.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace adder {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class TrainCommandTest : public ::testing::Test {
 protected:
  struct Finished {
    int exit_code;
    std::string err;
  };

  void SetUp() override {
    folder_ = fs::path(::testing::TempDir()) /
              ("train_command_" +
               std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    std::ofstream text(folder_ / "text.txt");
    for (int i = 0; i < 500; ++i) text << "line " << i << " of the text\n";
    std::ofstream(folder_ / "tiny.toml") << "[model]\nd_model = 8\nn_layer = 1\n"
                                            "[data]\ntrain = \"text.txt\"\n"
                                            "[train]\nsteps = 20\nbatch = 1\nlength = 16\n";
  }
  void TearDown() override { fs::remove_all(folder_); }

  // Runs `adder train ARGUMENTS…` in the folder; `meanwhile` gets the process.
  Finished Train(std::vector<std::string> arguments,
                 const std::function<void(pid_t)>& meanwhile = {}) {
    arguments.insert(arguments.begin(), {ADDER_BINARY_DIR "/adder", "train"});
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    const std::string errors = (folder_ / "errors").string();
    const pid_t child = fork();
    if (child == 0) {
      if (chdir(folder_.c_str()) != 0) _exit(126);
      const int file = open(errors.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
      dup2(file, STDERR_FILENO);
      execv(argv[0], argv.data());
      _exit(127);
    }
    if (meanwhile) meanwhile(child);
    int status = 0;
    waitpid(child, &status, 0);
    std::ostringstream text;
    text << std::ifstream(errors).rdbuf();
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), text.str()};
  }

  void ExpectOneLine(const Finished& finished, int exit_code, const std::string& part) {
    EXPECT_EQ(finished.exit_code, exit_code);
    EXPECT_THAT(finished.err, AllOf(StartsWith("adder: "), HasSubstr(part), EndsWith("\n")));
    EXPECT_EQ(std::count(finished.err.begin(), finished.err.end(), '\n'), 1) << finished.err;
  }

  fs::path folder_;
};

TEST_F(TrainCommandTest, MistakesAreOneLine) {
  ExpectOneLine(Train({"--config", "none.toml"}), 1, "none.toml");
  ExpectOneLine(Train({"--config", "tiny.toml", "--set", "train.lr=1"}), 1,
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
              [&](pid_t child) {
                // The handlers are there once training has begun.
                const fs::path metrics = folder_ / run / "metrics.jsonl";
                std::error_code error;
                for (int i = 0; i < 6000 && !(fs::file_size(metrics, error) > 0 && !error); ++i) {
                  std::this_thread::sleep_for(std::chrono::milliseconds(10));
                }
                kill(child, signal);
              });
    EXPECT_EQ(stopped.exit_code, 128 + signal) << stopped.err;
    EXPECT_THAT(stopped.err, HasSubstr("go on with: adder train --resume " + run + "\n"));
    EXPECT_TRUE(fs::exists(folder_ / run / "latest/trainer.json"));
    const Finished gone_on = Train({"--resume", run, "--set", "train.steps=1"});
    EXPECT_EQ(gone_on.exit_code, 0) << gone_on.err;
    EXPECT_THAT(gone_on.err, HasSubstr("going on after step "));
  }
}

}  // namespace
}  // namespace adder
