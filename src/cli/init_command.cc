// adder init: a model directory with fresh random weights, to train, measure or try things with.
#include <fmt/format.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "adder/cli/commands.h"
#include "adder/cli/model_options.h"
#include "adder/cli/numbers.h"
#include "adder/formats/file.h"
#include "adder/models/block_language_model.h"
#include "adder/models/checkpoint.h"
#include "adder/text/tokenizer.h"

namespace adder {
namespace {

namespace fs = std::filesystem;

struct Options {
  fs::path directory;
  std::string size;
  ModelConfig dimensions = {.d_model = 0, .n_layer = 0};  // given where d_model is
  std::optional<int64_t> vocab_size;
  fs::path tokenizer;
  uint64_t seed = 0;
  std::string dtype = "f32";
};

std::unique_ptr<Tokenizer> ReadTokenizer(const Options& options) {
  if (!options.tokenizer.empty()) return Tokenizer::Load(options.tokenizer);
  return nullptr;
}

// The model's dimensions. Its vocabulary is what --vocab-size says, or else the published size's,
// or else the tokenizer's, or else the 256 bytes.
ModelConfig ConfigOf(const Options& options, const Tokenizer* tokenizer) {
  const bool published = !options.size.empty();
  ModelConfig config = published ? PublishedConfig(options.size) : options.dimensions;
  const int64_t own_vocabulary = config.vocab_size;
  if (!published && tokenizer != nullptr) config.vocab_size = tokenizer->vocab_size();
  if (options.vocab_size) config.vocab_size = *options.vocab_size;
  // Tokens that begin and end a text belong to the published vocabulary.
  if (published && config.vocab_size != own_vocabulary) {
    config.bos_token_id = config.eos_token_id = -1;
  }
  if (tokenizer != nullptr && tokenizer->vocab_size() > config.vocab_size) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("{}: the tokenizer has {} tokens, the model only {}",
                    options.tokenizer.string(), tokenizer->vocab_size(), config.vocab_size));
  }
  config.Resolve();
  return config;
}

void Run(const Options& options) {
  if (options.size.empty() == (options.dimensions.d_model == 0)) {
    throw UsageError("expected either --size NAME, or --d-model and --n-layer");
  }
  if (options.size.empty() && options.dimensions.n_layer == 0) {
    throw UsageError("--d-model goes with --n-layer");
  }
  if (fs::exists(options.directory) &&
      !(fs::is_directory(options.directory) && fs::is_empty(options.directory))) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: exists already, expected a new or empty directory",
                            options.directory.string()));
  }
  std::unique_ptr<Tokenizer> tokenizer = ReadTokenizer(options);
  BlockLanguageModel model(ConfigOf(options, tokenizer.get()), DType::kF32);
  if (tokenizer == nullptr && model.vocab_size() == 256) {
    tokenizer = std::make_unique<ByteTokenizer>();
  }
  WriteDirectoryAtomically(options.directory, [&](const fs::path& directory) {
    InitializeModel(model, options.seed);
    SaveModel(model, directory, ParseDType(options.dtype));
    if (tokenizer != nullptr) tokenizer->Save(directory);
  });
}

}  // namespace

void AddInitCommand(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("init", "Make a model with fresh random weights");
  command->add_option("directory", options->directory, "Where it is written: a new directory")
      ->required()
      ->type_name("DIR");
  CLI::Option* size =
      command->add_option("--size", options->size,
                          "A published size: 130m to 2.8b (Mamba), mamba2-130m to mamba2-2.7b, "
                          "pythia-70m to pythia-2.8b");
  size->type_name("NAME");
  struct Dimension {
    const char* name;
    int64_t* value;
    const char* help;
  };
  ModelConfig& dimensions = options->dimensions;
  for (const Dimension& dimension : std::array<Dimension, 6>{{
           {"--d-model", &dimensions.d_model, "Width of a Mamba's residual stream"},
           {"--n-layer", &dimensions.n_layer, "Blocks"},
           {"--d-state", &dimensions.d_state, "States of a channel (default: 16)"},
           {"--d-conv", &dimensions.d_conv, "Width of the convolution (default: 4)"},
           {"--expand", &dimensions.expand, "d_inner = expand · d_model (default: 2)"},
           {"--dt-rank", &dimensions.dt_rank,
            "Rank of the step's projection (default: d_model / "
            "16, rounded up)"},
       }}) {
    command->add_option(dimension.name, *dimension.value, dimension.help)
        ->transform(WholeNumber(1, ModelConfig::kLargestDimension))
        ->type_name("N")
        ->excludes(size);
  }
  command
      ->add_option("--vocab-size", options->vocab_size,
                   "Tokens (default: the size's or the tokenizer's; otherwise 256, bytes)")
      ->transform(WholeNumber(1, ModelConfig::kLargestVocabulary))
      ->type_name("N");
  command
      ->add_option("--tokenizer", options->tokenizer,
                   "A directory or tokenizer.json whose tokenizer the model gets (default: bytes, "
                   "for a vocabulary of 256)")
      ->type_name("DIR");
  command->add_option("--seed", options->seed, "Of the random weights")
      ->transform(WholeNumber(0))
      ->type_name("N")
      ->capture_default_str();
  command->add_option("--dtype", options->dtype, "What the weights are stored in")
      ->check(CLI::IsMember({"f32", "bf16", "f16"}))
      ->type_name("TYPE")
      ->capture_default_str();
  command->callback([options] { Run(*options); });
}

}  // namespace adder
