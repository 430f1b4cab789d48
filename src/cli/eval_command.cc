// adder eval: measures of a model on a text, and on tasks (eval_tasks.cc).
#include <fmt/core.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "adder/backend/devices.h"
#include "adder/cli/commands.h"
#include "adder/cli/eval.h"
#include "adder/cli/model_options.h"
#include "adder/cli/numbers.h"
#include "adder/cli/progress.h"
#include "adder/cli/standard_output.h"
#include "adder/eval/bits_per_byte.h"
#include "adder/eval/whitespace.h"
#include "adder/formats/file.h"
#include "adder/formats/json.h"
#include "adder/text/tokenizer.h"

namespace adder {
namespace {

struct TextArguments {
  ModelOptions model;
  std::string file;
  std::optional<int64_t> limit;
  bool json = false;

  void AddTo(CLI::App& command) {
    model.AddTo(command);
    command.add_option("file", file, "The text, taken as bytes")->required()->type_name("FILE");
    command.add_option("--limit", limit, "Read only the first BYTES of it")
        ->transform(WholeNumber(1))
        ->type_name("BYTES");
    command.add_flag("--json", json, "Print JSON");
    command.footer(
        "The file is read from start to end with the model's memory carried over. The first "
        "token\nis predicted from the model's begin token; where it has none, it counts as one "
        "of equally\nlikely ones (8 bits for a byte).");
  }
};

struct TextMeasures {
  BitsPerByte loss;
  int64_t words = 0;

  double bytes_per_s() const {
    return loss.seconds > 0.0 ? static_cast<double>(loss.bytes) / loss.seconds : 0.0;
  }
};

TextMeasures MeasureText(const TextArguments& arguments) {
  const std::shared_ptr<const MappedFile> file = MappedFile::Open(arguments.file);
  std::string_view text = file->text();
  if (arguments.limit) text = text.substr(0, static_cast<size_t>(*arguments.limit));
  if (text.empty()) {
    throw Error(ErrorCode::kInvalidArgument, arguments.file + ": the file is empty");
  }
  const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::Load(arguments.model.directory);
  const std::unique_ptr<BlockLanguageModel> model = arguments.model.Load();

  Progress progress("evaluating");
  const auto begin = std::chrono::steady_clock::now();
  BitsPerByteOptions options;
  options.chunk_rows = UsualRows(model->device());
  options.start_token = model->config().bos_token_id;
  options.cancel = &CatchInterrupts();
  options.progress = [&](int64_t bytes, int64_t total) {
    if (!progress.Due()) return;
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    const double share = static_cast<double>(bytes) / static_cast<double>(total);
    progress.Draw(share,
                  {fmt::format("{} of {}", HumanBytes(bytes), HumanBytes(total)),
                   fmt::format("{} bytes/s", FormatCount(static_cast<double>(bytes) / seconds))},
                  seconds * (1.0 - share) / share);
  };
  TextMeasures measures;
  measures.loss = MeasureBitsPerByte(*model, *tokenizer, text, options);
  measures.words = CountWords(text);
  progress.Clear();
  return measures;
}

std::string CostLine(const TextMeasures& measures, std::string_view counts) {
  return fmt::format("{}, {:.6g} nats; {:.2f} s, {} bytes/s\n", counts, measures.loss.nats,
                     measures.loss.seconds, FormatCount(measures.bytes_per_s()));
}

void RunBitsPerByte(const TextArguments& arguments) {
  const TextMeasures measures = MeasureText(arguments);
  const BitsPerByte& loss = measures.loss;
  if (arguments.json) {
    const JsonValue json(JsonValue::Object{{"file", ToUtf8(arguments.file)},
                                           {"bytes", loss.bytes},
                                           {"tokens", loss.tokens},
                                           {"bits_per_byte", loss.bits_per_byte()},
                                           {"nats", loss.nats},
                                           {"seconds", loss.seconds},
                                           {"bytes_per_s", measures.bytes_per_s()}});
    WriteStandardOutput(json.ToText() + "\n");
  } else {
    WriteStandardOutput(fmt::format("{:.4f} bits per byte\n", loss.bits_per_byte()) +
                        CostLine(measures, fmt::format("{} bytes, {} tokens", Grouped(loss.bytes),
                                                       Grouped(loss.tokens))));
  }
}

void RunPerplexity(const TextArguments& arguments) {
  const TextMeasures measures = MeasureText(arguments);
  const BitsPerByte& loss = measures.loss;
  const double per_token = loss.perplexity(loss.tokens);
  const double per_word = loss.perplexity(measures.words);
  if (arguments.json) {
    const JsonValue json(JsonValue::Object{{"file", ToUtf8(arguments.file)},
                                           {"bytes", loss.bytes},
                                           {"tokens", loss.tokens},
                                           {"words", measures.words},
                                           {"token_perplexity", FiniteOrNull(per_token)},
                                           {"word_perplexity", FiniteOrNull(per_word)},
                                           {"bits_per_byte", loss.bits_per_byte()},
                                           {"nats", loss.nats},
                                           {"seconds", loss.seconds},
                                           {"bytes_per_s", measures.bytes_per_s()}});
    WriteStandardOutput(json.ToText() + "\n");
  } else {
    WriteStandardOutput(
        fmt::format("{:.4f} perplexity per token\n{:.4f} perplexity per word\n{:.4f} bits per "
                    "byte\n",
                    per_token, per_word, loss.bits_per_byte()) +
        CostLine(measures, fmt::format("{} bytes, {} tokens, {} words", Grouped(loss.bytes),
                                       Grouped(loss.tokens), Grouped(measures.words))));
  }
}

}  // namespace

JsonValue FiniteOrNull(double number) {
  return std::isfinite(number) ? JsonValue(number) : JsonValue();
}

void AddEvalCommand(CLI::App& app) {
  CLI::App* command = app.add_subcommand("eval", "Measure a model");
  command->require_subcommand(0, 1);
  command->callback([command] {
    if (command->get_subcommands().empty()) {
      throw UsageError(
          "eval needs the name of a measure: tasks, bpb or ppl (see adder eval --help)");
    }
  });

  AddEvalTasks(*command);

  const auto bits = std::make_shared<TextArguments>();
  CLI::App* bits_command = command->add_subcommand("bpb", "Bits per byte of a text");
  bits->AddTo(*bits_command);
  bits_command->callback([bits] { RunBitsPerByte(*bits); });

  const auto perplexity = std::make_shared<TextArguments>();
  CLI::App* perplexity_command =
      command->add_subcommand("ppl", "Perplexity of a text, per token and per word");
  perplexity->AddTo(*perplexity_command);
  perplexity_command->callback([perplexity] { RunPerplexity(*perplexity); });
}

}  // namespace adder
