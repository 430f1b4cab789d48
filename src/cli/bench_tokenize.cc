// adder bench tokenize: how fast a tokenizer reads a text, on one thread.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "adder/cli/bench.h"
#include "adder/core/error.h"
#include "adder/formats/file.h"
#include "adder/text/tokenizer.h"

namespace adder {
namespace {

struct Options {
  std::string tokenizer;
  std::string file;
  int repetitions = 7;
  bool json = false;
};

void Run(const Options& options) {
  std::unique_ptr<Tokenizer> tokenizer;
  const double load = SecondsOf([&] { tokenizer = Tokenizer::Load(options.tokenizer); });
  const std::string text = ReadFile(options.file);
  if (text.empty()) {
    throw Error(ErrorCode::kInvalidArgument, options.file + ": the file is empty");
  }
  std::vector<int32_t> tokens;
  const double first = SecondsOf([&] { tokens = tokenizer->Encode(text); });
  std::vector<double> encoding;
  std::vector<double> decoding;
  for (int i = 0; i < options.repetitions; ++i) {
    encoding.push_back(SecondsOf([&] { tokenizer->Encode(text); }));
    decoding.push_back(SecondsOf([&] { tokenizer->Decode(tokens, false); }));
  }
  const auto rate = [&](double seconds) {
    return static_cast<double>(text.size()) / seconds / 1e6;
  };
  PrintFields({{"tokens", tokens.size()},
               {"bytes", text.size()},
               {"load_ms", 1e3 * load},
               {"first_encode_MB_per_s", rate(first)},
               {"encode_MB_per_s", rate(Median(encoding))},
               {"decode_MB_per_s", rate(Median(decoding))}},
              options.json);
}

}  // namespace

void AddBenchTokenize(CLI::App& bench) {
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      bench.add_subcommand("tokenize", "A tokenizer's speed on a text, on one thread");
  command->add_option("--tokenizer", options->tokenizer, "tokenizer.json, or its directory")
      ->required()
      ->type_name("FILE");
  command->add_option("--file", options->file, "The text, at most 1 GiB")
      ->required()
      ->type_name("FILE");
  AddRepetitionsOption(*command, options->repetitions);
  AddJsonOption(*command, options->json);
  command->callback([options] { Run(*options); });
}

}  // namespace adder
