// ssm_cfg, attn_cfg and their defaults.
#include "adder/models/state_spaces_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <string_view>

#include "adder/core/error.h"

namespace adder {
namespace {

constexpr int64_t kLargest = ModelConfig::kLargestDimension;
// The MLP's width is rounded up to a multiple of this.
constexpr int64_t kMlpMultiple = 128;

// Other fields would change what is computed.
void ExpectKeys(const JsonObject& json, std::initializer_list<std::string_view> known) {
  for (const JsonValue::Member& member : *json.value().AsObject()) {
    if (std::find(known.begin(), known.end(), member.key) == known.end()) {
      json.Fail(member.key, "no such field", ErrorCode::kUnsupported);
    }
  }
}

JsonObject ObjectOrEmpty(const JsonObject& json, std::string_view key) {
  return json.Has(key) ? json.Object(key) : JsonObject::Parse("{}", json.source());
}

void ParseSsm(const JsonObject& ssm, ModelConfig& config) {
  const std::string layer = ssm.StringOr("layer", "Mamba1");
  const bool mamba2 = layer == "Mamba2";
  if (!mamba2 && layer != "Mamba1") {
    ssm.Fail("layer", "\"Mamba1\" or \"Mamba2\"", ErrorCode::kUnsupported);
  }
  config.architecture = mamba2 ? Architecture::kMamba2 : Architecture::kMamba;
  config.d_state = ssm.IntOr("d_state", mamba2 ? 128 : 16, 1, kLargest);
  config.d_conv = ssm.IntOr("d_conv", 4, 2, 8);
  config.expand = ssm.IntOr("expand", 2, 1, kLargest);
  config.use_bias = ssm.BoolOr("bias", false);
  config.use_conv_bias = ssm.BoolOr("conv_bias", true);
  config.dt_min = ssm.DoubleOr("dt_min", 1e-3, std::numeric_limits<double>::min());
  config.dt_max = ssm.DoubleOr("dt_max", 1e-1, std::numeric_limits<double>::min());
  config.dt_init_floor = ssm.DoubleOr("dt_init_floor", 1e-4, 0);
  if (mamba2) {
    ExpectKeys(ssm, {"layer", "d_state", "d_conv", "expand", "bias", "conv_bias", "dt_min",
                     "dt_max", "dt_init_floor", "headdim", "ngroups", "chunk_size"});
    config.head_dim = ssm.IntOr("headdim", 64, 1, kLargest);
    config.n_groups = ssm.IntOr("ngroups", 1, 1, kLargest);
    return;
  }
  ExpectKeys(ssm, {"layer", "d_state", "d_conv", "expand", "bias", "conv_bias", "dt_min", "dt_max",
                   "dt_init_floor", "dt_rank", "dt_scale", "dt_init", "use_fast_path"});
  const JsonValue* rank = ssm.value().Find("dt_rank");
  const std::string* word = rank == nullptr ? nullptr : rank->AsString();
  if (word != nullptr && *word != "auto") ssm.Fail("dt_rank", "an integer or \"auto\"");
  config.dt_rank = word != nullptr ? 0 : ssm.IntOr("dt_rank", 0, 1, kLargest);
}

void ParseAttention(const JsonObject& attention, ModelConfig& config) {
  ExpectKeys(attention, {"causal", "d_conv", "head_dim", "num_heads", "num_heads_kv",
                         "out_proj_bias", "qkv_proj_bias", "rotary_emb_dim", "rotary_emb_base",
                         "rotary_emb_interleaved", "softmax_scale", "mlp_dim"});
  AttentionConfig& a = config.attention;
  if (!attention.BoolOr("causal", false)) {
    attention.Fail("causal", "true", ErrorCode::kUnsupported);
  }
  if (attention.IntOr("mlp_dim", 0) != 0) {
    attention.Fail("mlp_dim", "0", ErrorCode::kUnsupported);
  }
  if (attention.Has("softmax_scale")) {
    attention.Fail("softmax_scale", "null", ErrorCode::kUnsupported);
  }
  a.n_head = attention.Int("num_heads", 1, kLargest);
  a.n_kv_head = attention.IntOr("num_heads_kv", a.n_head, 1, a.n_head);
  a.d_head = attention.IntOr("head_dim", 0, 1, kLargest);
  a.d_conv = attention.IntOr("d_conv", 0, 0, 8);
  a.use_qkv_bias = attention.BoolOr("qkv_proj_bias", true);
  a.use_out_bias = attention.BoolOr("out_proj_bias", true);
  a.rotary_dim = attention.IntOr("rotary_emb_dim", 0, 0, kLargest);
  a.rope_theta = attention.DoubleOr("rotary_emb_base", 10000, std::numeric_limits<double>::min());
  a.rotary_interleaved = attention.BoolOr("rotary_emb_interleaved", false);
}

}  // namespace

bool IsStateSpacesConfig(const JsonObject& json) {
  return !json.Has("model_type") && !json.Has("architectures") && json.Has("d_model") &&
         json.Has("n_layer");
}

ModelConfig ParseStateSpacesConfig(const JsonObject& json) {
  ModelConfig config;
  config.d_model = json.Int("d_model", 1, kLargest);
  config.n_layer = json.Int("n_layer", 1, ModelConfig::kMostLayers);
  const int64_t multiple = json.IntOr("pad_vocab_size_multiple", 8, 1, kLargest);
  config.vocab_size = json.Int("vocab_size", 1, ModelConfig::kLargestVocabulary - multiple);
  config.vocab_size = (config.vocab_size + multiple - 1) / multiple * multiple;
  config.rms_norm = json.BoolOr("rms_norm", true);
  json.BoolOr("residual_in_fp32", true);
  json.BoolOr("fused_add_norm", true);
  config.tie_word_embeddings = json.BoolOr("tie_embeddings", true);
  ParseSsm(ObjectOrEmpty(json, "ssm_cfg"), config);
  if (json.Has("attn_layer_idx")) {
    for (const JsonValue& entry : json.Array("attn_layer_idx")) {
      const int64_t* layer = entry.AsInt();
      if (layer == nullptr || *layer < 0 || *layer >= config.n_layer) {
        json.Fail("attn_layer_idx", fmt::format("layers from 0 to {}", config.n_layer - 1));
      }
      config.attention_layers.push_back(*layer);
    }
    std::sort(config.attention_layers.begin(), config.attention_layers.end());
  }
  if (!config.attention_layers.empty()) ParseAttention(ObjectOrEmpty(json, "attn_cfg"), config);
  config.d_intermediate = json.IntOr("d_intermediate", 0, 0, kLargest - kMlpMultiple);
  config.d_intermediate = (config.d_intermediate + kMlpMultiple - 1) / kMlpMultiple * kMlpMultiple;
  config.bos_token_id = config.eos_token_id = 0;  // GPT-NeoX's <|endoftext|>, the tokenizer of all
  try {
    config.Resolve();
  } catch (const Error& error) {
    throw Error(ErrorCode::kCorrupt, fmt::format("{}: {}", json.source(), error.what()));
  }
  return config;
}

std::string StateSpacesConfigJson(const ModelConfig& config) {
  const bool mamba2 = config.architecture == Architecture::kMamba2;
  if (!mamba2 && config.architecture != Architecture::kMamba) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("the state-spaces layout has no {}, only mamba, mamba2 and their "
                            "hybrids with attention",
                            ArchitectureName(config.architecture)));
  }
  if (config.d_inner != config.expand * config.d_model) {
    throw Error(ErrorCode::kUnsupported,
                "the state-spaces layout has no d_inner other than expand · d_model");
  }
  if (mamba2 &&
      (config.dt_limit_min > 0 || config.dt_limit_max < std::numeric_limits<double>::infinity())) {
    throw Error(ErrorCode::kUnsupported, "the state-spaces layout has no limits of the step");
  }
  if (mamba2 && config.norm_groups != config.n_groups) {
    throw Error(
        ErrorCode::kUnsupported,
        "the state-spaces layout has no gated norm over other groups than those of B and C");
  }
  if (config.norm_eps != 1e-5) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("the state-spaces layout has no norm_eps but 1e-05, the model's is {}",
                            config.norm_eps));
  }
  JsonValue::Object ssm = {{"layer", mamba2 ? "Mamba2" : "Mamba1"},
                           {"d_state", config.d_state},
                           {"d_conv", config.d_conv},
                           {"expand", config.expand},
                           {"bias", config.use_bias},
                           {"conv_bias", config.use_conv_bias}};
  if (mamba2) {
    ssm.push_back({"headdim", config.head_dim});
    ssm.push_back({"ngroups", config.n_groups});
  } else {
    ssm.push_back({"dt_rank", config.dt_rank});
  }
  JsonValue::Array layers;
  JsonValue::Object attention;
  for (const int64_t layer : config.attention_layers) layers.emplace_back(layer);
  if (!layers.empty()) {
    const AttentionConfig& a = config.attention;
    attention = {{"causal", true},
                 {"d_conv", a.d_conv},
                 {"head_dim", a.d_head},
                 {"num_heads", a.n_head},
                 {"num_heads_kv", a.n_kv_head},
                 {"out_proj_bias", a.use_out_bias},
                 {"qkv_proj_bias", a.use_qkv_bias},
                 {"rotary_emb_dim", a.rotary_dim},
                 {"rotary_emb_base", a.rope_theta},
                 {"rotary_emb_interleaved", a.rotary_interleaved}};
  }
  return JsonValue(JsonValue::Object{{"d_model", config.d_model},
                                     {"d_intermediate", config.d_intermediate},
                                     {"n_layer", config.n_layer},
                                     {"vocab_size", config.vocab_size},
                                     {"ssm_cfg", std::move(ssm)},
                                     {"attn_layer_idx", std::move(layers)},
                                     {"attn_cfg", std::move(attention)},
                                     {"rms_norm", config.rms_norm},
                                     {"residual_in_fp32", true},
                                     {"fused_add_norm", true},
                                     {"pad_vocab_size_multiple", 1},
                                     {"tie_embeddings", config.tie_word_embeddings}})
             .ToText(2) +
         "\n";
}

}  // namespace adder
