// adder selection: a picture of what a model keeps and forgets of a text.
#include <fmt/core.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "adder/cli/commands.h"
#include "adder/cli/model_options.h"
#include "adder/core/sequence_layout.h"
#include "adder/eval/selection_picture.h"
#include "adder/formats/file.h"
#include "adder/text/tokenizer.h"

namespace adder {
namespace {

struct Options {
  ModelOptions model;
  std::string prompt;
  std::string output;
};

// A picture with more cells is neither read by people nor opened by viewers.
constexpr int64_t kMaxCells = 100000;

void Run(const Options& options) {
  if (options.prompt.empty()) throw UsageError("--prompt is empty: there is nothing to show");
  CheckWritable(options.output);
  const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::Load(options.model.directory);
  const std::unique_ptr<BlockLanguageModel> model = options.model.Load();
  const std::vector<int32_t> tokens = tokenizer->Encode(options.prompt);
  if (tokens.empty()) {
    throw Error(ErrorCode::kInvalidArgument, "the prompt has no tokens: there is nothing to show");
  }
  const auto rows = static_cast<int64_t>(tokens.size());
  if (rows > kMaxCells / model->n_layer()) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("the prompt has {} tokens, a picture of {} layers shows at most {}",
                            rows, model->n_layer(), kMaxCells / model->n_layer()));
  }
  SelectionTrace trace;
  model->Forward(Tensor::From<int32_t>({rows}, tokens), SequenceLayout::Single(rows), nullptr,
                 &trace);
  if (trace.step.empty()) {
    throw Error(
        ErrorCode::kUnsupported,
        fmt::format("{}: a Transformer has no steps and decays to show", options.model.directory));
  }
  std::filesystem::path directory = std::filesystem::absolute(options.model.directory);
  if (!directory.has_filename()) directory = directory.parent_path();  // "model/"
  const std::string title = fmt::format("What {} keeps and forgets", directory.filename().string());
  WriteFileAtomically(options.output, DrawSelection(SummarizeSelection(trace),
                                                    TokenLabels(*tokenizer, tokens), title));
}

}  // namespace

void AddSelectionCommand(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("selection", "Draw what a model keeps and forgets of a text");
  options->model.AddTo(*command);
  command->add_option("--prompt", options->prompt, "The text")->required()->type_name("TEXT");
  command->add_option("--output", options->output, "SVG file: step and decay per token and layer")
      ->required()
      ->type_name("FILE");
  command->callback([options] { Run(*options); });
}

}  // namespace adder
