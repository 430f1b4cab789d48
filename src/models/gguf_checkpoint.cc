// Names and metadata keys, as llama.cpp's converter writes and its loader reads them.
#include "adder/models/gguf_checkpoint.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <set>
#include <string_view>

#include "adder/backend/cpu/parallel.h"
#include "adder/core/error.h"

namespace adder {
namespace {

constexpr int64_t kLargest = ModelConfig::kLargestDimension;
// What a Transformer's context is said to be; its memory here has no such bound.
constexpr uint32_t kContextLength = 2048;
constexpr uint32_t kMambaContextLength = 1 << 20;

struct Rename {
  std::string_view ours;
  std::string_view theirs;
};
// Of a layer, after the layer's prefix.
constexpr Rename kMambaNames[] = {{"norm.weight", "attn_norm.weight"},
                                  {"mixer.A_log", "ssm_a"},
                                  {"mixer.D", "ssm_d"},
                                  {"mixer.conv1d.weight", "ssm_conv1d.weight"},
                                  {"mixer.conv1d.bias", "ssm_conv1d.bias"},
                                  {"mixer.in_proj.weight", "ssm_in.weight"},
                                  {"mixer.x_proj.weight", "ssm_x.weight"},
                                  {"mixer.dt_proj.weight", "ssm_dt.weight"},
                                  {"mixer.dt_proj.bias", "ssm_dt.bias"},
                                  {"mixer.dt_bias", "ssm_dt.bias"},
                                  {"mixer.norm.weight", "ssm_norm.weight"},
                                  {"mixer.out_proj.weight", "ssm_out.weight"}};
constexpr Rename kGptNeoXNames[] = {{"input_layernorm.weight", "attn_norm.weight"},
                                    {"input_layernorm.bias", "attn_norm.bias"},
                                    {"post_attention_layernorm.weight", "ffn_norm.weight"},
                                    {"post_attention_layernorm.bias", "ffn_norm.bias"},
                                    {"attention.query_key_value.weight", "attn_qkv.weight"},
                                    {"attention.query_key_value.bias", "attn_qkv.bias"},
                                    {"attention.dense.weight", "attn_output.weight"},
                                    {"attention.dense.bias", "attn_output.bias"},
                                    {"mlp.dense_h_to_4h.weight", "ffn_up.weight"},
                                    {"mlp.dense_h_to_4h.bias", "ffn_up.bias"},
                                    {"mlp.dense_4h_to_h.weight", "ffn_down.weight"},
                                    {"mlp.dense_4h_to_h.bias", "ffn_down.bias"}};
constexpr Rename kLlamaNames[] = {{"input_layernorm.weight", "attn_norm.weight"},
                                  {"post_attention_layernorm.weight", "ffn_norm.weight"},
                                  {"self_attn.q_proj.weight", "attn_q.weight"},
                                  {"self_attn.k_proj.weight", "attn_k.weight"},
                                  {"self_attn.v_proj.weight", "attn_v.weight"},
                                  {"self_attn.o_proj.weight", "attn_output.weight"},
                                  {"mlp.gate_proj.weight", "ffn_gate.weight"},
                                  {"mlp.up_proj.weight", "ffn_up.weight"},
                                  {"mlp.down_proj.weight", "ffn_down.weight"}};

std::span<const Rename> LayerNames(Architecture architecture) {
  switch (architecture) {
    case Architecture::kGptNeoX:
      return kGptNeoXNames;
    case Architecture::kLlama:
      return kLlamaNames;
    default:
      return kMambaNames;
  }
}

// general.architecture, which is also the prefix of its keys.
std::string_view GgufArchitecture(Architecture architecture) {
  switch (architecture) {
    case Architecture::kMamba2:
      return "mamba2";
    case Architecture::kGptNeoX:
      return "gptneox";
    case Architecture::kLlama:
      return "llama";
    default:
      return "mamba";
  }
}

// What a parameter is called in GGUF files; empty where they have no such thing.
std::string GgufName(const std::string& name, const ModelConfig& config) {
  const ParameterNames names = ParameterNames::Of(config.architecture);
  if (name == names.embedding) return "token_embd.weight";
  if (name == names.head) return "output.weight";
  if (name == names.norm + ".weight") return "output_norm.weight";
  if (name == names.norm + ".bias") return "output_norm.bias";
  if (!name.starts_with(names.layers)) return "";
  const size_t dot = name.find('.', names.layers.size());
  const std::string layer = name.substr(names.layers.size(), dot - names.layers.size());
  for (const Rename& rename : LayerNames(config.architecture)) {
    if (std::string_view(name).substr(dot + 1) == rename.ours) {
      return fmt::format("blk.{}.{}", layer, rename.theirs);
    }
  }
  return "";
}

// The shape that a parameter has there.
Shape GgufShape(const std::string& name, const Shape& shape, const ModelConfig& config) {
  if (name.ends_with("conv1d.weight")) return {shape[0], shape[2]};
  if (config.architecture != Architecture::kMamba2) return shape;
  if (name.ends_with("mixer.A_log") || name.ends_with("mixer.D")) return {shape[0], 1};
  if (name.ends_with("mixer.norm.weight")) {
    return {config.n_groups, config.d_inner / config.n_groups};
  }
  return shape;
}

// Of Llama's queries and keys: heads, or 0.
int64_t RotatedHeads(const std::string& name, const ModelConfig& config) {
  if (config.architecture != Architecture::kLlama) return 0;
  if (name.ends_with(".q_proj.weight")) return config.attention.n_head;
  if (name.ends_with(".k_proj.weight")) return config.attention.n_kv_head;
  return 0;
}

// Rotary pairs are the two halves of a head here, neighbours there: puts each head's rows, seen as
// [outer, inner], into the order [inner, outer].
Tensor ReorderHeads(const Tensor& tensor, int64_t heads, int64_t outer, int64_t inner) {
  const Tensor result = Tensor::Empty(tensor.shape(), tensor.dtype());
  for (int64_t head = 0; head < heads; ++head) {
    const int64_t begin = head * outer * inner;
    for (int64_t i = 0; i < outer; ++i) {
      for (int64_t j = 0; j < inner; ++j) {
        result.Rows(begin + j * outer + i, 1).CopyFrom(tensor.Rows(begin + i * inner + j, 1));
      }
    }
  }
  return result;
}

// A parameter's value from the file's tensor, which has GgufShape.
Tensor FromGguf(const std::string& name, const Tensor& tensor, const Shape& shape,
                const ModelConfig& config, const GgufFile& file) {
  if (const int64_t heads = RotatedHeads(name, config); heads > 0) {
    return ReorderHeads(tensor, heads, config.attention.d_head / 2, 2);
  }
  if (!name.ends_with("A_log")) return tensor.Reshape(shape);
  // A itself is stored, which is negative.
  const Tensor A_log = Tensor::Empty(shape, DType::kF32);
  const Tensor A = tensor.To(DType::kF32);
  for (int64_t i = 0; i < A.elements(); ++i) {
    const float value = A.data<float>()[i];
    if (!(value < 0) || std::isinf(value)) {
      throw Error(ErrorCode::kCorrupt,
                  fmt::format("{}: tensor {} holds {}, expected negative numbers",
                              file.path().string(), GgufName(name, config), value));
    }
    A_log.data<float>()[i] = static_cast<float>(std::log(-static_cast<double>(value)));
  }
  return A_log;
}

// value.To(dtype) on all threads: the search for good scales takes a while.
Tensor Convert(const Tensor& value, DType dtype) {
  if (value.dtype() == dtype || value.rank() != 2) return value.To(dtype);
  const Tensor converted = Tensor::Empty(value.shape(), dtype);
  cpu::ParallelFor(value.dim(0), 16, [&](int64_t begin, int64_t end, int) {
    converted.Rows(begin, end - begin).CopyFrom(value.Rows(begin, end - begin));
  });
  return converted;
}

Tensor ToGguf(const std::string& name, const Tensor& value, DType dtype,
              const ModelConfig& config) {
  const Shape shape = GgufShape(name, value.shape(), config);
  if (name.ends_with("A_log")) {
    const Tensor A_log = value.To(DType::kF32);
    const Tensor A = Tensor::Empty(shape, DType::kF32);
    for (int64_t i = 0; i < A.elements(); ++i) {
      A.data<float>()[i] =
          static_cast<float>(-std::exp(static_cast<double>(A_log.data<float>()[i])));
    }
    return A;
  }
  const Tensor stored = Convert(value, dtype);
  if (const int64_t heads = RotatedHeads(name, config); heads > 0) {
    return ReorderHeads(stored, heads, 2, config.attention.d_head / 2);
  }
  return (stored.contiguous() ? stored : stored.Clone()).Reshape(shape);
}

// The number of general.file_type, which tells most weights' dtype.
uint32_t FileType(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return 1;
    case DType::kQ4_0:
      return 2;
    case DType::kQ8_0:
      return 7;
    case DType::kQ4_K:
      return 15;
    case DType::kQ6_K:
      return 18;
    case DType::kBF16:
      return 32;
    default:
      return 0;
  }
}

class MetadataReader {
 public:
  MetadataReader(const GgufFile& file, std::string_view architecture)
      : file_(file), prefix_(std::string(architecture) + ".") {}

  int64_t Int(const char* key, int64_t most = kLargest) const {
    return file_.Int(prefix_ + key, 1, most);
  }
  int64_t IntOr(const char* key, int64_t fallback) const {
    return file_.Find(prefix_ + key) != nullptr ? file_.Int(prefix_ + key, 0, kLargest) : fallback;
  }
  // A decimal number was meant, of which the file has the nearest f32.
  double Double(const char* key) const {
    const auto stored = static_cast<float>(file_.Double(prefix_ + key));
    return std::strtod(fmt::format("{}", stored).c_str(), nullptr);
  }
  double DoubleOr(const char* key, double fallback) const {
    return file_.Find(prefix_ + key) != nullptr ? Double(key) : fallback;
  }
  bool BoolOr(const char* key, bool fallback) const {
    return file_.Find(prefix_ + key) != nullptr ? file_.Bool(prefix_ + key) : fallback;
  }
  // Absent, "none", or for Llama a plain linear one of factor 1.
  void ExpectNoRopeScaling() const {
    const std::string key = prefix_ + "rope.scaling.type";
    if (file_.Find(key) != nullptr && file_.String(key) != "none") {
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("{}: {} is {}, expected none", file_.path().string(), key,
                              file_.String(key)));
    }
  }

 private:
  const GgufFile& file_;
  std::string prefix_;
};

void ReadSsm(const MetadataReader& reader, ModelConfig& config) {
  config.norm_eps = reader.Double("attention.layer_norm_rms_epsilon");
  config.d_conv = reader.Int("ssm.conv_kernel", 8);
  config.d_inner = reader.Int("ssm.inner_size");
  config.d_state = reader.Int("ssm.state_size");
  config.expand = std::max<int64_t>(1, config.d_inner / config.d_model);
  const int64_t rank = reader.Int("ssm.time_step_rank");
  if (config.architecture == Architecture::kMamba2) {
    config.n_groups = reader.Int("ssm.group_count");
    config.head_dim = std::max<int64_t>(1, config.d_inner / rank);
    return;
  }
  config.dt_rank = rank;
  if (reader.BoolOr("ssm.dt_b_c_rms", false)) {
    config.architecture = Architecture::kFalconMamba;
    // A key of Adder's own: llama.cpp takes the other norms' epsilon.
    config.mixer_norm_eps = reader.DoubleOr("ssm.dt_b_c_rms_epsilon", config.norm_eps);
  }
}

void ReadTransformer(const MetadataReader& reader, ModelConfig& config) {
  AttentionConfig& a = config.attention;
  reader.ExpectNoRopeScaling();
  a.n_head = reader.Int("attention.head_count");
  a.n_kv_head = reader.IntOr("attention.head_count_kv", a.n_head);
  a.d_head = reader.IntOr("attention.key_length", config.d_model / a.n_head);
  a.rotary_dim = reader.IntOr("rope.dimension_count", a.d_head);
  a.rope_theta = reader.DoubleOr("rope.freq_base", 10000);
  config.d_intermediate = reader.Int("feed_forward_length");
  if (config.architecture == Architecture::kGptNeoX) {
    config.rms_norm = false;
    config.norm_eps = reader.Double("attention.layer_norm_epsilon");
    config.use_parallel_residual = reader.BoolOr("use_parallel_residual", true);
    a.use_qkv_bias = a.use_out_bias = true;
  } else {
    config.norm_eps = reader.Double("attention.layer_norm_rms_epsilon");
  }
}

using Metadata = std::vector<std::pair<std::string, GgufValue>>;

uint32_t Unsigned(int64_t value) { return static_cast<uint32_t>(value); }

Metadata ConfigMetadata(const ModelConfig& c, DType weights) {
  const std::string prefix = std::string(GgufArchitecture(c.architecture)) + ".";
  Metadata metadata = {{"general.architecture", std::string(GgufArchitecture(c.architecture))},
                       {"general.file_type", FileType(weights)}};
  const auto add = [&](const char* key, GgufValue value) {
    metadata.emplace_back(prefix + key, std::move(value));
  };
  add("block_count", Unsigned(c.n_layer));
  add("embedding_length", Unsigned(c.d_model));
  add("context_length", c.is_transformer() ? kContextLength : kMambaContextLength);
  add("vocab_size", Unsigned(c.vocab_size));
  const AttentionConfig& a = c.attention;
  if (!c.is_transformer()) {
    add("feed_forward_length", uint32_t{0});
    add("attention.head_count", uint32_t{0});
    add("attention.layer_norm_rms_epsilon", static_cast<float>(c.norm_eps));
    add("ssm.conv_kernel", Unsigned(c.d_conv));
    add("ssm.inner_size", Unsigned(c.d_inner));
    add("ssm.state_size", Unsigned(c.d_state));
    if (c.architecture == Architecture::kMamba2) {
      add("ssm.time_step_rank", Unsigned(c.n_ssm_head()));
      add("ssm.group_count", Unsigned(c.n_groups));
    } else {
      add("ssm.time_step_rank", Unsigned(c.dt_rank));
      add("ssm.dt_b_c_rms", c.architecture == Architecture::kFalconMamba);
      if (c.architecture == Architecture::kFalconMamba) {
        add("ssm.dt_b_c_rms_epsilon", static_cast<float>(c.mixer_norm_eps));
      }
    }
    return metadata;
  }
  add("feed_forward_length", Unsigned(c.d_intermediate));
  add("attention.head_count", Unsigned(a.n_head));
  add("rope.dimension_count", Unsigned(a.rotary_dim));
  add("rope.freq_base", static_cast<float>(a.rope_theta));
  if (c.architecture == Architecture::kGptNeoX) {
    add("attention.layer_norm_epsilon", static_cast<float>(c.norm_eps));
    add("use_parallel_residual", c.use_parallel_residual);
  } else {
    add("attention.layer_norm_rms_epsilon", static_cast<float>(c.norm_eps));
    add("attention.head_count_kv", Unsigned(a.n_kv_head));
    add("attention.key_length", Unsigned(a.d_head));
    add("attention.value_length", Unsigned(a.d_head));
  }
  return metadata;
}

// llama.cpp computes no other variants than its converter makes.
void CheckWritable(const ModelConfig& c) {
  const auto refuse = [](const char* what) {
    throw Error(ErrorCode::kUnsupported, fmt::format("llama.cpp has no {}", what));
  };
  if (c.is_transformer()) {
    if (c.attention.rotary_interleaved) refuse("Transformer with interleaved rotary pairs here");
    if (c.architecture == Architecture::kLlama &&
        (c.attention.use_qkv_bias || c.attention.use_out_bias)) {
      refuse("Llama whose attention has biases");
    }
    return;
  }
  if (!c.attention_layers.empty() || c.d_intermediate > 0) {
    refuse("Mamba with attention layers or an MLP");
  }
  if (c.use_bias) refuse("Mamba whose projections have biases");
  if (!c.use_conv_bias) refuse("Mamba whose convolution has no bias");
  if (!c.rms_norm) refuse("Mamba with layer norms");
  if (c.architecture == Architecture::kMamba2 &&
      (c.dt_limit_min > 0 || c.dt_limit_max < std::numeric_limits<double>::infinity())) {
    refuse("Mamba-2 with limits of the step");
  }
  if (c.architecture == Architecture::kMamba2 && c.norm_groups != c.n_groups) {
    refuse("Mamba-2 whose gated norm has other groups than B and C");
  }
}

}  // namespace

DType GgufDType(const Parameter& parameter, const Shape& shape, DType weights) {
  if (parameter.full_precision) return DType::kF32;
  const int64_t row = shape[shape.rank() - 1];
  const bool table = parameter.name.find("embed") != std::string::npos ||
                     parameter.name.ends_with("lm_head.weight");
  DType dtype = weights;
  if (table && (weights == DType::kQ4_0 || weights == DType::kQ4_K)) dtype = DType::kQ6_K;
  if (row % DTypeBlockElements(dtype) != 0) dtype = DType::kQ8_0;
  if (row % DTypeBlockElements(dtype) != 0) dtype = DType::kF16;
  return dtype;
}

ModelConfig ParseGgufConfig(const GgufFile& file) {
  ModelConfig config;
  const std::string& name = file.String("general.architecture");
  bool known = false;
  for (const Architecture architecture : {Architecture::kMamba, Architecture::kMamba2,
                                          Architecture::kGptNeoX, Architecture::kLlama}) {
    if (name != GgufArchitecture(architecture)) continue;
    config.architecture = architecture;
    known = true;
  }
  if (!known) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: the architecture is {}, expected mamba, mamba2, gptneox or llama",
                            file.path().string(), name));
  }
  const MetadataReader reader(file, name);
  const Tensor& embedding = file.Get("token_embd.weight");
  if (embedding.rank() != 2) {
    throw Error(ErrorCode::kCorrupt, fmt::format("{}: tensor token_embd.weight is {}, expected a "
                                                 "matrix",
                                                 file.path().string(), embedding.ToString()));
  }
  config.vocab_size = embedding.dim(0);
  config.tie_word_embeddings = !file.Contains("output.weight");
  config.d_model = reader.Int("embedding_length");
  config.n_layer = reader.Int("block_count", ModelConfig::kMostLayers);
  if (config.is_transformer()) {
    ReadTransformer(reader, config);
  } else {
    ReadSsm(reader, config);
  }
  const auto token = [&](const char* key) -> int64_t {
    return file.Find(key) != nullptr ? file.Int(key, 0, config.vocab_size - 1) : -1;
  };
  config.bos_token_id = token("tokenizer.ggml.bos_token_id");
  config.eos_token_id = token("tokenizer.ggml.eos_token_id");
  if (const int64_t eot = token("tokenizer.ggml.eot_token_id");
      eot >= 0 && eot != config.eos_token_id) {
    config.more_eos_token_ids = {eot};
  }
  try {
    config.Resolve();
  } catch (const Error& error) {
    throw Error(ErrorCode::kCorrupt, fmt::format("{}: {}", file.path().string(), error.what()));
  }
  return config;
}

std::unique_ptr<BlockLanguageModel> LoadGguf(const GgufFile& file, DType compute_dtype,
                                             Device device) {
  const ModelConfig config = ParseGgufConfig(file);
  const std::string path = file.path().string();
  if (config.n_layer > static_cast<int64_t>(file.tensors().size())) {
    throw Error(ErrorCode::kCorrupt,
                fmt::format("{}: the weights are {} tensors, too few for {} layers", path,
                            file.tensors().size(), config.n_layer));
  }
  auto model = std::make_unique<BlockLanguageModel>(config, compute_dtype);
  model->MoveTo(device);
  std::set<std::string> unexpected;
  for (const auto& [name, tensor] : file.tensors()) unexpected.insert(name);
  for (size_t i = 0; i < model->parameters().size(); ++i) {
    Parameter& p = model->parameters()[i];
    const std::string name = GgufName(p.name, config);
    const Tensor& tensor = file.Get(name);
    const Shape& shape = model->parameter_shapes()[i];
    const Shape expected = GgufShape(p.name, shape, config);
    // Sizes of one may be left out.
    const bool flat = tensor.elements() == expected.elements() && tensor.rank() == 1;
    if (tensor.shape() != expected && !(flat && expected[expected.rank() - 1] == 1)) {
      throw Error(ErrorCode::kCorrupt,
                  fmt::format("{}: tensor {} has shape {}, the metadata says {}", path, name,
                              tensor.shape().ToString(), expected.ToString()));
    }
    if (p.full_precision && IsQuantized(tensor.dtype())) {
      throw Error(ErrorCode::kUnsupported, fmt::format("{}: tensor {} is {}, expected f32, bf16 or "
                                                       "f16",
                                                       path, name, DTypeName(tensor.dtype())));
    }
    p.value = FromGguf(p.name, tensor, shape, config, file);
    unexpected.erase(name);
  }
  if (!unexpected.empty()) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: tensor {} is none that a {} has", path, *unexpected.begin(),
                            GgufArchitecture(config.architecture)));
  }
  model->ParametersChanged();
  return model;
}

GgufContent MakeGguf(const BlockLanguageModel& model, DType weights,
                     const std::function<void(double share)>& progress) {
  const ModelConfig& config = model.config();
  CheckWritable(config);
  GgufContent content;
  content.metadata = ConfigMetadata(config, weights);
  double total = 0;
  for (const Parameter& p : model.parameters()) total += static_cast<double>(p.value.elements());
  double done = 0;
  for (const Parameter& p : model.parameters()) {
    const DType dtype = GgufDType(p, p.value.shape(), weights);
    content.tensors.emplace_back(GgufName(p.name, config), ToGguf(p.name, p.value, dtype, config));
    done += static_cast<double>(p.value.elements());
    if (progress) progress(done / total);
  }
  return content;
}

void QuantizeModel(BlockLanguageModel& model, DType weights) {
  for (Parameter& p : model.parameters()) {
    if (p.full_precision) continue;
    const Device device = p.value.device();  // quantizing is the host's work
    p.value = Convert(p.value.To(Device{}), GgufDType(p, p.value.shape(), weights)).To(device);
  }
  model.ParametersChanged();
}

}  // namespace adder
