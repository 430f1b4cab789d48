// adder train: a run from a config file, or one that goes on.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "adder/cli/commands.h"
#include "adder/cli/model_options.h"
#include "adder/cli/progress.h"
#include "adder/train/training_run.h"

namespace adder {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string config;
  std::vector<std::string> overrides;
  std::string run;
  std::string resume;
  std::string device;
  CLI::Option* resume_flag = nullptr;
  CLI::Option* threads_flag = nullptr;  // the program's
};

// Text in a shell's words, for a command that can be copied.
std::string ShellQuote(const std::string& text) {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:,@%";
  if (!text.empty() && text.find_first_not_of(kPlain) == std::string::npos) return text;
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

std::string StartLine(const TrainingStart& start) {
  std::string line = fmt::format("{} parameters, {} bytes of text",
                                 FormatCount(static_cast<double>(start.parameters)),
                                 FormatCount(static_cast<double>(start.train_bytes)));
  if (start.train_tokens != start.train_bytes) {
    line += fmt::format(" in {} tokens", FormatCount(static_cast<double>(start.train_tokens)));
  }
  if (start.valid_bytes > 0) {
    line += fmt::format(", {} bytes of validation",
                        FormatCount(static_cast<double>(start.valid_bytes)));
  }
  if (start.device.type != DeviceType::kCpu) line += ", on " + ToString(start.device);
  if (!start.checkpoint.empty()) {
    line += fmt::format("; going on after step {} from {}", start.step, start.checkpoint.string());
  }
  return line;
}

void Train(const Options& options) {
  const bool resume = options.resume_flag->count() > 0;
  fs::path folder = !options.run.empty() ? options.run : options.resume;
  if (!options.run.empty() && !options.resume.empty()) {
    throw UsageError("--run and --resume both name a folder, expected one of them");
  }
  fs::path config_path = options.config;
  if (config_path.empty()) {
    if (!resume || folder.empty()) {
      throw UsageError("expected --config FILE, or --resume DIR to go on with a run");
    }
    config_path = folder / "config.toml";
  }
  TrainConfig config =
      FromCommandLine([&] { return ReadTrainConfig(config_path, options.overrides); });
  // A run remembers its threads and its device; who names others means them.
  const auto is_set = [&](std::string_view key) {
    return std::any_of(options.overrides.begin(), options.overrides.end(),
                       [key](const std::string& text) { return text.starts_with(key); });
  };
  if (options.threads_flag->count() > 0) {
    if (is_set("train.threads=")) {
      throw UsageError("--threads and --set train.threads both give the threads");
    }
    config.train.threads = options.threads_flag->as<int64_t>();
  }
  if (!options.device.empty()) {
    if (is_set("train.device=")) {
      throw UsageError("--device and --set train.device both give the device");
    }
    ChosenDevice(options.device);  // throws where there is none
    config.train.device = options.device;
  }
  if (folder.empty()) {
    folder = !config.output.run.empty() ? fs::path(config.output.run)
                                        : fs::path("runs") / config_path.stem();
  }

  // A reader of the progress that goes away does not end the training.
  std::signal(SIGPIPE, SIG_IGN);
  Progress progress("training");
  TrainingProgress last;
  TrainingObserver observer;
  observer.on_tokenizing = [&](int64_t bytes, int64_t total) {
    if (!progress.Due()) return;
    const double share = static_cast<double>(bytes) / static_cast<double>(total);
    progress.Draw(0.0, {fmt::format("tokenizing {:.0f} %", 100.0 * share)}, -1.0);
  };
  observer.on_start = [&](const TrainingStart& start) { progress.Print(StartLine(start)); };
  observer.on_step = [&](const TrainingProgress& now) {
    last = now;
    if (!progress.Due()) return;
    progress.Draw(
        now.share,
        {fmt::format("{:.3f} bits/byte", now.metrics.bits_per_byte),
         fmt::format("loss {:.3f}", now.metrics.loss),
         fmt::format("{} tokens/s", FormatCount(now.metrics.tokens_per_second)),
         now.total_steps > 0 ? fmt::format("step {}/{}", now.metrics.step, now.total_steps)
                             : fmt::format("step {}", now.metrics.step)},
        now.total_steps > 0 ? now.seconds_left : -1.0);
  };
  observer.on_evaluating = [&](int64_t bytes, int64_t total) {
    if (!progress.Due()) return;
    progress.Draw(last.share,
                  {fmt::format("evaluating {:.0f} %",
                               100.0 * static_cast<double>(bytes) / static_cast<double>(total))},
                  -1.0);
  };
  observer.on_evaluation = [&](const EvaluationMetrics& evaluation) {
    progress.Print(fmt::format("step {}: {:.4f} bits per byte on {} bytes of validation text",
                               evaluation.step, evaluation.bits_per_byte, evaluation.bytes));
  };

  const TrainingOutcome outcome = RunTraining(config, folder, resume, observer, &CatchInterrupts());
  progress.Clear();
  if (outcome.stopped) {
    throw Error(ErrorCode::kCancelled,
                fmt::format("stopped after step {}, saved in {}; go on with: {} train --resume {}",
                            outcome.steps, outcome.checkpoint.string(),
                            ShellQuote(program_invocation_name), ShellQuote(folder.string())));
  }
  progress.Print(fmt::format("{} steps, {} {} read in {}; the model is in {}", outcome.steps,
                             FormatCount(static_cast<double>(outcome.tokens)),
                             config.data.tokenizer.empty() ? "bytes" : "tokens",
                             FormatSeconds(outcome.elapsed), (folder / "model").string()));
}

}  // namespace

void AddTrainCommand(CLI::App& app) {
  CLI::App* command = app.add_subcommand("train", "Train a model on files of text");
  auto options = std::make_shared<Options>();
  command->add_option("--config", options->config, "The run's settings (docs/training.md)")
      ->type_name("FILE.toml");
  command
      ->add_option("--set", options->overrides,
                   "A setting that replaces the file's, as TOML; a string may stand without "
                   "quotes; may be given several times")
      ->type_name("SECTION.KEY=VALUE")
      ->allow_extra_args(false);
  command->add_option("--run", options->run, "The run's folder (default: output.run, or runs/NAME)")
      ->type_name("DIR");
  options->resume_flag =
      command
          ->add_option("--resume", options->resume,
                       "Go on with the run in DIR, or in --run's or the config's folder")
          ->type_name("DIR")
          ->expected(0, 1);
  command
      ->add_option("--device", options->device,
                   "Where to train: cpu, cuda, cuda:N or auto (default: the run's train.device)")
      ->type_name("NAME");
  options->threads_flag = app.get_option("--threads");
  command->callback([options] { Train(*options); });
}

}  // namespace adder
