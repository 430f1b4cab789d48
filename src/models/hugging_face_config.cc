// Which field of which class means what.
#include "adder/models/hugging_face_config.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <limits>
#include <vector>

#include "adder/core/error.h"

namespace adder {
namespace {

constexpr double kTiny = std::numeric_limits<double>::min();  // positive
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int64_t kLargest = ModelConfig::kLargestDimension;

constexpr Architecture kArchitectures[] = {Architecture::kMamba, Architecture::kFalconMamba,
                                           Architecture::kMamba2, Architecture::kGptNeoX,
                                           Architecture::kLlama};
constexpr std::string_view kKnownTypes =
    "\"mamba\", \"falcon_mamba\", \"mamba2\", \"gpt_neox\" or \"llama\"";

// A token id, or a list of them; none for null and -1.
std::vector<int64_t> TokenIds(const JsonObject& json, std::string_view key, int64_t fallback) {
  const JsonValue* value = json.value().Find(key);
  if (value == nullptr) return {fallback};
  const JsonValue::Array one = {*value};
  const JsonValue::Array* list = value->AsArray();
  std::vector<int64_t> ids;
  for (const JsonValue& entry : list != nullptr ? *list : one) {
    if (entry.is_null()) continue;
    const int64_t* id = entry.AsInt();
    if (id == nullptr || *id < -1) json.Fail(key, "a token id");
    if (*id >= 0) ids.push_back(*id);
  }
  return ids;
}

// Texts begin with the first of the tokens listed; each of them ends one.
void ParseTokenIds(const JsonObject& json, int64_t bos, int64_t eos, ModelConfig& config) {
  const std::vector<int64_t> begins = TokenIds(json, "bos_token_id", bos);
  const std::vector<int64_t> ends = TokenIds(json, "eos_token_id", eos);
  config.bos_token_id = begins.empty() ? -1 : begins.front();
  config.eos_token_id = ends.empty() ? -1 : ends.front();
  if (!ends.empty()) config.more_eos_token_ids.assign(ends.begin() + 1, ends.end());
}

bool ListsClass(const JsonObject& json, std::string_view name) {
  for (const JsonValue& entry : json.Array("architectures")) {
    if (entry.AsString() != nullptr && *entry.AsString() == name) return true;
  }
  return false;
}

Architecture FindArchitecture(const JsonObject& json) {
  const bool has_classes = json.Has("architectures");
  if (json.Has("model_type")) {
    const std::string& type = json.String("model_type");
    for (const Architecture architecture : kArchitectures) {
      if (type != ArchitectureName(architecture)) continue;
      if (has_classes && !ListsClass(json, HuggingFaceClass(architecture))) {
        json.Fail("architectures", fmt::format("[\"{}\"]", HuggingFaceClass(architecture)),
                  ErrorCode::kUnsupported);
      }
      return architecture;
    }
    json.Fail("model_type", kKnownTypes, ErrorCode::kUnsupported);
  }
  if (!has_classes) json.Fail("model_type", kKnownTypes);
  for (const Architecture architecture : kArchitectures) {
    if (ListsClass(json, HuggingFaceClass(architecture))) return architecture;
  }
  json.Fail("architectures", "[\"MambaForCausalLM\"] or another known class",
            ErrorCode::kUnsupported);
}

void ExpectActivation(const JsonObject& json, std::string_view expected) {
  if (json.StringOr("hidden_act", std::string(expected)) != expected) {
    json.Fail("hidden_act", fmt::format("\"{}\"", expected), ErrorCode::kUnsupported);
  }
}

// A number, or the infinity that JSON cannot write.
double NumberOrInfinity(const JsonObject& json, std::string_view key, const JsonValue& value) {
  double number = 0;
  if (value.AsDouble(&number)) return number;
  const JsonValue* word = value.Find("__float__");
  if (word != nullptr && word->AsString() != nullptr) {
    if (*word->AsString() == "Infinity") return kInfinity;
    if (*word->AsString() == "-Infinity") return -kInfinity;
  }
  json.Fail(key, "two numbers, of which the second may be Infinity");
}

void ParseSsm(const JsonObject& json, ModelConfig& config) {
  ExpectActivation(json, "silu");
  const bool mamba2 = config.architecture == Architecture::kMamba2;
  config.d_state = json.IntOr("state_size", mamba2 ? 128 : 16, 1, kLargest);
  config.d_conv = json.IntOr("conv_kernel", 4, 2, 8);
  config.expand = json.IntOr("expand", 2, 1, kLargest);
  config.use_bias = json.BoolOr("use_bias", config.architecture == Architecture::kMamba);
  config.use_conv_bias = json.BoolOr("use_conv_bias", true);
  config.norm_eps = json.DoubleOr("layer_norm_epsilon", 1e-5, 0, 1);
  json.BoolOr("residual_in_fp32", true);  // the stream is always f32, which is at least as exact
  config.dt_min = json.DoubleOr("time_step_min", 1e-3, kTiny);
  config.dt_max = json.DoubleOr("time_step_max", 1e-1, kTiny);
  config.dt_init_floor = json.DoubleOr("time_step_floor", 1e-4, 0);
  config.initializer_range = json.DoubleOr("initializer_range", 0.1, 0);
  config.rescale_prenorm_residual = json.BoolOr("rescale_prenorm_residual", false);
}

// dt_rank and d_inner, which Mamba-2 has not.
void ParseMamba1(const JsonObject& json, ModelConfig& config) {
  config.d_inner = json.IntOr("intermediate_size", 0, 1, kLargest);
  const JsonValue* rank = json.value().Find("time_step_rank");
  const std::string* word = rank == nullptr ? nullptr : rank->AsString();
  if (word != nullptr && *word != "auto") json.Fail("time_step_rank", "an integer or \"auto\"");
  config.dt_rank = word != nullptr ? 0 : json.IntOr("time_step_rank", 0, 1, kLargest);
}

// Mamba-2's gated norm has a group for each group of B and C. transformers 5 had one of all
// channels until version 5.23, and so has what it wrote; the conversions of the authors'
// checkpoints, made with older versions, mean groups whatever their software computed.
bool NormalizesAllChannels(const JsonObject& json) {
  const std::string version = json.StringOr("transformers_version", "");
  int major = 0;
  int minor = 0;
  return std::sscanf(version.c_str(), "%d.%d", &major, &minor) == 2 && major == 5 && minor < 23;
}

void ParseMamba2(const JsonObject& json, ModelConfig& config) {
  config.head_dim = json.IntOr("head_dim", 64, 1, kLargest);
  config.n_groups = json.IntOr("n_groups", 8, 1, kLargest);
  if (NormalizesAllChannels(json)) config.norm_groups = 1;
  const int64_t heads = json.IntOr("num_heads", 128, 1, kLargest);
  config.d_inner = config.expand * config.d_model;
  if (heads * config.head_dim != config.d_inner) {
    json.Fail("num_heads", fmt::format("{}, which is expand · hidden_size / head_dim",
                                       static_cast<double>(config.d_inner) /
                                           static_cast<double>(config.head_dim)));
  }
  if (!json.BoolOr("rms_norm", true)) json.Fail("rms_norm", "true", ErrorCode::kUnsupported);
  if (json.Has("time_step_limit")) {
    const JsonValue::Array& limits = json.Array("time_step_limit");
    if (limits.size() != 2) json.Fail("time_step_limit", "two numbers");
    config.dt_limit_min = NumberOrInfinity(json, "time_step_limit", limits[0]);
    config.dt_limit_max = NumberOrInfinity(json, "time_step_limit", limits[1]);
  }
}

// theta and the rotated share of a head, in the newer and in the older form.
void ParseRotary(const JsonObject& json, std::string_view old_theta, double share,
                 std::string_view old_share, ModelConfig& config) {
  double theta = json.DoubleOr(old_theta, 10000, kTiny);
  if (!old_share.empty()) share = json.DoubleOr(old_share, share, 0, 1);
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    if (!json.Has(key)) continue;
    const JsonObject rope = json.Object(key);
    const char* type_key = rope.Has("rope_type") ? "rope_type" : "type";
    if (rope.StringOr(type_key, "default") != "default") {
      rope.Fail(type_key, "\"default\"", ErrorCode::kUnsupported);
    }
    theta = rope.DoubleOr("rope_theta", theta, kTiny);
    share = rope.DoubleOr("partial_rotary_factor", share, 0, 1);
  }
  config.attention.rope_theta = theta;
  config.attention.rotary_dim =
      static_cast<int64_t>(static_cast<double>(config.attention.d_head) * share);
}

void ParseTransformer(const JsonObject& json, ModelConfig& config) {
  const bool neox = config.architecture == Architecture::kGptNeoX;
  ExpectActivation(json, neox ? "gelu" : "silu");
  AttentionConfig& a = config.attention;
  a.n_head = json.Int("num_attention_heads", 1, kLargest);
  a.n_kv_head = neox ? a.n_head : json.IntOr("num_key_value_heads", a.n_head, 1, a.n_head);
  if (config.d_model % a.n_head != 0 && (neox || !json.Has("head_dim"))) {
    json.Fail("num_attention_heads", "a divisor of hidden_size");
  }
  a.d_head = neox ? config.d_model / a.n_head
                  : json.IntOr("head_dim", config.d_model / a.n_head, 1, kLargest);
  a.use_qkv_bias = a.use_out_bias = json.BoolOr("attention_bias", neox);
  config.d_intermediate = json.Int("intermediate_size", 1, kLargest);
  config.initializer_range = json.DoubleOr("initializer_range", 0.02, 0);
  if (neox) {
    config.rms_norm = false;
    config.norm_eps = json.DoubleOr("layer_norm_eps", 1e-5, 0, 1);
    config.use_parallel_residual = json.BoolOr("use_parallel_residual", true);
    ParseRotary(json, "rotary_emb_base", 0.25, "rotary_pct", config);
  } else {
    config.norm_eps = json.DoubleOr("rms_norm_eps", 1e-6, 0, 1);
    if (json.BoolOr("mlp_bias", false)) json.Fail("mlp_bias", "false", ErrorCode::kUnsupported);
    ParseRotary(json, "rope_theta", 1, "", config);
  }
}

JsonValue InfinityOr(double value) {
  if (!std::isinf(value)) return value;
  return JsonValue::Object{{"__float__", value > 0 ? "Infinity" : "-Infinity"}};
}

void AppendSsm(const ModelConfig& c, JsonValue::Object& json) {
  json.insert(json.end(), {{"conv_kernel", c.d_conv},
                           {"expand", c.expand},
                           {"hidden_act", "silu"},
                           {"layer_norm_epsilon", c.norm_eps},
                           // With true, transformers 5 would rescale the weights as it loads them.
                           {"rescale_prenorm_residual", false},
                           {"residual_in_fp32", true},
                           {"state_size", c.d_state},
                           {"time_step_floor", c.dt_init_floor},
                           {"time_step_max", c.dt_max},
                           {"time_step_min", c.dt_min},
                           {"use_bias", c.use_bias},
                           {"use_conv_bias", c.use_conv_bias}});
  if (c.architecture == Architecture::kMamba2) {
    json.insert(json.end(), {{"chunk_size", 256},
                             {"head_dim", c.head_dim},
                             {"n_groups", c.n_groups},
                             {"num_heads", c.n_ssm_head()},
                             {"rms_norm", true},
                             {"time_step_limit", JsonValue::Array{InfinityOr(c.dt_limit_min),
                                                                  InfinityOr(c.dt_limit_max)}}});
    return;
  }
  json.insert(json.end(), {{"intermediate_size", c.d_inner},
                           {"time_step_init_scheme", "random"},
                           {"time_step_rank", c.dt_rank},
                           {"time_step_scale", 1.0}});
  if (c.architecture == Architecture::kFalconMamba) {
    json.push_back({"mixer_rms_eps", c.mixer_norm_eps});
  }
}

void AppendTransformer(const ModelConfig& c, JsonValue::Object& json) {
  const AttentionConfig& a = c.attention;
  const bool neox = c.architecture == Architecture::kGptNeoX;
  JsonValue::Object rope = {{"rope_theta", a.rope_theta}, {"rope_type", "default"}};
  if (neox) {
    rope.push_back({"partial_rotary_factor",
                    static_cast<double>(a.rotary_dim) / static_cast<double>(a.d_head)});
  }
  json.insert(json.end(), {{"attention_bias", a.use_qkv_bias},
                           {"hidden_act", neox ? "gelu" : "silu"},
                           {"intermediate_size", c.d_intermediate},
                           {"num_attention_heads", a.n_head},
                           {"rope_parameters", std::move(rope)}});
  if (neox) {
    json.insert(json.end(), {{"layer_norm_eps", c.norm_eps},
                             {"use_parallel_residual", c.use_parallel_residual}});
  } else {
    json.insert(json.end(), {{"head_dim", a.d_head},
                             {"mlp_bias", false},
                             {"num_key_value_heads", a.n_kv_head},
                             {"rms_norm_eps", c.norm_eps}});
  }
}

}  // namespace

std::string_view HuggingFaceClass(Architecture architecture) {
  switch (architecture) {
    case Architecture::kMamba:
      return "MambaForCausalLM";
    case Architecture::kFalconMamba:
      return "FalconMambaForCausalLM";
    case Architecture::kMamba2:
      return "Mamba2ForCausalLM";
    case Architecture::kGptNeoX:
      return "GPTNeoXForCausalLM";
    case Architecture::kLlama:
      return "LlamaForCausalLM";
  }
  return "";
}

ModelConfig ParseHuggingFaceConfig(const JsonObject& json) {
  ModelConfig config;
  config.architecture = FindArchitecture(json);
  config.vocab_size = json.Int("vocab_size", 1, ModelConfig::kLargestVocabulary);
  config.d_model = json.Int("hidden_size", 1, kLargest);
  config.n_layer = json.Int("num_hidden_layers", 1, ModelConfig::kMostLayers);
  const bool ties = config.architecture == Architecture::kMamba ||
                    config.architecture == Architecture::kFalconMamba;
  config.tie_word_embeddings = json.BoolOr("tie_word_embeddings", ties);
  switch (config.architecture) {
    case Architecture::kMamba:
    case Architecture::kFalconMamba:
      ParseSsm(json, config);
      ParseMamba1(json, config);
      config.mixer_norm_eps = json.DoubleOr("mixer_rms_eps", 1e-6, 0, 1);
      ParseTokenIds(json, 0, 0, config);
      break;
    case Architecture::kMamba2:
      ParseSsm(json, config);
      ParseMamba2(json, config);
      ParseTokenIds(json, 0, 2, config);
      break;
    case Architecture::kGptNeoX:
    case Architecture::kLlama:
      ParseTransformer(json, config);
      ParseTokenIds(json, config.architecture == Architecture::kLlama ? 1 : 0, 2, config);
      break;
  }
  try {
    config.Resolve();
  } catch (const Error& error) {
    throw Error(ErrorCode::kCorrupt, fmt::format("{}: {}", json.source(), error.what()));
  }
  return config;
}

JsonValue TokenIdJson(int64_t id) { return id < 0 ? JsonValue() : JsonValue(id); }

JsonValue EndTokensJson(const ModelConfig& config) {
  if (config.more_eos_token_ids.empty()) return TokenIdJson(config.eos_token_id);
  JsonValue::Array ids;
  for (const int64_t id : config.EndTokens()) ids.emplace_back(id);
  return ids;
}

std::string HuggingFaceConfigJson(const ModelConfig& config, DType dtype) {
  if (config.architecture == Architecture::kMamba2 && config.norm_groups != 1 &&
      config.norm_groups != config.n_groups) {
    throw Error(ErrorCode::kUnsupported, "no Hugging Face class has such groups of the gated norm");
  }
  const bool hybrid =
      !config.attention_layers.empty() || (!config.is_transformer() && config.d_intermediate > 0);
  if (hybrid || (!config.is_transformer() && !config.rms_norm)) {
    throw Error(ErrorCode::kUnsupported,
                "no Hugging Face class has Mamba layers together with attention, an MLP or layer "
                "norms; the state-spaces layout can hold this model");
  }
  const char* dtype_name = dtype == DType::kF32    ? "float32"
                           : dtype == DType::kBF16 ? "bfloat16"
                                                   : "float16";
  JsonValue::Object json = {
      {"architectures", JsonValue::Array{HuggingFaceClass(config.architecture)}},
      {"bos_token_id", TokenIdJson(config.bos_token_id)},
      {"dtype", dtype_name},
      {"eos_token_id", EndTokensJson(config)},
      {"hidden_size", config.d_model},
      {"initializer_range", config.initializer_range},
      {"model_type", ArchitectureName(config.architecture)},
      {"num_hidden_layers", config.n_layer},
      {"tie_word_embeddings", config.tie_word_embeddings},
      {"use_cache", true},
      {"vocab_size", config.vocab_size},
  };
  if (config.is_transformer()) {
    AppendTransformer(config, json);
  } else {
    AppendSsm(config, json);
  }
  return JsonValue(std::move(json)).ToText(2) + "\n";
}

std::string ReplacePythonNumbers(std::string_view text) {
  std::string replaced;
  replaced.reserve(text.size());
  bool in_string = false;
  for (size_t i = 0; i < text.size();) {
    if (in_string && text[i] == '\\' && i + 1 < text.size()) {
      replaced += text.substr(i, 2);
      i += 2;
      continue;
    }
    if (text[i] == '"') in_string = !in_string;
    bool found = false;
    for (const std::string_view word : {"-Infinity", "Infinity", "NaN"}) {
      if (in_string || !text.substr(i).starts_with(word)) continue;
      replaced += fmt::format("{{\"__float__\": \"{}\"}}", word);
      i += word.size();
      found = true;
      break;
    }
    if (!found) replaced += text[i++];
  }
  return replaced;
}

}  // namespace adder
