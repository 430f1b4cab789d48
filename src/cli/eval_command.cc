// adder eval: measures of a model. So far one: bits per byte of a text.
#include <fmt/core.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "adder/cli/commands.h"
#include "adder/cli/model_options.h"
#include "adder/cli/numbers.h"
#include "adder/cli/progress.h"
#include "adder/cli/standard_output.h"
#include "adder/eval/bits_per_byte.h"
#include "adder/formats/file.h"
#include "adder/formats/json.h"
#include "adder/text/tokenizer.h"

namespace adder {
namespace {

struct BitsPerByteArguments {
  ModelOptions model;
  std::string file;
  std::optional<int64_t> limit;
  bool json = false;
};

void RunBitsPerByte(const BitsPerByteArguments& arguments) {
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
  const BitsPerByte result = MeasureBitsPerByte(*model, *tokenizer, text, options);
  progress.Clear();

  const double bytes_per_s =
      result.seconds > 0.0 ? static_cast<double>(result.bytes) / result.seconds : 0.0;
  if (arguments.json) {
    const JsonValue json(JsonValue::Object{{"file", arguments.file},
                                           {"bytes", result.bytes},
                                           {"tokens", result.tokens},
                                           {"bits_per_byte", result.bits_per_byte()},
                                           {"nats", result.nats},
                                           {"seconds", result.seconds},
                                           {"bytes_per_s", bytes_per_s}});
    WriteStandardOutput(json.ToText() + "\n");
  } else {
    WriteStandardOutput(fmt::format(
        "{:.4f} bits per byte\n{} bytes, {} tokens, {:.6g} nats; {:.2f} s, {} bytes/s\n",
        result.bits_per_byte(), Grouped(result.bytes), Grouped(result.tokens), result.nats,
        result.seconds, FormatCount(bytes_per_s)));
  }
}

}  // namespace

void AddEvalCommand(CLI::App& app) {
  CLI::App* command = app.add_subcommand("eval", "Measure a model");
  command->require_subcommand(0, 1);
  command->callback([command] {
    if (command->get_subcommands().empty()) {
      throw UsageError("eval needs the name of a measure: bpb (see adder eval --help)");
    }
  });

  const auto arguments = std::make_shared<BitsPerByteArguments>();
  CLI::App* bits = command->add_subcommand("bpb", "Bits per byte of a text");
  arguments->model.AddTo(*bits);
  bits->add_option("file", arguments->file, "The text, taken as bytes")
      ->required()
      ->type_name("FILE");
  bits->add_option("--limit", arguments->limit, "Read only the first BYTES of it")
      ->check(CLI::PositiveNumber)
      ->type_name("BYTES");
  bits->add_flag("--json", arguments->json, "Print JSON");
  bits->footer(
      "The file is read from start to end with the model's memory carried over. The first token\n"
      "is predicted from the model's begin token; where it has none, it counts as one of equally\n"
      "likely ones (8 bits for a byte).");
  bits->callback([arguments] { RunBitsPerByte(*arguments); });
}

}  // namespace adder
