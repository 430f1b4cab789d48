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
#include "adder/models/checkpoint.h"
#include "adder/models/hugging_face_config.h"
#include "adder/text/tokenizer.h"

namespace adder {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string directory;
  bool all = false;
  bool json = false;
};

// Everything there is to say, as JSON has it and as the tables show it.
struct Report {
  explicit Report(const fs::path& path) : model(LoadModel(path, DType::kF32)) {
    for (const Parameter& parameter : std::as_const(*model).parameters()) {
      elements += parameter.value.elements();
      bytes += parameter.value.bytes();
    }
    try {
      tokenizer = Tokenizer::Load(path);
    } catch (const Error& error) {
      no_tokenizer = error.what();
    }
    const auto add_file = [&](const fs::path& file) {
      // JSON is UTF-8, whatever the names are.
      files.emplace_back(ToUtf8(file.filename().string()),
                         static_cast<int64_t>(fs::file_size(file)));
    };
    if (fs::is_regular_file(path)) {
      add_file(path);
    } else {
      for (const fs::directory_entry& entry : fs::directory_iterator(path)) {
        if (entry.is_regular_file()) add_file(entry.path());
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

// The config in the names of the papers: what the architecture has.
JsonValue::Object ConfigFields(const ModelConfig& c) {
  JsonValue::Object fields = {{"vocab_size", c.vocab_size},
                              {"d_model", c.d_model},
                              {"n_layer", c.n_layer},
                              {"tie_word_embeddings", c.tie_word_embeddings},
                              {"norm_eps", c.norm_eps},
                              {"bos_token_id", c.bos_token_id},
                              {"eos_token_id", EndTokensJson(c)}};
  const auto add = [&](const JsonValue::Object& more) {
    fields.insert(fields.end(), more.begin(), more.end());
  };
  if (!c.is_transformer()) {
    add({{"d_state", c.d_state},
         {"d_conv", c.d_conv},
         {"expand", c.expand},
         {"d_inner", c.d_inner},
         {"use_bias", c.use_bias},
         {"use_conv_bias", c.use_conv_bias}});
    if (c.architecture == Architecture::kMamba2) {
      add({{"head_dim", c.head_dim}, {"n_groups", c.n_groups}});
    } else {
      add({{"dt_rank", c.dt_rank}});
    }
  }
  if (c.is_transformer() || !c.attention_layers.empty()) {
    const AttentionConfig& a = c.attention;
    add({{"n_head", a.n_head},
         {"n_kv_head", a.n_kv_head},
         {"d_head", a.d_head},
         {"rotary_dim", a.rotary_dim},
         {"rope_theta", a.rope_theta}});
  }
  if (!c.attention_layers.empty()) {
    JsonValue::Array layers;
    for (const int64_t layer : c.attention_layers) layers.emplace_back(layer);
    add({{"attention_layers", std::move(layers)}});
  }
  if (c.d_intermediate > 0) add({{"d_intermediate", c.d_intermediate}});
  return fields;
}

// Bytes that a sequence's memory grows by with each row.
int64_t StateBytesPerRow(const BlockLanguageModel& model) {
  int64_t bytes = 0;
  const State state = model.InitialState(1);
  for (const State::Entry& entry : state.entries()) {
    if (!entry.grows) continue;
    int64_t elements = 1;
    for (int i = 2; i < entry.value.rank(); ++i) elements *= entry.value.dim(i);
    bytes += elements * DTypeSize(entry.value.dtype());
  }
  return bytes;
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
      {"architecture", HuggingFaceClass(report.model->config().architecture)},
      {"config", ConfigFields(report.model->config())},
      {"parameters", std::move(parameters)},
      {"parameter_count", report.elements},
      {"parameter_bytes", report.bytes},
      {"state_bytes_per_sequence", report.model->InitialState(1).bytes()},
      {"state_bytes_per_row", StateBytesPerRow(*report.model)},
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
  std::string text = fmt::format("{}: {}\n\nconfig\n", options.directory,
                                 HuggingFaceClass(report.model->config().architecture));
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

  const int64_t fixed = report.model->InitialState(1).bytes();
  const int64_t per_row = StateBytesPerRow(*report.model);
  text += fmt::format("\nstate of a sequence     {} ({} bytes), {}\n", HumanBytes(fixed),
                      Grouped(fixed),
                      per_row == 0 ? std::string("of any length")
                                   : fmt::format("and {} bytes a token", Grouped(per_row)));
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
  command->add_option("directory", options->directory, "Model directory or GGUF file")
      ->required()
      ->type_name("DIR");
  command->add_flag("--all", options->all, "Every layer's parameters on lines of their own");
  command->add_flag("--json", options->json, "Print JSON");
  command->callback([options] { Run(*options); });
}

}  // namespace adder
