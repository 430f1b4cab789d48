// adder logits: what a model answers to given tokens, as a tensor for other programs to compare.
#include <fmt/core.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "adder/cli/commands.h"
#include "adder/cli/model_options.h"
#include "adder/cli/numbers.h"
#include "adder/core/sequence_layout.h"
#include "adder/formats/file.h"
#include "adder/formats/safetensors.h"

namespace adder {
namespace {

struct Options {
  ModelOptions model;
  std::vector<int32_t> tokens;
  std::string output;
};

constexpr int64_t kChunkRows = 1024;

void Run(const Options& options) {
  CheckWritable(options.output);
  const std::unique_ptr<BlockLanguageModel> model = options.model.Load();
  for (const int32_t token : options.tokens) {
    if (token < 0 || token >= model->vocab_size()) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("token {} is outside the model's vocabulary of {}", token,
                              model->vocab_size()));
    }
  }
  const auto count = static_cast<int64_t>(options.tokens.size());
  const Tensor tokens = Tensor::From<int32_t>({count}, options.tokens);
  const Tensor logits = Tensor::Empty({count, model->vocab_size()}, DType::kF32);
  State state = model->InitialState(1);
  for (int64_t begin = 0; begin < count; begin += kChunkRows) {
    const int64_t rows = std::min(kChunkRows, count - begin);
    const Tensor hidden =
        model->Forward(tokens.Rows(begin, rows), SequenceLayout::Single(rows), &state);
    logits.Rows(begin, rows).CopyFrom(model->Logits(hidden));
  }
  const std::pair<std::string, Tensor> tensors[] = {{"logits", logits}};
  WriteSafetensors(options.output, tensors);
}

}  // namespace

void AddLogitsCommand(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("logits", "Write a model's logits to a file");
  options->model.AddTo(*command);
  command->add_option("--tokens", options->tokens, "Token ids, e.g. 1,2,3")
      ->required()
      ->delimiter(',')
      ->transform(WholeNumber(0, std::numeric_limits<int32_t>::max()))
      ->type_name("IDS");
  command->add_option("--output", options->output, "safetensors file: logits f32 [tokens, vocab]")
      ->required()
      ->type_name("FILE");
  command->callback([options] { Run(*options); });
}

}  // namespace adder
