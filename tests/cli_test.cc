// The program as its users meet it: what it prints, where it exits, what it leaves behind.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "adder/core/error.h"
#include "adder/formats/json.h"
#include "adder/formats/safetensors.h"
#include "adder/models/block_language_model.h"
#include "adder/models/checkpoint.h"
#include "adder/text/tokenizer.h"
#include "tests/program.h"
#include "tests/temporary_directory.h"

namespace adder {
namespace {

namespace fs = std::filesystem;
using test::Finished;
using test::Program;
using test::Slurp;
using testing::HasSubstr;
using testing::StartsWith;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

class CliTest : public testing::Test {
 protected:
  // A small byte model in directory "model", other weights for another seed.
  void MakeModel(const std::string& name = "model", uint64_t seed = 1) const {
    ModelConfig config;
    config.d_model = 16;
    config.n_layer = 2;
    config.d_state = 4;
    config.initializer_range = 0.2;
    BlockLanguageModel model(config, DType::kF32);
    InitializeModel(model, seed);
    model.ParametersChanged();
    fs::create_directory(directory_ / name);
    SaveModel(model, directory_ / name, DType::kF32);
    ByteTokenizer().Save(directory_ / name);
  }

  Finished Run(const std::vector<std::string>& arguments, const std::string& input = "") const {
    return Program(directory_, arguments, input).Wait();
  }

  // Runs a command that must succeed without a word on standard error (`eval` shows its progress
  // there); returns what it prints.
  std::string Output(const std::vector<std::string>& arguments,
                     const std::string& input = "") const {
    const Finished finished = Run(arguments, input);
    EXPECT_EQ(finished.exit_code, 0) << finished.err;
    if (arguments[0] != "eval") {
      EXPECT_EQ(finished.err, "");
    }
    return finished.out;
  }

  JsonValue Json(const std::vector<std::string>& arguments, const std::string& input = "") const {
    return JsonValue::Parse(Output(arguments, input), "output");
  }

  // Runs a command that must fail with this exit code, print nothing, say one line that contains
  // each of `words`, and change no file.
  void ExpectFailure(int exit_code, const std::vector<std::string>& words,
                     const std::vector<std::string>& arguments) const {
    SCOPED_TRACE(testing::PrintToString(arguments));
    const auto before = Files();
    const Finished finished = Run(arguments);
    EXPECT_EQ(finished.exit_code, exit_code) << finished.err;
    EXPECT_EQ(finished.out, "");
    EXPECT_THAT(finished.err, StartsWith("adder: "));
    EXPECT_EQ(std::count(finished.err.begin(), finished.err.end(), '\n'), 1) << finished.err;
    EXPECT_THAT(finished.err, testing::EndsWith("\n"));
    for (const std::string& word : words) EXPECT_THAT(finished.err, HasSubstr(word));
    EXPECT_EQ(Files(), before);
  }

  std::vector<std::string> Files() const {
    std::vector<std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(directory_)) {
      const std::string size =
          entry.is_regular_file() ? std::to_string(entry.file_size()) : "directory";
      files.push_back(entry.path().string() + " " + size);
    }
    std::sort(files.begin(), files.end());
    return files;
  }

  fs::path Write(const std::string& name, const std::string& content) const {
    std::ofstream(directory_ / name, std::ios::binary) << content;
    return directory_ / name;
  }

  TemporaryDirectory temporary_;
  const fs::path directory_ = temporary_.path();
};

std::string Text(const JsonValue& json) { return *json.Find("text")->AsString(); }
int64_t Int(const JsonValue& json, const char* key) { return *json.Find(key)->AsInt(); }
std::string String(const JsonValue& json, const char* key) { return *json.Find(key)->AsString(); }

std::vector<int64_t> Tokens(const JsonValue& json) {
  std::vector<int64_t> tokens;
  for (const JsonValue& token : *json.Find("tokens")->AsArray()) tokens.push_back(*token.AsInt());
  return tokens;
}

// ---- The command line ---------------------------------------------------------------------------

TEST_F(CliTest, HelpAndVersion) {
  const std::string help = Output({"--help"});
  for (const char* command : {"generate", "eval", "inspect", "logits", "selection"}) {
    EXPECT_THAT(help, HasSubstr(command));
    EXPECT_THAT(Output({command, "--help"}), HasSubstr("Usage: adder " + std::string(command)));
  }
  for (const char* measure : {"bpb", "ppl", "tasks"}) {
    EXPECT_THAT(Output({"eval", measure, "--help"}), HasSubstr("--model"));
  }
  EXPECT_THAT(Output({"--version"}), StartsWith("adder "));
}

// Programs run without the CUDA module here (see Program), as on a machine that has none.
TEST_F(CliTest, DevicesAreListedAndChosenByName) {
  const Finished devices = Run({"devices"});
  EXPECT_EQ(devices.exit_code, 0);
  EXPECT_THAT(devices.out, StartsWith("cpu "));
  EXPECT_THAT(devices.out, HasSubstr("\nno cuda device: CUDA: libadder_cuda.so is not installed"));
  EXPECT_EQ(std::count(devices.out.begin(), devices.out.end(), '\n'), 2) << devices.out;

  MakeModel();
  const auto generate = [](const std::string& device) {
    return std::vector<std::string>{"generate", "--model",      "model", "--prompt",
                                    "Once",     "--seed",       "1",     "--device",
                                    device,     "--max-tokens", "8"};
  };
  const std::string text = Output(generate("cpu"));
  EXPECT_EQ(Output(generate("auto")), text);
  ExpectFailure(1, {"libadder_cuda.so is not installed"}, generate("cuda"));
  ExpectFailure(1, {"libadder_cuda.so is not installed"}, generate("cuda:1"));
  ExpectFailure(2, {"no device 'gpu'", "cpu, cuda, cuda:N or auto"}, generate("gpu"));
  std::vector<std::string> in_tf32 = generate("cpu");
  in_tf32.emplace_back("--tf32");
  ExpectFailure(1, {"TF32", "cpu has none"}, in_tf32);
  in_tf32.insert(in_tf32.end(), {"--dtype", "f16"});
  ExpectFailure(2, {"--tf32 is a way to multiply f32, but --dtype is f16"}, in_tf32);
  ExpectFailure(
      1, {"libadder_cuda.so is not installed"},
      {"logits", "--model", "model", "--tokens", "1", "--output", "l", "--device", "cuda"});
  ExpectFailure(1, {"libadder_cuda.so is not installed"},
                {"eval", "bpb", "--model", "model", "--device", "cuda", "model/config.json"});
}

TEST_F(CliTest, WrongCommandLinesAreUsageErrors) {
  ExpectFailure(2, {"command"}, {});
  ExpectFailure(2, {"fly"}, {"fly"});
  ExpectFailure(2, {"--threads"}, {"--threads", "0", "inspect", "model"});
  ExpectFailure(2, {"--model"}, {"generate", "--prompt", "x"});
  ExpectFailure(2, {"bpb"}, {"eval"});
  ExpectFailure(2, {"--wings"}, {"generate", "--model", "m", "--prompt", "x", "--wings"});
  const std::vector<std::string> generate = {"generate", "--model", "model"};
  const auto expect_usage = [&](const std::vector<std::string>& words,
                                const std::vector<std::string>& more) {
    std::vector<std::string> arguments = generate;
    arguments.insert(arguments.end(), more.begin(), more.end());
    ExpectFailure(2, words, arguments);
  };
  expect_usage({"--prompt", "--state-in"}, {});
  expect_usage({"--prompt", "--prompt-file"}, {"--prompt", "a", "--prompt-file", "f"});
  expect_usage({"--state-out", "--prompts-file"}, {"--prompts-file", "f", "--state-out", "s"});
  expect_usage({"--batch"}, {"--prompt", "a", "--batch", "3"});
  expect_usage({"--top-p", "--temperature"}, {"--prompt", "a", "--temperature=0", "--top-p=0.5"});
  expect_usage({"temperature"}, {"--prompt", "a", "--temperature=-1"});
  expect_usage({"temperature"}, {"--prompt", "a", "--temperature=nan"});
  expect_usage({"top_p"}, {"--prompt", "a", "--top-p", "2"});
  expect_usage({"--top-k"}, {"--prompt", "a", "--top-k", "many"});
  expect_usage({"--max-tokens"}, {"--prompt", "a", "--max-tokens=-1"});
  expect_usage({"--seed"}, {"--prompt", "a", "--seed=-1"});
  expect_usage({"--seed", "99999999999999999999 is no whole number"},
               {"--prompt", "a", "--seed", "99999999999999999999"});
  expect_usage({"--max-tokens", "0x10"}, {"--prompt", "a", "--max-tokens", "0x10"});
  expect_usage({"--stop"}, {"--prompt", "a", "--stop="});
  expect_usage({"stop string"}, {"--prompt", "a", "--stop", ""});
  expect_usage({"--dtype"}, {"--prompt", "a", "--dtype", "i8"});
  for (const char* tokens : {"1,x", "1,0x10", "-1", "4294967296", ""}) {
    ExpectFailure(2, {"--tokens"},
                  {"logits", "--model", "m", "--tokens=" + std::string(tokens), "--output", "o"});
  }
  ExpectFailure(2, {"--threads", "0x10"}, {"--threads", "0x10", "inspect", "model"});
  ExpectFailure(2, {"--d-model", "0x10"}, {"init", "n", "--d-model", "0x10", "--n-layer", "1"});
  ExpectFailure(2, {"--contexts", "1e3"}, {"bench", "context", "--contexts", "512,1e3"});
}

// ---- adder generate -----------------------------------------------------------------------------

TEST_F(CliTest, GenerateTakesPromptsFromEverywhereAlike) {
  MakeModel();
  Write("prompt", "Once");
  Write("prompts", "Once\n\nmore\n");
  Write("prompts.jsonl", "\"Once\"\n{\"prompt\": \"more\", \"id\": 2}\n");
  const std::vector<std::string> greedy = {"generate", "--model",      "model", "--temperature",
                                           "0",        "--max-tokens", "20"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), greedy.begin(), greedy.end());
    return more;
  };
  const std::string text = Output(with({"--prompt", "Once"}));
  EXPECT_FALSE(text.empty());
  EXPECT_EQ(Output(with({"--prompt-file", "prompt"})), text);
  EXPECT_EQ(Output(with({"--prompt", "-"}), "Once"), text);
  EXPECT_EQ(Output(with({"--prompt", "Once", "--threads", "1"})), text);

  const JsonValue json = Json(with({"--prompt", "Once", "--json"}));
  EXPECT_EQ(Text(json), text);
  EXPECT_EQ(Int(json, "prompt_tokens"), 4);
  EXPECT_EQ(Int(json, "generated_tokens"), 20);
  EXPECT_EQ(Tokens(json).size(), 20u);
  EXPECT_EQ(String(json, "finish"), "length");

  const std::string more = Output(with({"--prompt", "more"}));
  const std::string both = "==> 1 <==\n" + text + "\n==> 2 <==\n" + more + "\n";
  EXPECT_EQ(Output(with({"--prompts-file", "prompts"})), both);
  EXPECT_EQ(Output(with({"--prompts-file", "prompts.jsonl"})), both);
  EXPECT_EQ(Output(with({"--prompts-file", "prompts", "--batch", "1"})), both);
}

TEST_F(CliTest, GenerateIsReproducibleBySeed) {
  MakeModel();
  const auto run = [&](const char* seed) {
    return Output({"generate", "--model", "model", "--prompt", "x", "--seed", seed});
  };
  EXPECT_EQ(run("1"), run("1"));
  EXPECT_NE(run("1"), run("2"));
}

TEST_F(CliTest, SplitRunsGiveWhatOneRunGives) {
  MakeModel();
  const std::vector<std::string> common = {
      "generate", "--model", "model",  "--repetition-penalty", "1.2",
      "--seed",   "11",      "--stop", "no such text at all",  "--stop",
      "abcdefgh"};
  const auto run = [&](std::vector<std::string> more) {
    more.insert(more.begin(), common.begin(), common.end());
    return Output(more);
  };
  const std::string whole = run({"--prompt", "The ", "--max-tokens", "90", "--state-out", "whole"});
  std::string parts = run({"--prompt", "The ", "--max-tokens", "0", "--state-out", "a"});
  parts += run({"--state-in", "a", "--max-tokens", "1", "--state-out", "b"});
  parts += run({"--state-in", "b", "--max-tokens", "59", "--state-out", "c"});
  parts += run({"--state-in", "c", "--max-tokens", "30", "--state-out", "d"});
  EXPECT_EQ(parts, whole);
  EXPECT_EQ(Slurp(directory_ / "d"), Slurp(directory_ / "whole"));
  // Another seed goes another way.
  EXPECT_NE(Output({"generate", "--model", "model", "--state-in", "c", "--seed", "12",
                    "--max-tokens", "30"}),
            whole.substr(whole.size() - 30));
}

TEST_F(CliTest, GenerateBeginsWithoutAPromptAndGoesOnWithOne) {
  MakeModel();
  // This model has no begin token: a newline takes its place.
  const std::vector<std::string> greedy = {"generate", "--model", "model",        "--temperature",
                                           "0",        "--json",  "--max-tokens", "10"};
  auto empty = greedy;
  empty.insert(empty.end(), {"--prompt", ""});
  auto newline = greedy;
  newline.insert(newline.end(), {"--prompt", "\n"});
  EXPECT_EQ(Tokens(Json(empty)), Tokens(Json(newline)));

  // prompt + answer + prompt, in one run and in two.
  auto first = greedy;
  first.insert(first.end(), {"--prompt", "ab", "--state-out", "s"});
  const std::string answer = Text(Json(first));
  auto second = greedy;
  second.insert(second.end(), {"--prompt", "cd", "--state-in", "s"});
  const JsonValue went_on = Json(second);
  EXPECT_EQ(Int(went_on, "prompt_tokens"), 3);  // with the last token of the answer
}

TEST_F(CliTest, GenerateStopsAtStopStrings) {
  MakeModel();
  const std::vector<std::string> greedy = {"generate", "--model", "model", "--prompt",
                                           "x",        "--seed",  "3",     "--max-tokens",
                                           "60",       "--json"};
  const JsonValue free = Json(greedy);
  // A stop of two tokens in the middle of what it says: the model speaks in bytes.
  std::string bytes;
  for (const int64_t token : Tokens(free)) bytes += static_cast<char>(token);
  size_t at = 20;
  while (static_cast<unsigned char>(bytes[at]) >= 0x80 || bytes[at] == '\0' ||
         static_cast<unsigned char>(bytes[at + 1]) >= 0x80 || bytes[at + 1] == '\0') {
    ASSERT_LT(++at, 58u);
  }
  auto stopping = greedy;
  stopping.insert(stopping.end(), {"--stop", "never", "--stop", bytes.substr(at, 2)});
  const JsonValue stopped = Json(stopping);
  EXPECT_EQ(String(stopped, "finish"), "stop");
  EXPECT_EQ(Int(stopped, "generated_tokens"),
            static_cast<int64_t>(bytes.find(bytes.substr(at, 2))) + 2);
  EXPECT_THAT(Text(free), StartsWith(Text(stopped)));
}

TEST_F(CliTest, AnInterruptedGenerationIsSavedAndGoesOn) {
  MakeModel();
  const std::vector<std::string> common = {"generate", "--model", "model", "--seed", "5"};
  auto first = common;
  first.insert(first.end(), {"--prompt", "x", "--max-tokens", "100000000", "--state-out", "s"});
  const Program program(directory_, first);
  for (int i = 0; i < 2000 && program.OutputSize() < 500; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  program.Signal(SIGINT);
  const Finished finished = program.Wait();
  EXPECT_EQ(finished.exit_code, 130);
  EXPECT_THAT(finished.err, HasSubstr("--state-in s"));
  ASSERT_GT(finished.out.size(), 400u);

  auto second = common;
  second.insert(second.end(), {"--state-in", "s", "--max-tokens", "100"});
  const std::string more = Output(second);
  auto whole = common;
  whole.insert(whole.end(), {"--prompt", "x", "--json", "--max-tokens"});
  whole.push_back(std::to_string(finished.out.size() * 3 + 100));
  EXPECT_THAT(Text(Json(whole)), StartsWith(finished.out + more.substr(0, more.size() - 3)));
}

TEST_F(CliTest, AnInterruptDuringABlockedWriteLosesNothing) {
  MakeModel();
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const int capacity = fcntl(ends[1], F_SETPIPE_SZ, 4096);
  ASSERT_GT(capacity, 0);
  const std::vector<std::string> common = {"generate", "--model", "model", "--seed", "5"};
  auto first = common;
  first.insert(first.end(), {"--prompt", "x", "--max-tokens", "100000000", "--state-out", "s"});
  const Program program(directory_, first, "", [&] { dup2(ends[1], STDOUT_FILENO); });
  close(ends[1]);
  // Nobody reads: the pipe fills, until a write has to wait.
  int waiting = 0;
  for (int i = 0; i < 3000 && waiting <= capacity - 4; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    ASSERT_EQ(ioctl(ends[0], FIONREAD, &waiting), 0);
  }
  EXPECT_GT(waiting, capacity - 4);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  program.Signal(SIGINT);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  std::string out;
  char buffer[4096];
  for (ssize_t count = 0; (count = read(ends[0], buffer, sizeof buffer)) > 0;) {
    out.append(buffer, static_cast<size_t>(count));
  }
  close(ends[0]);
  const Finished finished = program.Wait();
  EXPECT_EQ(finished.exit_code, 130) << finished.err;
  EXPECT_THAT(finished.err, HasSubstr("--state-in s"));
  // All that was generated was printed, and the state goes on after it.
  auto second = common;
  second.insert(second.end(), {"--state-in", "s", "--max-tokens", "100"});
  const std::string more = Output(second);
  auto whole = common;
  whole.insert(whole.end(), {"--prompt", "x", "--json", "--max-tokens"});
  whole.push_back(std::to_string(out.size() * 3 + 100));
  EXPECT_THAT(Text(Json(whole)), StartsWith(out + more.substr(0, more.size() - 3)));
}

// Bytes of memory that a process occupies.
int64_t ResidentBytes(pid_t process) {
  std::ifstream statm("/proc/" + std::to_string(process) + "/statm");
  int64_t size = 0;
  int64_t resident = 0;
  statm >> size >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

TEST_F(CliTest, MemoryDoesNotGrowWithTheNumberOfTokens) {
  if (kSanitized) GTEST_SKIP() << "sanitizers keep freed memory for a while";
  MakeModel();
  // A terminated program leaves its last memory unseen, an endless one is measured alive.
  const Program program(directory_, {"generate", "--model", "model", "--prompt", "x", "--threads",
                                     "1", "--max-tokens", "1000000000"});
  const auto memory_after = [&](size_t bytes) {
    for (int i = 0; i < 30000 && program.OutputSize() < bytes; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    EXPECT_GE(program.OutputSize(), bytes);
    return ResidentBytes(program.pid());
  };
  // A token, a byte, prints as at most three: what is no UTF-8 becomes U+FFFD. So this watches at
  // least 100,000 tokens.
  const int64_t early = memory_after(5000);
  const int64_t late = memory_after(305000);
  program.Signal(SIGTERM);
  EXPECT_EQ(program.Wait().exit_code, 128 + SIGTERM);
  EXPECT_GT(early, 1 << 20);
  // Keeping but their ids would take 400 kB.
  EXPECT_LT(late - early, 256 << 10);
}

TEST_F(CliTest, GenerateRefusesBadInputs) {
  MakeModel();
  MakeModel("other", 2);
  const auto fails = [&](const std::vector<std::string>& words, std::vector<std::string> more) {
    more.insert(more.begin(), "generate");
    ExpectFailure(1, words, more);
  };
  fails({"nowhere"}, {"--model", "nowhere", "--prompt", "x"});
  fails({"no-file"}, {"--model", "model", "--prompt-file", "no-file"});
  fails({"model"}, {"--model", "model", "--prompt-file", "model"});
  Write("none", "\n\n");
  fails({"none"}, {"--model", "model", "--prompts-file", "none"});
  Write("bad.jsonl", "\"x\"\n{\"text\": 1}\n");
  fails({"bad.jsonl, line 2"}, {"--model", "model", "--prompts-file", "bad.jsonl"});
  fails({"no-such-folder"},
        {"--model", "model", "--prompt", "x", "--state-out", "no-such-folder/s"});

  // State files: of another model, cut short, with one bit turned, of another kind.
  Output(
      {"generate", "--model", "model", "--prompt", "x", "--max-tokens", "3", "--state-out", "s"});
  fails({"s: ", "fingerprint"}, {"--model", "other", "--state-in", "s"});
  const std::string state = Slurp(directory_ / "s");
  Write("short", state.substr(0, state.size() / 2));
  fails({"short"}, {"--model", "model", "--state-in", "short"});
  std::string turned = state;
  turned[turned.size() / 2] = static_cast<char>(turned[turned.size() / 2] ^ 4);
  Write("turned", turned);
  fails({"turned"}, {"--model", "model", "--state-in", "turned"});
  Write("text", "this is no state");
  fails({"text"}, {"--model", "model", "--state-in", "text"});
  Write("empty", "");
  fails({"empty"}, {"--model", "model", "--state-in", "empty"});
}

TEST_F(CliTest, FullAndClosedOutputsAreFailures) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "/dev/full is absent";
  MakeModel();
  ExpectFailure(1, {"/dev/full"},
                {"logits", "--model", "model", "--tokens", "1", "--output", "/dev/full/x"});
  const auto expect_failure = [&](const std::function<void()>& before) {
    const Finished finished = Program(directory_, {"inspect", "model"}, "", before).Wait();
    EXPECT_EQ(finished.exit_code, 1);
    EXPECT_THAT(finished.err, StartsWith("adder: standard output"));
  };
  expect_failure([] { dup2(open("/dev/full", O_WRONLY), STDOUT_FILENO); });
  expect_failure([] { close(STDOUT_FILENO); });
}

TEST_F(CliTest, ClosedDescriptorsAreNotGivenToFiles) {
  MakeModel();
  const std::vector<std::string> arguments = {"generate", "--model",      "model", "--prompt",
                                              "x",        "--max-tokens", "20",    "--seed",
                                              "1",        "--state-out",  "s"};
  const Finished open_run = Run(arguments);
  EXPECT_EQ(open_run.exit_code, 0);
  const std::string state = Slurp(directory_ / "s");
  // With standard input and error closed the state is the same, and not what went to them.
  const Finished closed = Program(directory_, arguments, "", [] {
                            close(STDIN_FILENO);
                            close(STDERR_FILENO);
                          }).Wait();
  EXPECT_EQ(closed.exit_code, 0);
  EXPECT_EQ(closed.out, open_run.out);
  EXPECT_EQ(Slurp(directory_ / "s"), state);
  // Without standard output the text is lost, which is a failure.
  const Finished lost = Program(directory_, arguments, "", [] { close(STDOUT_FILENO); }).Wait();
  EXPECT_EQ(lost.exit_code, 1);
  EXPECT_THAT(lost.err, StartsWith("adder: standard output"));
}

// ---- Bad model directories ----------------------------------------------------------------------

TEST_F(CliTest, BadModelDirectoriesAreOneLineEach) {
  MakeModel();
  const std::string weights = Slurp(directory_ / "model/model.safetensors");
  const std::string config = Slurp(directory_ / "model/config.json");
  const auto with = [&](const std::string& new_config, const std::string& new_weights) {
    Write("model/config.json", new_config);
    Write("model/model.safetensors", new_weights);
  };
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string text = config;
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return text.replace(at, from.size(), to);
  };
  const auto fails = [&](const std::vector<std::string>& words) {
    ExpectFailure(1, words, {"generate", "--model", "model", "--prompt", "x"});
    ExpectFailure(1, words, {"inspect", "model"});
    ExpectFailure(1, words, {"logits", "--model", "model", "--tokens", "1", "--output", "out"});
    ExpectFailure(1, words,
                  {"selection", "--model", "model", "--prompt", "x", "--output", "out.svg"});
  };
  with(config, weights.substr(0, weights.size() - 10));
  fails({"model.safetensors"});
  with(config, weights.substr(0, 5));
  fails({"model.safetensors"});
  with(config, "");
  fails({"model.safetensors"});
  with(config, std::string(8, '\xff') + weights.substr(8));
  fails({"model.safetensors"});
  with("{", weights);
  fails({"config.json"});
  with(replaced("\"hidden_size\": 16", "\"hidden_size\": 24"), weights);
  fails({"model.safetensors", "shape"});
  with(replaced("\"hidden_size\": 16", "\"hidden_size\": -16"), weights);
  fails({"config.json", "hidden_size"});
  with(replaced("\"hidden_size\": 16", "\"hidden_size\": \"big\""), weights);
  fails({"config.json", "hidden_size"});
  with(replaced("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 60000"), weights);
  fails({"model", "60000 layers"});
  with(replaced("\"model_type\": \"mamba\"", "\"model_type\": \"elephant\""), weights);
  fails({"config.json", "model_type"});
  fs::remove(directory_ / "model/model.safetensors");
  Write("model/config.json", config);
  fails({"model.safetensors"});
}

// ---- adder logits, eval, inspect, selection -----------------------------------------------------

TEST_F(CliTest, LogitsAgreeWithTheGoldens) {
  const fs::path goldens = ADDER_SOURCE_DIR "/tests/goldens";
  for (const char* name : {"mamba-tied", "mamba-untied-bias"}) {
    const SafetensorsFile golden = SafetensorsFile::Open(goldens / name / "golden.safetensors");
    const Tensor ids = golden.Get("input_ids").Rows(0, 1).Clone();
    const Tensor expected = golden.Get("logits").Rows(0, 1).Clone();
    std::string tokens;
    for (int64_t i = 0; i < ids.elements(); ++i) {
      const int64_t id =
          ids.dtype() == DType::kI64 ? ids.data<int64_t>()[i] : ids.data<int32_t>()[i];
      if (i > 0) tokens += ',';
      tokens += std::to_string(id);
    }
    Output({"logits", "--model", (goldens / name).string(), "--tokens", tokens, "--output", "out"});
    const SafetensorsFile file = SafetensorsFile::Open(directory_ / "out");
    const Tensor& actual = file.Get("logits");
    ASSERT_EQ(actual.shape(), Shape({ids.elements(), expected.dim(2)}));
    ASSERT_EQ(actual.dtype(), DType::kF32);
    float largest = 0.0f;
    float difference = 0.0f;
    for (int64_t i = 0; i < actual.elements(); ++i) {
      largest = std::max(largest, std::abs(expected.data<float>()[i]));
      difference =
          std::max(difference, std::abs(actual.data<float>()[i] - expected.data<float>()[i]));
    }
    EXPECT_LT(difference, 1e-4f * largest) << name;  // the goldens' own bound for f32
  }
}

TEST_F(CliTest, ConvertWritesEveryLayout) {
  MakeModel();
  for (const std::vector<std::string>& more :
       std::vector<std::vector<std::string>>{{"m.gguf"},
                                             {"m", "--dtype", "bf16"},
                                             {"original", "--to", "state-spaces"},
                                             {"m.gguf", "--quantize", "q8_0"}}) {
    std::vector<std::string> arguments = {"convert", "model"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Finished finished = Run(arguments);
    EXPECT_EQ(finished.exit_code, 0) << finished.err;
    EXPECT_THAT(finished.out, StartsWith(more[0] + ": 22 tensors, weights in "));
    EXPECT_THAT(finished.out, HasSubstr("read back and equal\n"));
    EXPECT_FALSE(
        Output({"generate", "--model", more[0], "--prompt", "x", "--max-tokens", "3"}).empty());
  }
  // In its own place, and from quantized weights.
  EXPECT_EQ(Run({"convert", "m", "m", "--dtype", "f16"}).exit_code, 0);
  EXPECT_EQ(Run({"convert", "m.gguf", "m"}).exit_code, 0);
}

TEST_F(CliTest, ConvertRefusesBeforeTheWork) {
  MakeModel();
  ExpectFailure(2, {"only GGUF files hold quantized"},
                {"convert", "nowhere", "out", "--quantize", "q8_0"});
  for (const char* output : {"no-such-folder/m.gguf", "no-such-folder/m"}) {
    ExpectFailure(1, {output, "cannot create"}, {"convert", "nowhere", output});
  }
  ExpectFailure(1, {"model: is a directory"}, {"convert", "nowhere", "model", "--to", "gguf"});
  Write("file", "mine");
  ExpectFailure(1, {"file: is no directory"}, {"convert", "nowhere", "file"});
  // A folder of other things stays, a model is replaced, and only by another.
  fs::create_directory(directory_ / "folder");
  Write("folder/notes", "mine");
  ExpectFailure(1, {"folder: exists already and holds no model"}, {"convert", "model", "folder"});
  EXPECT_EQ(Slurp(directory_ / "folder/notes"), "mine");
  ExpectFailure(1, {"nowhere"}, {"convert", "nowhere", "model"});
  EXPECT_TRUE(fs::exists(directory_ / "model/model.safetensors"));
}

TEST_F(CliTest, PlacesToWriteToAreSoughtBeforeTheWork) {
  const std::string output = "no-such-folder/out";
  ExpectFailure(1, {output, "cannot create"},
                {"logits", "--model", "nowhere", "--tokens", "1", "--output", output});
  ExpectFailure(1, {output, "cannot create"},
                {"selection", "--model", "nowhere", "--prompt", "x", "--output", output});
  ExpectFailure(1, {output, "cannot create"},
                {"bench", "length", "--size", "130m", "--memory-plot", output});
  ExpectFailure(1, {output, "cannot create"},
                {"bench", "context", "--sizes", "130m", "--speed-plot", output});
  ExpectFailure(2, {"7b"}, {"bench", "context", "--sizes", "130m,7b"});
  ExpectFailure(1, {output, "cannot create"}, {"init", output, "--d-model", "8", "--n-layer", "1"});
}

TEST_F(CliTest, LogitsRefusesTokensOutsideTheVocabulary) {
  MakeModel();
  for (const char* tokens : {"1,256", "-1", "1,4294967296"}) {
    const Finished finished =
        Run({"logits", "--model", "model", "--tokens=" + std::string(tokens), "--output", "out"});
    EXPECT_NE(finished.exit_code, 0) << tokens;
    EXPECT_THAT(finished.err, StartsWith("adder: "));
    EXPECT_FALSE(fs::exists(directory_ / "out"));
  }
}

TEST_F(CliTest, BitsPerByteOfAFile) {
  MakeModel();
  std::string text;
  for (int i = 0; i < 5000; ++i) text += static_cast<char>('a' + i * i % 23);
  Write("text", text);
  const JsonValue json = Json({"eval", "bpb", "--model", "model", "text", "--json"});
  EXPECT_EQ(Int(json, "bytes"), 5000);
  EXPECT_EQ(Int(json, "tokens"), 5000);
  double bits = 0.0;
  double nats = 0.0;
  ASSERT_TRUE(json.Find("bits_per_byte")->AsDouble(&bits));
  ASSERT_TRUE(json.Find("nats")->AsDouble(&nats));
  EXPECT_NEAR(bits, nats / std::log(2.0) / 5000, 1e-9);
  EXPECT_GT(bits, 1.0);
  EXPECT_THAT(Output({"eval", "bpb", "--model", "model", "text"}), HasSubstr("bits per byte"));
  EXPECT_EQ(
      Int(Json({"eval", "bpb", "--model", "model", "text", "--json", "--limit", "1"}), "bytes"), 1);

  Write("empty", "");
  ExpectFailure(1, {"empty"}, {"eval", "bpb", "--model", "model", "empty"});
  ExpectFailure(1, {"missing"}, {"eval", "bpb", "--model", "model", "missing"});
  ExpectFailure(1, {"model"}, {"eval", "bpb", "--model", "model", "model"});
  std::string binary;
  for (int i = 0; i < 3000; ++i) binary += static_cast<char>(i * 7 % 256);
  Write("binary", binary);
  EXPECT_EQ(Int(Json({"eval", "bpb", "--model", "model", "binary", "--json"}), "bytes"), 3000);
  // A name that is no UTF-8, which JSON must be.
  Write("odd\xff", "text");
  EXPECT_EQ(String(Json({"eval", "bpb", "--model", "model", "odd\xff", "--json"}), "file"),
            "odd\xef\xbf\xbd");
  fs::rename(directory_ / "odd\xff", directory_ / "model/odd\xff");
  EXPECT_EQ(Json({"inspect", "model", "--json"}).Find("files")->AsArray()->size(), 6u);
}

TEST_F(CliTest, PerplexityOfAFile) {
  MakeModel();
  Write("text", "Call me Ishmael. Some years ago,\nnever mind how long\n");
  const std::vector<std::string> command = {"eval", "ppl", "--model", "model", "text"};
  const auto json_command = [&] {
    auto arguments = command;
    arguments.emplace_back("--json");
    return arguments;
  };
  const JsonValue json = Json(json_command());
  EXPECT_EQ(Int(json, "tokens"), 53);
  EXPECT_EQ(Int(json, "words"), 11);  // and an empty piece after the last line's end
  double nats = 0.0;
  double per_token = 0.0;
  double per_word = 0.0;
  ASSERT_TRUE(json.Find("nats")->AsDouble(&nats));
  ASSERT_TRUE(json.Find("token_perplexity")->AsDouble(&per_token));
  ASSERT_TRUE(json.Find("word_perplexity")->AsDouble(&per_word));
  EXPECT_DOUBLE_EQ(per_token, std::exp(nats / 53));
  EXPECT_DOUBLE_EQ(per_word, std::exp(nats / 11));
  EXPECT_THAT(Output(command), HasSubstr("perplexity per word"));

  // One word of many bytes has a perplexity beyond all numbers, which JSON cannot say.
  Write("text", std::string(5000, 'q'));
  EXPECT_TRUE(Json(json_command()).Find("word_perplexity")->is_null());
  EXPECT_THAT(Output(command), HasSubstr("inf perplexity per word"));
}

// Task files of the fields of each, `count` documents of piqa.
class CliTasksTest : public CliTest {
 protected:
  void MakeTasks(int count) const {
    MakeModel();
    fs::create_directory(directory_ / "data");
    Write("data/lambada_openai.jsonl", "{\"text\": \"the great white whale\"}\n");
    std::string piqa;
    for (int i = 0; i < count; ++i) {
      piqa += R"({"goal": "sail )" + std::to_string(i) + " " + std::string(50, 'a') +
              R"(", "sol1": "east", "sol2": "far west", "label": 1})" + "\n";
    }
    Write("data/piqa.jsonl", piqa);
  }

  static std::vector<std::string> Command(std::vector<std::string> more) {
    more.insert(more.begin(), {"eval", "tasks", "--model", "model", "--data", "data"});
    return more;
  }
};

TEST_F(CliTasksTest, PrintsATableOrJson) {
  MakeTasks(7);
  const std::string table = Output(Command({"--tasks", "lambada_openai,piqa"}));
  for (const char* word : {"lambada_openai", "perplexity", "piqa", "acc_norm", "stderr"}) {
    EXPECT_THAT(table, HasSubstr(word));
  }
  const JsonValue json = Json(Command({"--tasks", "piqa,lambada_openai", "--limit=5", "--json"}));
  const JsonValue& tasks = *json.Find("tasks");
  EXPECT_EQ(Int(*tasks.Find("piqa"), "documents"), 5);
  EXPECT_EQ(Int(*tasks.Find("lambada_openai"), "documents"), 1);
  EXPECT_TRUE(tasks.Find("lambada_openai")->Find("acc_stderr")->is_null());
  double acc = -1.0;
  EXPECT_TRUE(tasks.Find("piqa")->Find("acc")->AsDouble(&acc));
  EXPECT_TRUE(acc == 0.0 || acc == 1.0) << acc;  // documents that hardly differ
}

TEST_F(CliTasksTest, AnInterruptedEvaluationGoesOn) {
  MakeTasks(20000);
  const auto command = Command(
      {"--tasks=lambada_openai,piqa", "--batch-tokens=100", "--output=results.jsonl", "--json"});
  const Program program(directory_, command);
  const auto size = [&] {
    std::error_code none_yet;
    const auto bytes = fs::file_size(directory_ / "results.jsonl", none_yet);
    return none_yet ? 0 : bytes;
  };
  for (int i = 0; i < 3000 && size() < 2000; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  program.Signal(SIGINT);
  const Finished finished = program.Wait();
  EXPECT_EQ(finished.exit_code, 130);
  EXPECT_EQ(finished.out, "");
  EXPECT_THAT(finished.err, HasSubstr("the same command goes on with results.jsonl"));
  EXPECT_GE(size(), 2000u);

  // Another limit is another evaluation.
  auto limited = command;
  limited.emplace_back("--limit=60");
  ExpectFailure(1, {"results.jsonl", "limit"}, limited);
  // What is there is not read again: cut to its first lines, the file is gone on with to the end.
  limited[limited.size() - 3] = "--output=limited.jsonl";
  const JsonValue whole = Json(limited);
  const std::string lines = Slurp(directory_ / "limited.jsonl");
  Write("limited.jsonl", lines.substr(0, lines.size() / 2));
  const JsonValue resumed = Json(limited);
  EXPECT_EQ(*resumed.Find("tasks"), *whole.Find("tasks"));
  EXPECT_GT(Int(resumed, "tokens_read"), 0);
  EXPECT_LT(Int(resumed, "tokens_read"), Int(whole, "tokens_read"));
  EXPECT_EQ(Int(Json(limited), "tokens_read"), 0);
}

TEST_F(CliTasksTest, RefusesBadInputs) {
  MakeTasks(2);
  ExpectFailure(2, {"boolq", "winogrande"}, Command({"--tasks", "piqa,boolq"}));
  ExpectFailure(2, {"piqa twice"}, Command({"--tasks", "piqa,piqa"}));
  ExpectFailure(2, {"--tasks"}, Command({}));
  ExpectFailure(2, {"--limit"}, Command({"--tasks", "piqa", "--limit=0"}));
  ExpectFailure(2, {"--batch-tokens"}, Command({"--tasks", "piqa", "--batch-tokens=-1"}));
  ExpectFailure(1, {"winogrande.jsonl"}, Command({"--tasks", "piqa,winogrande"}));
  ExpectFailure(1, {"piqa.jsonl, line 1", "5 tokens to predict"},
                Command({"--tasks", "piqa", "--max-length=4", "--output=results.jsonl"}));
  Write("data/arc_easy.jsonl", "");
  ExpectFailure(1, {"arc_easy.jsonl", "empty"}, Command({"--tasks", "arc_easy"}));
  Write("data/arc_easy.jsonl", "\n{\"question\": \"q\"}\n");
  ExpectFailure(1, {"arc_easy.jsonl, line 2", "choices"}, Command({"--tasks", "arc_easy"}));
  Write("data/lambada_openai.jsonl", "{\"text\": \"word\"}\n");
  ExpectFailure(1, {"lambada_openai.jsonl, line 1", "begin"}, Command({"--tasks=lambada_openai"}));
  ExpectFailure(1, {"data/piqa.jsonl"}, Command({"--tasks", "piqa", "--output=data/piqa.jsonl"}));
}

TEST_F(CliTest, InitMakesAModel) {
  EXPECT_EQ(Output({"init", "new", "--d-model", "16", "--n-layer", "2", "--d-state", "4"}), "");
  const JsonValue json = Json({"inspect", "new", "--json"});
  EXPECT_EQ(Int(*json.Find("config"), "d_model"), 16);
  EXPECT_EQ(Int(*json.Find("config"), "d_state"), 4);
  EXPECT_EQ(Int(*json.Find("config"), "vocab_size"), 256);
  EXPECT_EQ(String(*json.Find("tokenizer"), "type"), "bytes");
  EXPECT_FALSE(
      Output({"generate", "--model", "new", "--prompt", "x", "--max-tokens", "3"}).empty());
  const auto weights = [&](const char* name) {
    return Slurp(directory_ / name / "model.safetensors");
  };
  // The seed decides the weights, the type their size.
  const std::vector<std::string> small = {"--d-model", "16", "--n-layer", "2", "--d-state", "4"};
  const auto make = [&](const std::string& name, const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"init", name};
    arguments.insert(arguments.end(), small.begin(), small.end());
    arguments.insert(arguments.end(), more.begin(), more.end());
    Output(arguments);
  };
  make("same", {"--seed", "0"});
  make("other", {"--seed", "1"});
  make("half", {"--dtype", "bf16"});
  EXPECT_TRUE(weights("same") == weights("new"));
  EXPECT_FALSE(weights("other") == weights("new"));
  EXPECT_LT(weights("half").size(), weights("new").size());
  // A vocabulary larger than its tokenizer's, and one without a tokenizer.
  make("padded", {"--vocab-size", "300", "--tokenizer", "new"});
  EXPECT_EQ(Int(*Json({"inspect", "padded", "--json"}).Find("config"), "vocab_size"), 300);
  EXPECT_FALSE(
      Output({"generate", "--model", "padded", "--prompt", "x", "--max-tokens", "3"}).empty());
  make("words", {"--vocab-size", "300"});
  EXPECT_FALSE(fs::exists(directory_ / "words/tokenizer.json"));

  ExpectFailure(1, {"new", "exists already"}, {"init", "new", "--d-model", "16", "--n-layer", "1"});
  ExpectFailure(1, {"the tokenizer has 256 tokens, the model only 100"},
                {"init", "n", "--d-model", "16", "--n-layer", "1", "--vocab-size", "100",
                 "--tokenizer", "new"});
  ExpectFailure(2, {"7b"}, {"init", "n", "--size", "7b"});
  ExpectFailure(2, {"--size"}, {"init", "n"});
  ExpectFailure(2, {"--n-layer"}, {"init", "n", "--d-model", "16"});
  ExpectFailure(2, {"--size"}, {"init", "n", "--size", "130m", "--d-model", "16"});
  ExpectFailure(2, {"--seed", "18446744073709551615"},
                {"init", "n", "--size", "130m", "--seed", "18446744073709551615"});
}

TEST_F(CliTest, InspectShowsTheModel) {
  MakeModel();
  const JsonValue json = Json({"inspect", "model", "--json"});
  EXPECT_EQ(Int(*json.Find("config"), "d_model"), 16);
  EXPECT_EQ(Int(*json.Find("config"), "n_layer"), 2);
  int64_t elements = 0;
  for (const JsonValue& parameter : *json.Find("parameters")->AsArray()) {
    elements += Int(parameter, "elements");
    EXPECT_EQ(Int(parameter, "bytes"), 4 * Int(parameter, "elements"));
  }
  EXPECT_EQ(Int(json, "parameter_count"), elements);
  // Per layer: a window of d_conv - 1 rows and d_state numbers for each of 32 channels, in f32.
  EXPECT_EQ(Int(json, "state_bytes_per_sequence"), 2 * 32 * (3 + 4) * 4);
  EXPECT_EQ(String(*json.Find("tokenizer"), "type"), "bytes");
  EXPECT_EQ(String(json, "fingerprint").size(), 16u);

  const std::string text = Output({"inspect", "model"});
  EXPECT_THAT(text, HasSubstr("backbone.layers.*.mixer.A_log"));
  EXPECT_THAT(Output({"inspect", "model", "--all"}), HasSubstr("backbone.layers.1.mixer.A_log"));
}

TEST_F(CliTest, SelectionDrawsAPicture) {
  MakeModel();
  EXPECT_EQ(Output({"selection", "--model", "model/", "--prompt", "A <b> & \"c\"\n", "--output",
                    "out.svg"}),
            "");
  const std::string svg = Slurp(directory_ / "out.svg");
  EXPECT_THAT(svg, StartsWith("<svg"));
  EXPECT_THAT(svg, HasSubstr("What model keeps and forgets"));
  ExpectFailure(2, {"--prompt"},
                {"selection", "--model", "model", "--prompt", "", "--output", "o"});
  ExpectFailure(
      1, {"tokens"},
      {"selection", "--model", "model", "--prompt", std::string(60000, 'x'), "--output", "o"});
}

}  // namespace
}  // namespace adder
