// adder convert: a model in another layout or with other weights, read back and compared.
#include <fmt/core.h>

#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "adder/backend/cpu/parallel.h"
#include "adder/cli/commands.h"
#include "adder/cli/model_options.h"
#include "adder/cli/numbers.h"
#include "adder/cli/progress.h"
#include "adder/cli/standard_output.h"
#include "adder/formats/file.h"
#include "adder/models/checkpoint.h"
#include "adder/models/gguf_checkpoint.h"
#include "adder/text/gguf_vocabulary.h"
#include "adder/text/tokenizer.h"

namespace adder {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string input;
  std::string output;
  std::string to;
  std::string dtype;
  std::string quantize;
};

bool SameBits(const Tensor& a, const Tensor& b) {
  const Tensor dense_a = a.contiguous() ? a : a.Clone();
  const Tensor dense_b = b.contiguous() ? b : b.Clone();
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         std::memcmp(dense_a.raw(), dense_b.raw(), static_cast<size_t>(a.bytes())) == 0;
}

[[noreturn]] void FailVerification(const fs::path& path, const std::string& name) {
  throw Error(
      ErrorCode::kIo,
      fmt::format("{}: tensor {} is read back otherwise than it was written", path.string(), name));
}

// The dtype that most of the weights have.
DType StoredDType(const BlockLanguageModel& model) {
  for (const Parameter& p : model.parameters()) {
    if (!p.full_precision) return p.value.dtype();
  }
  return DType::kF32;
}

// A directory is replaced whole, which nothing but a model may lose its files to.
void CheckReplaceable(const fs::path& output) {
  if (!fs::is_directory(output) || fs::is_empty(output) || fs::exists(output / "config.json")) {
    return;
  }
  throw Error(
      ErrorCode::kInvalidArgument,
      fmt::format("{}: exists already and holds no model, expected a new or empty directory "
                  "or a model to replace",
                  output.string()));
}

class Conversion {
 public:
  explicit Conversion(const Options& options) : options_(options) {}

  // Looks for a place to write to before the work, not after it.
  void Run() {
    const fs::path output = options_.output;
    const bool gguf =
        options_.to == "gguf" || (options_.to.empty() && output.extension() == ".gguf");
    if (!gguf && !options_.quantize.empty()) {
      throw UsageError("only GGUF files hold quantized weights");
    }
    if (gguf) {
      CheckWritable(output);
      Load();
      WriteGgufFile(output);
    } else {
      CheckReplaceable(output);
      WriteDirectory(output);
    }
    progress_.Clear();
    if (!tokenizer_) {
      fmt::print(stderr, "adder: written without a tokenizer: {}\n", no_tokenizer_);
    }
  }

 private:
  void Draw(double share, const char* what) {
    if (progress_.Due()) progress_.Draw(share, {what}, -1.0);
  }

  void Load() {
    model_ = LoadModel(options_.input, DType::kF32);
    try {
      tokenizer_ = Tokenizer::Load(options_.input);
    } catch (const Error& error) {
      no_tokenizer_ = error.what();
    }
  }

  // What the weights are to be.
  DType WeightDType() const {
    if (!options_.quantize.empty()) return ParseDType(options_.quantize);
    if (!options_.dtype.empty()) return ParseDType(options_.dtype);
    return StoredDType(*model_);
  }

  void WriteGgufFile(const fs::path& output) {
    const DType dtype = WeightDType();
    GgufContent content =
        MakeGguf(*model_, dtype, [&](double share) { Draw(0.8 * share, "converting"); });
    for (auto& entry :
         tokenizer_ ? VocabularyMetadata(PaddedVocabulary()) : NoVocabularyMetadata()) {
      content.metadata.push_back(std::move(entry));
    }
    Draw(0.8, "writing");
    WriteGguf(output, content.metadata, content.tensors);
    Draw(0.9, "reading back");
    const GgufFile written = GgufFile::Open(output);
    for (const auto& [name, tensor] : content.tensors) {
      if (!SameBits(written.Get(name), tensor)) FailVerification(output, name);
    }
    Report(output, static_cast<int64_t>(fs::file_size(output)), dtype);
  }

  void WriteDirectory(const fs::path& output) {
    const auto layout = options_.to == "state-spaces" ? CheckpointLayout::kStateSpaces
                                                      : CheckpointLayout::kHuggingFace;
    DType dtype = DType::kF32;
    WriteDirectoryAtomically(output, [&](const fs::path& directory) {
      Load();
      // f32 is exactly what quantized weights stand for.
      if (!IsQuantized(WeightDType())) dtype = WeightDType();
      Draw(0.0, "writing");
      SaveModel(*model_, directory, dtype, layout);
      if (tokenizer_) tokenizer_->Save(directory);
    });
    Draw(0.6, "reading back");
    const auto written = LoadModel(output, DType::kF32);
    const auto parameters = std::as_const(*model_).parameters();
    for (size_t i = 0; i < parameters.size(); ++i) {
      const Parameter& p = parameters[i];
      const Tensor expected = p.value.To(p.full_precision ? DType::kF32 : dtype);
      if (!SameBits(written->parameters()[i].value, expected)) FailVerification(output, p.name);
    }
    int64_t bytes = 0;
    for (const fs::directory_entry& entry : fs::directory_iterator(output)) {
      bytes += static_cast<int64_t>(entry.file_size());
    }
    Report(output, bytes, dtype);
  }

  // As many tokens as the embedding has rows: those that pad it are unused.
  Vocabulary PaddedVocabulary() const {
    Vocabulary vocabulary = tokenizer_->ToVocabulary();
    const auto rows = static_cast<size_t>(model_->vocab_size());
    if (vocabulary.tokens.size() > rows) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("{}: the tokenizer has {} tokens, the model {}", options_.input,
                              vocabulary.tokens.size(), rows));
    }
    vocabulary.types.resize(vocabulary.tokens.size(), TokenType::kNormal);
    if (!vocabulary.scores.empty()) vocabulary.scores.resize(rows, 0);
    while (vocabulary.tokens.size() < rows) {
      vocabulary.tokens.push_back(fmt::format("[PAD{}]", vocabulary.tokens.size()));
      vocabulary.types.push_back(TokenType::kUnused);
    }
    const ModelConfig& config = model_->config();
    if (vocabulary.bos < 0) vocabulary.bos = static_cast<int32_t>(config.bos_token_id);
    if (vocabulary.eos < 0) vocabulary.eos = static_cast<int32_t>(config.eos_token_id);
    if (vocabulary.eot < 0 && !config.more_eos_token_ids.empty()) {
      vocabulary.eot = static_cast<int32_t>(config.more_eos_token_ids.front());  // GGUF has one
    }
    return vocabulary;
  }

  void Report(const fs::path& output, int64_t bytes, DType dtype) const {
    const auto parameters = std::as_const(*model_).parameters();
    WriteStandardOutput(fmt::format("{}: {} tensors, weights in {}, {}; read back and equal\n",
                                    output.string(), parameters.size(), DTypeName(dtype),
                                    HumanBytes(bytes)));
  }

  const Options& options_;
  Progress progress_{"converting"};
  std::unique_ptr<BlockLanguageModel> model_;
  std::unique_ptr<Tokenizer> tokenizer_;  // null: there is none, for the reason below
  std::string no_tokenizer_;
};

}  // namespace

void AddConvertCommand(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("convert", "Write a model in another format");
  command->add_option("input", options->input, "Model directory or GGUF file")
      ->required()
      ->type_name("IN");
  command->add_option("output", options->output, "What to write: a directory or a GGUF file")
      ->required()
      ->type_name("OUT");
  command
      ->add_option("--to", options->to, "Layout (default: gguf where OUT ends in .gguf, else hf)")
      ->check(CLI::IsMember({"hf", "state-spaces", "gguf"}))
      ->type_name("LAYOUT");
  CLI::Option* dtype =
      command->add_option("--dtype", options->dtype, "Weights (default: as they are)")
          ->check(CLI::IsMember({"f32", "bf16", "f16"}))
          ->type_name("TYPE");
  command->add_option("--quantize", options->quantize, "Quantized weights, GGUF only")
      ->check(CLI::IsMember({"q8_0", "q4_0", "q4_k", "q6_k"}))
      ->type_name("TYPE")
      ->excludes(dtype);
  command->footer(
      "What steers the state (A, D, dt bias, convolutions) and the norms stay f32. What was\n"
      "written is read back and compared before the command succeeds. A model that OUT holds\n"
      "already is replaced.");
  command->callback([options] { Conversion(*options).Run(); });
}

}  // namespace adder
