// adder inspect: what a model directory holds, without reading its weights.
#include <fmt/core.h>

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "adder/cli/commands.h"
#include "adder/cli/numbers.h"
#include "adder/cli/standard_output.h"
#include "adder/formats/json.h"
#include "adder/formats/sharded_safetensors.h"
#include "adder/models/checkpoint.h"
#include "adder/text/tokenizer.h"

namespace adder {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string directory;
  bool all = false;
  bool json = false;
};

// The dtype that most bytes of the checkpoint have: computing in it, the model is its mapped file.
DType StoredDType(const fs::path& directory) {
  std::map<DType, int64_t> bytes;
  const ShardedSafetensors file = ShardedSafetensors::Open(directory);
  for (const auto& [name, tensor] : file.tensors()) {
    bytes[tensor.dtype()] += tensor.bytes();
  }
  const auto most = std::max_element(
      bytes.begin(), bytes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  return most != bytes.end() && IsFloating(most->first) ? most->first : DType::kF32;
}

// Everything there is to say, as JSON has it and as the tables show it.
struct Report {
  explicit Report(const fs::path& directory) : model(LoadModel(directory, StoredDType(directory))) {
    for (const Parameter& parameter : std::as_const(*model).parameters()) {
      elements += parameter.value.elements();
      bytes += parameter.value.bytes();
    }
    try {
      tokenizer = Tokenizer::Load(directory);
    } catch (const Error& error) {
      no_tokenizer = error.what();
    }
    for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
      if (entry.is_regular_file()) {
        files.emplace_back(entry.path().filename().string(),
                           static_cast<int64_t>(entry.file_size()));
      }
    }
    std::sort(files.begin(), files.end());
  }

  std::string TokenizerName() const {
    if (!tokenizer) return "none";
    return dynamic_cast<const ByteTokenizer*>(tokenizer.get()) != nullptr ? "bytes" : "vocabulary";
  }

  std::unique_ptr<BlockLanguageModel> model;
  int64_t elements = 0;
  int64_t bytes = 0;
  std::unique_ptr<Tokenizer> tokenizer;  // null: there is none, for the reason below
  std::string no_tokenizer;
  std::vector<std::pair<std::string, int64_t>> files;
};

// The config in the names of the paper.
JsonValue::Object ConfigFields(const ModelConfig& config) {
  return {
      {"vocab_size", config.vocab_size},
      {"d_model", config.d_model},
      {"n_layer", config.n_layer},
      {"d_state", config.d_state},
      {"d_conv", config.d_conv},
      {"expand", config.expand},
      {"d_inner", config.d_inner},
      {"dt_rank", config.dt_rank},
      {"use_bias", config.use_bias},
      {"use_conv_bias", config.use_conv_bias},
      {"tie_word_embeddings", config.tie_word_embeddings},
      {"norm_eps", config.norm_eps},
      {"bos_token_id", config.bos_token_id},
      {"eos_token_id", config.eos_token_id},
  };
}

void PrintJson(const Report& report) {
  JsonValue::Array parameters;
  for (const Parameter& parameter : std::as_const(*report.model).parameters()) {
    const Tensor& value = parameter.value;
    JsonValue::Array shape;
    for (const int64_t size : value.shape().dims()) shape.emplace_back(size);
    parameters.emplace_back(JsonValue::Object{{"name", parameter.name},
                                              {"dtype", DTypeName(value.dtype())},
                                              {"shape", std::move(shape)},
                                              {"elements", value.elements()},
                                              {"bytes", value.bytes()}});
  }
  JsonValue::Array files;
  for (const auto& [name, size] : report.files) {
    files.emplace_back(JsonValue::Object{{"name", name}, {"bytes", size}});
  }
  JsonValue tokenizer;
  if (report.tokenizer) {
    tokenizer = JsonValue::Object{{"type", report.TokenizerName()},
                                  {"vocab_size", report.tokenizer->vocab_size()}};
  }
  const JsonValue json(JsonValue::Object{
      {"architecture", "MambaForCausalLM"},
      {"config", ConfigFields(report.model->config())},
      {"parameters", std::move(parameters)},
      {"parameter_count", report.elements},
      {"parameter_bytes", report.bytes},
      {"state_bytes_per_sequence", report.model->InitialState(1).bytes()},
      {"files", std::move(files)},
      {"tokenizer", std::move(tokenizer)},
      {"fingerprint", fmt::format("{:016x}", report.model->fingerprint())},
  });
  WriteStandardOutput(json.ToText(2) + "\n");
}

// "backbone.layers.7.norm.weight" → "backbone.layers.*.norm.weight"
std::string WithoutLayer(const std::string& name) {
  constexpr std::string_view kLayers = ".layers.";
  const size_t at = name.find(kLayers);
  if (at == std::string::npos) return name;
  const size_t begin = at + kLayers.size();
  size_t end = begin;
  while (end < name.size() && std::isdigit(static_cast<unsigned char>(name[end]))) ++end;
  return name.substr(0, begin) + "*" + name.substr(end);
}

// One line of the table of parameters: those of all layers that are alike, unless `all`.
struct Row {
  std::string name;
  std::string type;
  int64_t count = 0;
  int64_t elements = 0;
  int64_t bytes = 0;
};

std::vector<Row> Rows(const BlockLanguageModel& model, bool all) {
  std::vector<Row> rows;
  std::map<std::pair<std::string, std::string>, size_t> known;
  for (const Parameter& parameter : model.parameters()) {
    const std::string name = all ? parameter.name : WithoutLayer(parameter.name);
    const auto [place, is_new] =
        known.emplace(std::pair(name, parameter.value.ToString()), rows.size());
    if (is_new) rows.push_back({name, parameter.value.ToString()});
    Row& row = rows[place->second];
    ++row.count;
    row.elements += parameter.value.elements();
    row.bytes += parameter.value.bytes();
  }
  return rows;
}

void PrintTables(const Options& options, const Report& report) {
  std::string text = fmt::format("{}: MambaForCausalLM\n\nconfig\n", options.directory);
  for (const JsonValue::Member& field : ConfigFields(report.model->config())) {
    text += fmt::format("  {:<22}{}\n", field.key, field.value.ToText());
  }

  const std::vector<Row> rows = Rows(*report.model, options.all);
  size_t name_width = 0;
  size_t type_width = 0;
  for (const Row& row : rows) {
    name_width = std::max(name_width, row.name.size());
    type_width = std::max(type_width, row.type.size());
  }
  text += "\nparameters\n";
  for (const Row& row : rows) {
    text += fmt::format("  {:<{}}  {:<{}}  {:>6}  {:>15}  {:>8}\n", row.name, name_width, row.type,
                        type_width, row.count > 1 ? fmt::format("× {}", row.count) : "",
                        Grouped(row.elements), HumanBytes(row.bytes));
  }
  text += fmt::format("  {:<{}}  {:<{}}  {:>6}  {:>15}  {:>8}\n", "total", name_width, "",
                      type_width, "", Grouped(report.elements), HumanBytes(report.bytes));

  text += fmt::format("\nstate of a sequence     {} ({} bytes), of any length\n",
                      HumanBytes(report.model->InitialState(1).bytes()),
                      Grouped(report.model->InitialState(1).bytes()));
  text += report.tokenizer
              ? fmt::format("tokenizer               {}, {} tokens\n", report.TokenizerName(),
                            report.tokenizer->vocab_size())
              : fmt::format("tokenizer               none ({})\n", report.no_tokenizer);
  text += fmt::format("fingerprint             {:016x}\n\nfiles\n", report.model->fingerprint());
  size_t file_width = 0;
  for (const auto& [name, size] : report.files) file_width = std::max(file_width, name.size());
  for (const auto& [name, size] : report.files) {
    text += fmt::format("  {:<{}}  {:>8}\n", name, file_width, HumanBytes(size));
  }
  WriteStandardOutput(text);
}

void Run(const Options& options) {
  const Report report(options.directory);
  if (options.json) {
    PrintJson(report);
  } else {
    PrintTables(options, report);
  }
}

}  // namespace

void AddInspectCommand(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("inspect", "Show what a model directory holds");
  command->add_option("directory", options->directory, "Model directory")
      ->required()
      ->type_name("DIR");
  command->add_flag("--all", options->all, "Every layer's parameters on lines of their own");
  command->add_flag("--json", options->json, "Print JSON");
  command->callback([options] { Run(*options); });
}

}  // namespace adder
