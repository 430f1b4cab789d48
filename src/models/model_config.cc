// Published sizes, and the checks every config passes before anything is built from it.
#include "adder/models/model_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "adder/core/error.h"

namespace adder {
namespace {

void CheckRange(const char* field, int64_t value, int64_t least, int64_t most) {
  if (value < least || value > most) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} is {}, expected {} to {}", field, value, least, most));
  }
}

void CheckReal(const char* field, double value, bool valid, const char* expected) {
  if (!std::isfinite(value) || !valid) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} is {}, expected {}", field, value, expected));
  }
}

void CheckDivides(const char* field, int64_t value, int64_t divisor) {
  if (value % divisor != 0) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} is {}, expected a multiple of {}", field, value, divisor));
  }
}

struct Size {
  std::string_view name;
  int64_t d_model;
  int64_t n_layer;
  int64_t n_head = 0;
};

const Size* Find(std::string_view name, const Size* begin, const Size* end) {
  const Size* found = std::find_if(begin, end, [&](const Size& size) { return size.name == name; });
  return found == end ? nullptr : found;
}

constexpr Size kMambaSizes[] = {{"130m", 768, 24},
                                {"370m", 1024, 48},
                                {"790m", 1536, 48},
                                {"1.4b", 2048, 48},
                                {"2.8b", 2560, 64}};
constexpr Size kMamba2Sizes[] = {{"mamba2-130m", 768, 24},
                                 {"mamba2-370m", 1024, 48},
                                 {"mamba2-780m", 1536, 48},
                                 {"mamba2-1.3b", 2048, 48},
                                 {"mamba2-2.7b", 2560, 64}};
constexpr Size kPythiaSizes[] = {{"pythia-70m", 512, 6, 8},     {"pythia-160m", 768, 12, 12},
                                 {"pythia-410m", 1024, 24, 16}, {"pythia-1b", 2048, 16, 8},
                                 {"pythia-1.4b", 2048, 24, 16}, {"pythia-2.8b", 2560, 32, 32}};

void ResolveSsm(ModelConfig& c) {
  CheckRange("d_state", c.d_state, 1, ModelConfig::kLargestDimension);
  CheckRange("d_conv", c.d_conv, 2, 8);
  CheckRange("expand", c.expand, 1, ModelConfig::kLargestDimension);
  if (c.d_inner == 0) c.d_inner = c.expand * c.d_model;
  CheckRange("d_inner", c.d_inner, 1, ModelConfig::kLargestDimension);
  CheckReal("dt_min", c.dt_min, c.dt_min > 0, "a positive number");
  CheckReal("dt_max", c.dt_max, c.dt_max >= c.dt_min, "a number not below dt_min");
  CheckReal("dt_init_floor", c.dt_init_floor, c.dt_init_floor >= 0, "a number not below 0");
  if (c.architecture != Architecture::kMamba2) {
    if (c.dt_rank == 0) c.dt_rank = (c.d_model + 15) / 16;
    CheckRange("dt_rank", c.dt_rank, 1, ModelConfig::kLargestDimension);
    CheckReal("mixer_norm_eps", c.mixer_norm_eps, c.mixer_norm_eps >= 0 && c.mixer_norm_eps <= 1,
              "a number from 0 to 1");
    return;
  }
  CheckRange("head_dim", c.head_dim, 1, ModelConfig::kLargestDimension);
  CheckDivides("d_inner", c.d_inner, c.head_dim);
  CheckRange("n_groups", c.n_groups, 1, c.n_ssm_head());
  CheckDivides("the number of heads", c.n_ssm_head(), c.n_groups);
  if (c.norm_groups == 0) c.norm_groups = c.n_groups;
  CheckRange("norm_groups", c.norm_groups, 1, c.d_inner);
  CheckDivides("d_inner", c.d_inner, c.norm_groups);
  CheckRange("n_groups · d_state", c.n_groups * c.d_state, 1, ModelConfig::kLargestDimension);
  CheckReal("dt_limit_min", c.dt_limit_min, c.dt_limit_min >= 0, "a number not below 0");
  if (std::isnan(c.dt_limit_max) || c.dt_limit_max < c.dt_limit_min) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("dt_limit_max is {}, expected a number not below dt_limit_min",
                            c.dt_limit_max));
  }
}

void ResolveAttention(AttentionConfig& a, int64_t d_model) {
  CheckRange("n_head", a.n_head, 1, ModelConfig::kLargestDimension);
  if (a.n_kv_head == 0) a.n_kv_head = a.n_head;
  CheckRange("n_kv_head", a.n_kv_head, 1, a.n_head);
  CheckDivides("n_head", a.n_head, a.n_kv_head);
  if (a.d_head == 0) {
    CheckDivides("d_model", d_model, a.n_head);
    a.d_head = d_model / a.n_head;
  }
  CheckRange("d_head", a.d_head, 1, ModelConfig::kLargestDimension);
  CheckRange("n_head · d_head", a.n_head * a.d_head, 1, ModelConfig::kLargestDimension);
  CheckRange("rotary_dim", a.rotary_dim, 0, a.d_head);
  CheckDivides("rotary_dim", a.rotary_dim, 2);
  CheckReal("rope_theta", a.rope_theta, a.rope_theta > 0, "a positive number");
  if (a.d_conv != 0) CheckRange("the attention's d_conv", a.d_conv, 2, 8);
}

}  // namespace

std::string_view ArchitectureName(Architecture architecture) {
  switch (architecture) {
    case Architecture::kMamba:
      return "mamba";
    case Architecture::kFalconMamba:
      return "falcon_mamba";
    case Architecture::kMamba2:
      return "mamba2";
    case Architecture::kGptNeoX:
      return "gpt_neox";
    case Architecture::kLlama:
      return "llama";
  }
  return "";
}

std::vector<int64_t> ModelConfig::EndTokens() const {
  std::vector<int64_t> tokens = more_eos_token_ids;
  if (eos_token_id >= 0) tokens.insert(tokens.begin(), eos_token_id);
  return tokens;
}

bool ModelConfig::IsAttention(int64_t layer) const {
  return is_transformer() ||
         std::binary_search(attention_layers.begin(), attention_layers.end(), layer);
}

ModelConfig ModelConfig::Published(std::string_view name) {
  ModelConfig config;
  config.bos_token_id = 0;
  config.eos_token_id = 0;
  const Size* size = nullptr;
  if ((size = Find(name, std::begin(kMambaSizes), std::end(kMambaSizes))) != nullptr) {
    config.vocab_size = 50280;
  } else if ((size = Find(name, std::begin(kMamba2Sizes), std::end(kMamba2Sizes))) != nullptr) {
    config.architecture = Architecture::kMamba2;
    config.vocab_size = 50288;
    config.d_state = 128;
  } else if ((size = Find(name, std::begin(kPythiaSizes), std::end(kPythiaSizes))) != nullptr) {
    config.architecture = Architecture::kGptNeoX;
    config.vocab_size = 50304;
    config.tie_word_embeddings = false;
    config.rms_norm = false;
    config.attention.n_head = size->n_head;
    config.attention.rotary_dim = size->d_model / size->n_head / 4;
    config.attention.use_qkv_bias = config.attention.use_out_bias = true;
    config.d_intermediate = 4 * size->d_model;
  } else {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("no model of size \"{}\" is known, expected 130m, 370m, 790m, 1.4b or "
                            "2.8b (Mamba), mamba2-130m, -370m, -780m, -1.3b or -2.7b, pythia-70m, "
                            "-160m, -410m, -1b, -1.4b or -2.8b",
                            name));
  }
  config.d_model = size->d_model;
  config.n_layer = size->n_layer;
  config.Resolve();
  return config;
}

void ModelConfig::Resolve() {
  CheckRange("vocab_size", vocab_size, 1, kLargestVocabulary);
  CheckRange("d_model", d_model, 1, kLargestDimension);
  CheckRange("n_layer", n_layer, 1, kMostLayers);
  if (!is_transformer()) ResolveSsm(*this);
  for (size_t i = 0; i < attention_layers.size(); ++i) {
    const int64_t least = i == 0 ? 0 : attention_layers[i - 1] + 1;
    CheckRange("attention_layers", attention_layers[i], least, n_layer - 1);
  }
  if (is_transformer() || !attention_layers.empty()) ResolveAttention(attention, d_model);
  CheckRange("d_intermediate", d_intermediate, is_transformer() ? 1 : 0, kLargestDimension);
  CheckReal("norm_eps", norm_eps, norm_eps >= 0 && norm_eps <= 1, "a number from 0 to 1");
  CheckReal("initializer_range", initializer_range, initializer_range >= 0, "a number not below 0");
  CheckRange("bos_token_id", bos_token_id, -1, vocab_size - 1);
  CheckRange("eos_token_id", eos_token_id, -1, vocab_size - 1);
  for (const int64_t id : more_eos_token_ids) CheckRange("eos_token_id", id, 0, vocab_size - 1);
}

}  // namespace adder
