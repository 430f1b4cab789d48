// Reading and writing of Hugging Face MambaForCausalLM directories.
#include "adder/models/checkpoint.h"

#include <fmt/format.h>

#include <cstring>
#include <limits>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "adder/core/error.h"
#include "adder/formats/file.h"
#include "adder/formats/json.h"
#include "adder/formats/safetensors.h"
#include "adder/formats/sharded_safetensors.h"

namespace adder {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfigFile = "config.json";
constexpr const char* kGenerationConfigFile = "generation_config.json";
constexpr const char* kWeightsFile = "model.safetensors";
constexpr const char* kHeadName = "lm_head.weight";

// A token id, or the first of a list of them; -1 for null.
int64_t TokenId(const JsonObject& json, std::string_view key, int64_t fallback) {
  const JsonValue* value = json.value().Find(key);
  if (value == nullptr) return fallback;
  if (const JsonValue::Array* list = value->AsArray(); list != nullptr && !list->empty()) {
    value = &list->front();
  }
  if (value->is_null()) return -1;
  const int64_t* id = value->AsInt();
  if (id == nullptr || *id < -1) json.Fail(key, "a token id");
  return *id;
}

void CheckArchitecture(const JsonObject& json) {
  const std::string type = json.StringOr("model_type", "mamba");
  if (type != "mamba") json.Fail("model_type", "\"mamba\"", ErrorCode::kUnsupported);
  if (json.Has("architectures")) {
    bool found = false;
    for (const JsonValue& name : json.Array("architectures")) {
      const std::string* text = name.AsString();
      found = found || (text != nullptr && *text == "MambaForCausalLM");
    }
    if (!found) json.Fail("architectures", "[\"MambaForCausalLM\"]", ErrorCode::kUnsupported);
  } else if (!json.Has("model_type")) {
    json.Fail("model_type", "\"mamba\"");
  }
  if (json.StringOr("hidden_act", "silu") != "silu") {
    json.Fail("hidden_act", "\"silu\"", ErrorCode::kUnsupported);
  }
}

// "a, b, c and 7 more"
std::string Names(const std::set<std::string>& names) {
  constexpr size_t kShown = 3;
  std::string text;
  size_t shown = 0;
  for (const std::string& name : names) {
    if (shown == kShown) return text + fmt::format(" and {} more", names.size() - kShown);
    text += (shown++ == 0 ? "" : ", ") + name;
  }
  return text;
}

bool SameElements(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() && a.contiguous() && b.contiguous() &&
         (a.raw() == b.raw() || std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())) == 0);
}

}  // namespace

ModelConfig ParseModelConfig(std::string_view text, const std::string& source) {
  const JsonObject json = JsonObject::Parse(text, source);
  CheckArchitecture(json);
  ModelConfig config;
  constexpr double kTiny = std::numeric_limits<double>::min();  // positive
  constexpr int64_t kLargest = ModelConfig::kLargestDimension;
  config.vocab_size = json.Int("vocab_size", 1, ModelConfig::kLargestVocabulary);
  config.d_model = json.Int("hidden_size", 1, kLargest);
  config.n_layer = json.Int("num_hidden_layers", 1, ModelConfig::kMostLayers);
  config.d_state = json.IntOr("state_size", 16, 1, kLargest);
  config.d_conv = json.IntOr("conv_kernel", 4, 2, 8);
  config.expand = json.IntOr("expand", 2, 1, kLargest);
  config.d_inner = json.IntOr("intermediate_size", 0, 1, kLargest);
  const JsonValue* rank = json.value().Find("time_step_rank");
  const std::string* word = rank == nullptr ? nullptr : rank->AsString();
  if (word != nullptr && *word != "auto") json.Fail("time_step_rank", "an integer or \"auto\"");
  config.dt_rank = word != nullptr ? 0 : json.IntOr("time_step_rank", 0, 1, kLargest);
  config.use_bias = json.BoolOr("use_bias", true);
  config.use_conv_bias = json.BoolOr("use_conv_bias", true);
  config.tie_word_embeddings = json.BoolOr("tie_word_embeddings", true);
  config.norm_eps = json.DoubleOr("layer_norm_epsilon", 1e-5, 0, 1);
  json.BoolOr("residual_in_fp32", true);  // the stream is always f32, which is at least as exact
  config.dt_min = json.DoubleOr("time_step_min", 1e-3, kTiny);
  config.dt_max = json.DoubleOr("time_step_max", 1e-1, kTiny);
  config.dt_init_floor = json.DoubleOr("time_step_floor", 1e-4, 0);
  config.initializer_range = json.DoubleOr("initializer_range", 0.1, 0);
  config.rescale_prenorm_residual = json.BoolOr("rescale_prenorm_residual", false);
  config.bos_token_id = TokenId(json, "bos_token_id", 0);
  config.eos_token_id = TokenId(json, "eos_token_id", 0);
  try {
    config.Resolve();
  } catch (const Error& error) {
    throw Error(ErrorCode::kCorrupt, fmt::format("{}: {}", source, error.what()));
  }
  return config;
}

ModelConfig ReadModelConfig(const fs::path& directory) {
  constexpr size_t kLargestConfig = size_t{1} << 24;
  const fs::path path = directory / kConfigFile;
  return ParseModelConfig(ReadFile(path, kLargestConfig), path.string());
}

std::unique_ptr<BlockLanguageModel> LoadModel(const fs::path& directory, DType compute_dtype) {
  const ModelConfig config = ReadModelConfig(directory);
  const ShardedSafetensors weights = ShardedSafetensors::Open(directory);
  // Before a model of so many layers is built.
  if (config.n_layer > static_cast<int64_t>(weights.tensors().size())) {
    throw Error(
        ErrorCode::kCorrupt,
        fmt::format("{}: the weights are {} tensors, too few for the {} layers of {}",
                    directory.string(), weights.tensors().size(), config.n_layer, kConfigFile));
  }
  auto model = std::make_unique<BlockLanguageModel>(config, compute_dtype);
  std::set<std::string> unexpected;
  for (const auto& [name, tensor] : weights.tensors()) unexpected.insert(name);
  std::set<std::string> missing;
  for (size_t i = 0; i < model->parameters().size(); ++i) {
    Parameter& p = model->parameters()[i];
    if (unexpected.erase(p.name) == 0) {
      missing.insert(p.name);
      continue;
    }
    const Tensor& tensor = weights.Get(p.name);
    const Shape& shape = model->parameter_shapes()[i];
    const auto where = [&] {
      return fmt::format("{}: tensor {}", weights.FileOf(p.name).string(), p.name);
    };
    if (tensor.shape() != shape) {
      throw Error(ErrorCode::kCorrupt, fmt::format("{} has shape {}, config says {}", where(),
                                                   tensor.shape().ToString(), shape.ToString()));
    }
    if (tensor.dtype() != DType::kF32 && tensor.dtype() != DType::kBF16 &&
        tensor.dtype() != DType::kF16) {
      throw Error(ErrorCode::kUnsupported, fmt::format("{} has dtype {}, expected f32, bf16 or f16",
                                                       where(), DTypeName(tensor.dtype())));
    }
    p.value = tensor;
  }
  if (!missing.empty()) {
    throw Error(ErrorCode::kCorrupt,
                fmt::format("{}: the weights lack {}", directory.string(), Names(missing)));
  }
  if (config.tie_word_embeddings && unexpected.erase(kHeadName) > 0 &&
      !SameElements(weights.Get(kHeadName), model->parameters().front().value)) {
    throw Error(ErrorCode::kCorrupt,
                fmt::format("{}: tensor {} differs from the embedding that {} ties it to",
                            weights.FileOf(kHeadName).string(), kHeadName, kConfigFile));
  }
  if (!unexpected.empty()) {
    throw Error(ErrorCode::kCorrupt,
                fmt::format("{}: the weights hold tensors that no parameter of the model has: {}",
                            directory.string(), Names(unexpected)));
  }
  model->ParametersChanged();
  return model;
}

std::string ModelConfigJson(const ModelConfig& config, DType dtype) {
  const char* dtype_name = dtype == DType::kF32    ? "float32"
                           : dtype == DType::kBF16 ? "bfloat16"
                                                   : "float16";
  const auto token = [](int64_t id) { return id < 0 ? JsonValue() : JsonValue(id); };
  const JsonValue json(JsonValue::Object{
      {"architectures", JsonValue::Array{"MambaForCausalLM"}},
      {"bos_token_id", token(config.bos_token_id)},
      {"conv_kernel", config.d_conv},
      {"dtype", dtype_name},
      {"eos_token_id", token(config.eos_token_id)},
      {"expand", config.expand},
      {"hidden_act", "silu"},
      {"hidden_size", config.d_model},
      {"initializer_range", config.initializer_range},
      {"intermediate_size", config.d_inner},
      {"layer_norm_epsilon", config.norm_eps},
      {"model_type", "mamba"},
      {"num_hidden_layers", config.n_layer},
      {"rescale_prenorm_residual", config.rescale_prenorm_residual},
      {"residual_in_fp32", true},
      {"state_size", config.d_state},
      {"tie_word_embeddings", config.tie_word_embeddings},
      {"time_step_floor", config.dt_init_floor},
      {"time_step_init_scheme", "random"},
      {"time_step_max", config.dt_max},
      {"time_step_min", config.dt_min},
      {"time_step_rank", config.dt_rank},
      {"time_step_scale", 1.0},
      {"use_bias", config.use_bias},
      {"use_cache", true},
      {"use_conv_bias", config.use_conv_bias},
      {"vocab_size", config.vocab_size},
  });
  return json.ToText(2) + "\n";
}

void SaveModel(const BlockLanguageModel& model, const fs::path& directory, DType dtype) {
  if (dtype != DType::kF32 && dtype != DType::kBF16 && dtype != DType::kF16) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("a checkpoint cannot be written in {}, expected f32, bf16 or f16",
                            DTypeName(dtype)));
  }
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const Parameter& p : model.parameters()) {
    if (!p.value.defined()) {
      throw Error(ErrorCode::kInvalidArgument, "parameter " + p.name + " has no value yet");
    }
    tensors.emplace_back(p.name, p.value.To(p.full_precision ? DType::kF32 : dtype));
  }
  const ModelConfig& config = model.config();
  const auto token = [](int64_t id) { return id < 0 ? JsonValue() : JsonValue(id); };
  const JsonValue generation(JsonValue::Object{{"_from_model_config", true},
                                               {"bos_token_id", token(config.bos_token_id)},
                                               {"eos_token_id", token(config.eos_token_id)},
                                               {"use_cache", true}});
  WriteSafetensors(directory / kWeightsFile, tensors, {{"format", "pt"}});
  WriteFileAtomically(directory / kGenerationConfigFile, generation.ToText(2) + "\n");
  WriteFileAtomically(directory / kConfigFile, ModelConfigJson(config, dtype));
}

}  // namespace adder
