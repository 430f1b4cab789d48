// adder eval tasks: a model on the zero-shot tasks of lm-evaluation-harness.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "adder/backend/devices.h"
#include "adder/cli/commands.h"
#include "adder/cli/eval.h"
#include "adder/cli/model_options.h"
#include "adder/cli/numbers.h"
#include "adder/cli/progress.h"
#include "adder/cli/standard_output.h"
#include "adder/core/dtype.h"
#include "adder/eval/task.h"
#include "adder/eval/task_evaluation.h"
#include "adder/formats/file.h"
#include "adder/formats/json.h"
#include "adder/models/block_language_model.h"
#include "adder/text/tokenizer.h"

namespace adder {
namespace {

struct TaskArguments {
  ModelOptions model;
  std::vector<std::string> tasks;
  std::string data;
  std::optional<int64_t> limit;
  std::optional<int64_t> max_length;
  std::optional<int64_t> batch_tokens;
  std::string output;
  bool json = false;
};

std::string TaskNames() {
  std::vector<std::string_view> names;
  for (const Task& task : Tasks()) names.push_back(task.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

std::vector<const Task*> ChooseTasks(const std::vector<std::string>& names) {
  std::vector<const Task*> tasks;
  for (const std::string& name : names) {
    tasks.push_back(FromCommandLine([&] { return &FindTask(name); }));
    if (std::count(names.begin(), names.end(), name) > 1) {
      throw UsageError(fmt::format("--tasks names {} twice", name));
    }
  }
  return tasks;
}

void Print(const std::vector<TaskOutcome>& outcomes) {
  std::string table = fmt::format("{:<16}{:>10}  {:<10}{:>14}{:>14}\n", "task", "documents",
                                  "metric", "value", "stderr");
  for (const TaskOutcome& outcome : outcomes) {
    std::string task = outcome.task;
    std::string documents = std::to_string(outcome.documents);
    for (const MetricValue& metric : outcome.metrics) {
      table += fmt::format(
          "{:<16}{:>10}  {:<10}{:>14.4f}{:>14}\n", task, documents, metric.name, metric.value,
          metric.standard_error ? fmt::format("{:.4f}", *metric.standard_error) : "-");
      task.clear();
      documents.clear();
    }
  }
  WriteStandardOutput(table);
}

JsonValue ToJson(const TaskOutcome& outcome) {
  JsonValue::Object json = {{"documents", outcome.documents}};
  for (const MetricValue& metric : outcome.metrics) {
    json.push_back({metric.name, FiniteOrNull(metric.value)});
    json.push_back({metric.name + "_stderr",
                    metric.standard_error ? FiniteOrNull(*metric.standard_error) : JsonValue()});
  }
  return json;
}

void RunTasks(const TaskArguments& arguments) {
  if (!arguments.output.empty()) CheckWritable(arguments.output);
  std::vector<TaskSet> sets;
  for (const Task* task : ChooseTasks(arguments.tasks)) {
    sets.push_back(
        {task, ReadTask(*task, arguments.data, arguments.limit.value_or(kAllDocuments))});
  }
  TaskEvaluationOptions options;
  options.encoding = ReadTaskEncoding(arguments.model.directory);
  if (arguments.max_length) options.encoding.max_length = *arguments.max_length;
  options.limit = arguments.limit;
  options.results = arguments.output;
  options.cancel = &CatchInterrupts();
  const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::Load(arguments.model.directory);
  const std::unique_ptr<BlockLanguageModel> model = arguments.model.Load();
  options.batch_tokens =
      arguments.batch_tokens.value_or(std::max(options.batch_tokens, UsualRows(model->device())));
  if (options.encoding.prefix_token < 0) {
    // A GGUF file has no config.json, but names its tokens all the same.
    const ModelConfig& config = model->config();
    options.encoding.prefix_token =
        config.bos_token_id >= 0 ? config.bos_token_id : config.eos_token_id;
  }

  Progress progress("evaluating");
  const auto begin = std::chrono::steady_clock::now();
  const auto seconds = [begin] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  int64_t rows = 0;
  options.progress = [&](const TaskProgress& at) {
    rows = at.rows;
    if (!progress.Due()) return;
    const auto read = static_cast<double>(at.rows);
    const auto left = static_cast<double>(at.rows_left);
    progress.Draw(
        read / (read + left),
        {fmt::format("{} {} of {}", at.set->task->name, at.documents, at.set->documents.size()),
         fmt::format("{} tokens/s", FormatCount(read / seconds()))},
        seconds() * left / read);
  };
  std::vector<TaskOutcome> outcomes;
  try {
    outcomes = EvaluateTasks(*model, *tokenizer, sets, options);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kCancelled) throw;
    throw Error(ErrorCode::kCancelled,
                arguments.output.empty()
                    ? "evaluation stopped; with --output it could be gone on with"
                    : "evaluation stopped; the same command goes on with " + arguments.output);
  }
  progress.Clear();

  if (!arguments.json) {
    Print(outcomes);
    return;
  }
  JsonValue::Object tasks;
  for (const TaskOutcome& outcome : outcomes) tasks.push_back({outcome.task, ToJson(outcome)});
  const JsonValue json(
      JsonValue::Object{{"model", ToUtf8(arguments.model.directory)},
                        {"fingerprint", fmt::format("{:016x}", model->fingerprint())},
                        {"dtype", DTypeName(model->compute_dtype())},
                        {"limit", arguments.limit ? JsonValue(*arguments.limit) : JsonValue()},
                        {"max_length", options.encoding.max_length},
                        {"tasks", std::move(tasks)},
                        {"tokens_read", rows},
                        {"seconds", seconds()}});
  WriteStandardOutput(json.ToText() + "\n");
}

}  // namespace

void AddEvalTasks(CLI::App& eval) {
  const auto arguments = std::make_shared<TaskArguments>();
  CLI::App* command = eval.add_subcommand("tasks", "Zero-shot tasks, as lm-evaluation-harness");
  arguments->model.AddTo(*command);
  command->add_option("--tasks", arguments->tasks, "Which, separated by commas: " + TaskNames())
      ->required()
      ->delimiter(',')
      ->type_name("NAMES");
  command->add_option("--data", arguments->data, "Where their NAME.jsonl are")
      ->required()
      ->type_name("DIR");
  command->add_option("--limit", arguments->limit, "Only the first N documents of each")
      ->transform(WholeNumber(1))
      ->type_name("N");
  command
      ->add_option("--max-length", arguments->max_length,
                   "Read at most N tokens for one continuation (default: what the harness takes "
                   "from the model's files)")
      ->transform(WholeNumber(1))
      ->type_name("N");
  command
      ->add_option("--batch-tokens", arguments->batch_tokens,
                   "Tokens of one forward at most (default: 2048, on a GPU 16384)")
      ->transform(WholeNumber(1))
      ->type_name("N");
  command
      ->add_option("--output", arguments->output,
                   "Write each document's log-likelihoods there, and go on where it ends")
      ->type_name("FILE");
  command->add_flag("--json", arguments->json, "Print JSON");
  command->callback([arguments] { RunTasks(*arguments); });
}

}  // namespace adder
