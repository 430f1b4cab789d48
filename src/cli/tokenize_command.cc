// adder tokenize: what a text becomes for a model, and back.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <charconv>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "adder/cli/commands.h"
#include "adder/cli/numbers.h"
#include "adder/cli/progress.h"
#include "adder/cli/standard_output.h"
#include "adder/formats/file.h"
#include "adder/formats/json.h"
#include "adder/text/tokenizer.h"

namespace adder {
namespace {

struct Options {
  std::string model;
  std::string tokenizer;
  std::string text;
  std::string file;
  CLI::Option* text_option = nullptr;
  bool ids = false;
  bool json = false;
  bool count = false;
  bool decode = false;
  bool special = false;
  bool null = false;
};

constexpr size_t kPartBytes = size_t{1} << 20;

// The input: the argument, a mapped file, or what comes on standard input.
class Input {
 public:
  explicit Input(const Options& options) {
    if (options.text_option->count() > 0) {
      text_ = options.text;
    } else if (options.file.empty()) {
      content_ = ReadFile("/dev/stdin");
      text_ = content_;
    } else if (std::filesystem::is_regular_file(options.file)) {
      file_ = MappedFile::Open(options.file);
      text_ = file_->text();
    } else {
      content_ = ReadFile(options.file);
      text_ = content_;
    }
  }

  std::string_view text() const { return text_; }

 private:
  std::shared_ptr<const MappedFile> file_;
  std::string content_;
  std::string_view text_;
};

class TokenizeCommand {
 public:
  explicit TokenizeCommand(const Options& options)
      : options_(options),
        tokenizer_(Tokenizer::Load(options.model.empty() ? options.tokenizer : options.model)) {}

  void Run() {
    const Input input(options_);
    if (options_.decode) {
      Decode(input.text());
    } else if (!options_.null) {
      Encode(input.text(), true);
    } else {
      std::string_view rest = input.text();
      while (true) {
        const size_t end = rest.find('\0');
        Encode(rest.substr(0, end), false);
        if (end == std::string_view::npos) break;
        rest.remove_prefix(end + 1);
      }
    }
  }

 private:
  using Ids = std::span<const int32_t>;

  // Calls use(ids) for the tokens of the text, part by part.
  template <class Use>
  void ForEachPart(std::string_view text, bool show_progress, Use&& use) {
    if (options_.special) use(tokenizer_->prefix_tokens());
    Progress progress("tokenizing");
    const auto begin = std::chrono::steady_clock::now();
    size_t done = 0;
    tokenizer_->EncodeParts(text, kPartBytes, [&](Ids ids, size_t bytes) {
      use(ids);
      done += bytes;
      const double seconds =
          std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      // Most texts are done before anyone would look.
      if (!show_progress || seconds < 1.0 || !progress.Due()) return;
      const double share = static_cast<double>(done) / static_cast<double>(text.size());
      progress.Draw(share,
                    {fmt::format("{} of {}", HumanBytes(static_cast<int64_t>(done)),
                                 HumanBytes(static_cast<int64_t>(text.size())))},
                    seconds * (1.0 - share) / share);
    });
    progress.Clear();
    if (options_.special) use(tokenizer_->suffix_tokens());
  }

  void Encode(std::string_view text, bool show_progress) {
    if (options_.count) {
      int64_t count = 0;
      ForEachPart(text, show_progress, [&](Ids ids) { count += static_cast<int64_t>(ids.size()); });
      WriteStandardOutput(fmt::format("{}\n", count));
    } else if (options_.json) {
      JsonValue::Array ids;
      JsonValue::Array texts;
      ForEachPart(text, show_progress, [&](Ids part) {
        for (const int32_t id : part) {
          ids.emplace_back(id);
          texts.emplace_back(TextOf(id));
        }
      });
      const auto count = static_cast<int64_t>(ids.size());
      const JsonValue json(JsonValue::Object{{"bytes", text.size()},
                                             {"count", count},
                                             {"ids", std::move(ids)},
                                             {"texts", std::move(texts)}});
      WriteStandardOutput(json.ToText() + "\n");
    } else if (options_.ids) {
      const char* separator = "";
      ForEachPart(text, show_progress, [&](Ids ids) {
        if (ids.empty()) return;
        WriteStandardOutput(fmt::format("{}{}", separator, fmt::join(ids, " ")));
        separator = " ";
      });
      WriteStandardOutput("\n");
    } else {
      ForEachPart(text, show_progress, [&](Ids ids) {
        std::string lines;
        for (const int32_t id : ids) lines += fmt::format("{:>8}  {}\n", id, JsonQuote(TextOf(id)));
        WriteStandardOutput(lines);
      });
    }
  }

  std::string TextOf(int32_t id) const { return ToUtf8(tokenizer_->Bytes(id)); }

  void Decode(std::string_view text) {
    TokenTextStream stream(*tokenizer_, false);
    std::string out;
    const auto is_between = [](char c) { return c == ' ' || c == ',' || (c >= '\t' && c <= '\r'); };
    while (!text.empty()) {
      if (is_between(text[0])) {
        text.remove_prefix(1);
        continue;
      }
      int32_t id = 0;
      const auto result = std::from_chars(text.data(), text.data() + text.size(), id);
      const auto length = static_cast<size_t>(result.ptr - text.data());
      if (result.ec != std::errc() || (length < text.size() && !is_between(text[length]))) {
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("{} is no token id, expected numbers with spaces between",
                                JsonQuote(text.substr(0, 20))));
      }
      text.remove_prefix(length);
      out += stream.Push(id);
      if (out.size() < kPartBytes) continue;
      WriteStandardOutput(out);
      out.clear();
    }
    WriteStandardOutput(out + stream.Finish());
    EndTerminalLine();
  }

  const Options& options_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

}  // namespace

void AddTokenizeCommand(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("tokenize", "Show the tokens of a text, or decode them");
  command->add_option("--model", options->model, "Model directory whose tokenizer is taken")
      ->type_name("DIR");
  command->add_option("--tokenizer", options->tokenizer, "A tokenizer.json, or its directory")
      ->type_name("FILE");
  options->text_option = command->add_option("text", options->text, "The text")->type_name("TEXT");
  command->add_option("--file", options->file, "Read the text from a file")->type_name("FILE");
  CLI::Option* ids = command->add_flag("--ids", options->ids, "Print the ids, on one line");
  CLI::Option* count = command->add_flag("--count", options->count, "Print their number");
  CLI::Option* json = command->add_flag("--json", options->json, "Print JSON: ids and texts");
  CLI::Option* special =
      command->add_flag("--special", options->special,
                        "Add the tokens that the tokenizer puts before and behind a text");
  CLI::Option* null =
      command->add_flag("-0,--null", options->null,
                        "The input is texts with NUL bytes between; each is tokenized alone");
  CLI::Option* decode =
      command->add_flag("--decode", options->decode, "The input is ids; print their text");
  for (CLI::Option* other : {ids, count, json, special, null}) decode->excludes(other);
  ids->excludes(count)->excludes(json);
  count->excludes(json);
  command->footer(
      "Without TEXT and --file the input is what comes on standard input. As they are, tokens are\n"
      "printed one on each line, id and text.");
  command->callback([options] {
    if (options->model.empty() == options->tokenizer.empty()) {
      throw UsageError("expected --model DIR or --tokenizer FILE, one of them");
    }
    if (options->text_option->count() > 0 && !options->file.empty()) {
      throw UsageError("the text is given twice, by --file and by itself");
    }
    TokenizeCommand(*options).Run();
  });
}

}  // namespace adder
