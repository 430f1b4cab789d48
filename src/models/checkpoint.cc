// Reading and writing of model directories: which file holds what, under which name.
#include "adder/models/checkpoint.h"

#include <fmt/format.h>

#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "adder/core/error.h"
#include "adder/formats/file.h"
#include "adder/formats/json.h"
#include "adder/formats/safetensors.h"
#include "adder/formats/sharded_safetensors.h"
#include "adder/formats/sharded_torch_checkpoint.h"
#include "adder/models/gguf_checkpoint.h"
#include "adder/models/hugging_face_config.h"
#include "adder/models/state_spaces_config.h"

namespace adder {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfigFile = "config.json";
constexpr const char* kGenerationConfigFile = "generation_config.json";
constexpr const char* kWeightsFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr const char* kTorchWeightsFile = "pytorch_model.bin";
constexpr const char* kTorchIndexFile = "pytorch_model.bin.index.json";
constexpr const char* kEmbeddingName = "backbone.embeddings.weight";
constexpr const char* kStateSpacesEmbeddingName = "backbone.embedding.weight";

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

// A directory's weights, whatever files hold them.
class Weights {
 public:
  static Weights Open(const fs::path& directory) {
    const bool safe = fs::exists(directory / kWeightsFile) || fs::exists(directory / kIndexFile);
    const bool torch =
        fs::exists(directory / kTorchWeightsFile) || fs::exists(directory / kTorchIndexFile);
    Weights weights;
    if (safe || !torch) {
      weights.safetensors_ = ShardedSafetensors::Open(directory);
    } else {
      weights.torch_ = ShardedTorchCheckpoint::Open(directory);
    }
    return weights;
  }

  const std::map<std::string, Tensor>& tensors() const {
    return safetensors_ ? safetensors_->tensors() : torch_->tensors();
  }
  std::string FileOf(const std::string& name) const {
    return (safetensors_ ? safetensors_->FileOf(name) : torch_->FileOf(name)).string();
  }

 private:
  std::optional<ShardedSafetensors> safetensors_;
  std::optional<ShardedTorchCheckpoint> torch_;
};

// What the weights call a parameter: mamba_ssm's embedding has another name.
std::string StoredName(const std::string& name, const std::map<std::string, Tensor>& tensors) {
  if (name == kEmbeddingName && !tensors.contains(name) &&
      tensors.contains(kStateSpacesEmbeddingName)) {
    return kStateSpacesEmbeddingName;
  }
  return name;
}

// Constants that older versions stored with the weights.
bool IsDerived(std::string_view name) {
  return name.ends_with(".rotary_emb.inv_freq") || name.ends_with(".attention.bias") ||
         name.ends_with(".attention.masked_bias");
}

bool IsQueryKeyValue(std::string_view name) {
  return name.ends_with(".query_key_value.weight") || name.ends_with(".query_key_value.bias");
}

// Copies blocks of d_head rows: block (i, j) of [outer, inner] becomes block (j, i).
Tensor TransposeBlocks(const Tensor& tensor, int64_t outer, int64_t inner) {
  const int64_t rows = tensor.dim(0) / (outer * inner);
  const Tensor result = Tensor::Empty(tensor.shape(), tensor.dtype());
  for (int64_t i = 0; i < outer; ++i) {
    for (int64_t j = 0; j < inner; ++j) {
      result.Rows((j * outer + i) * rows, rows).CopyFrom(tensor.Rows((i * inner + j) * rows, rows));
    }
  }
  return result;
}

}  // namespace

ModelConfig ParseModelConfig(std::string_view text, const std::string& source) {
  const JsonObject json = JsonObject::Parse(ReplacePythonNumbers(text), source);
  return IsStateSpacesConfig(json) ? ParseStateSpacesConfig(json) : ParseHuggingFaceConfig(json);
}

ModelConfig ReadModelConfig(const fs::path& directory) {
  if (fs::is_regular_file(directory)) return ParseGgufConfig(GgufFile::Open(directory));
  constexpr size_t kLargestConfig = size_t{1} << 24;
  const fs::path path = directory / kConfigFile;
  return ParseModelConfig(ReadFile(path, kLargestConfig), path.string());
}

std::unique_ptr<BlockLanguageModel> LoadModel(const fs::path& directory, DType compute_dtype,
                                              Device device) {
  if (fs::is_regular_file(directory)) {
    return LoadGguf(GgufFile::Open(directory), compute_dtype, device);
  }
  const ModelConfig config = ReadModelConfig(directory);
  const Weights weights = Weights::Open(directory);
  const std::map<std::string, Tensor>& tensors = weights.tensors();
  // Before a model of so many layers is built.
  if (config.n_layer > static_cast<int64_t>(tensors.size())) {
    throw Error(ErrorCode::kCorrupt,
                fmt::format("{}: the weights are {} tensors, too few for the {} layers of {}",
                            directory.string(), tensors.size(), config.n_layer, kConfigFile));
  }
  auto model = std::make_unique<BlockLanguageModel>(config, compute_dtype);
  model->MoveTo(device);
  std::set<std::string> unexpected;
  for (const auto& [name, tensor] : tensors) {
    if (!IsDerived(name)) unexpected.insert(name);
  }
  std::set<std::string> missing;
  for (size_t i = 0; i < model->parameters().size(); ++i) {
    Parameter& p = model->parameters()[i];
    const std::string name = StoredName(p.name, tensors);
    if (unexpected.erase(name) == 0) {
      missing.insert(p.name);
      continue;
    }
    const Tensor& tensor = tensors.at(name);
    const Shape& shape = model->parameter_shapes()[i];
    const auto where = [&] { return fmt::format("{}: tensor {}", weights.FileOf(name), name); };
    if (tensor.shape() != shape) {
      throw Error(ErrorCode::kCorrupt, fmt::format("{} has shape {}, config says {}", where(),
                                                   tensor.shape().ToString(), shape.ToString()));
    }
    if (tensor.dtype() != DType::kF32 && tensor.dtype() != DType::kBF16 &&
        tensor.dtype() != DType::kF16) {
      throw Error(ErrorCode::kUnsupported, fmt::format("{} has dtype {}, expected f32, bf16 or f16",
                                                       where(), DTypeName(tensor.dtype())));
    }
    p.value = IsQueryKeyValue(name) && config.architecture == Architecture::kGptNeoX
                  ? QueryKeyValueFromCheckpoint(tensor, config.attention.n_head)
                  : tensor;
  }
  if (!missing.empty()) {
    throw Error(ErrorCode::kCorrupt,
                fmt::format("{}: the weights lack {}", directory.string(), Names(missing)));
  }
  const std::string head = ParameterNames::Of(config.architecture).head;
  if (config.tie_word_embeddings && unexpected.erase(head) > 0 &&
      !SameElements(tensors.at(head), model->parameters().front().value)) {
    throw Error(ErrorCode::kCorrupt,
                fmt::format("{}: tensor {} differs from the embedding that {} ties it to",
                            weights.FileOf(head), head, kConfigFile));
  }
  if (!unexpected.empty()) {
    throw Error(ErrorCode::kCorrupt,
                fmt::format("{}: the weights hold tensors that no parameter of the model has: {}",
                            directory.string(), Names(unexpected)));
  }
  model->ParametersChanged();
  return model;
}

void SaveModel(const BlockLanguageModel& model, const fs::path& directory, DType dtype,
               CheckpointLayout layout) {
  if (dtype != DType::kF32 && dtype != DType::kBF16 && dtype != DType::kF16) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("a checkpoint cannot be written in {}, expected f32, bf16 or f16",
                            DTypeName(dtype)));
  }
  const ModelConfig& config = model.config();
  const bool state_spaces = layout == CheckpointLayout::kStateSpaces;
  const std::string text =
      state_spaces ? StateSpacesConfigJson(config) : HuggingFaceConfigJson(config, dtype);
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const Parameter& p : model.parameters()) {
    if (!p.value.defined()) {
      throw Error(ErrorCode::kInvalidArgument, "parameter " + p.name + " has no value yet");
    }
    Tensor value = p.value.To(Device{}).To(p.full_precision ? DType::kF32 : dtype);
    if (IsQueryKeyValue(p.name) && config.architecture == Architecture::kGptNeoX) {
      value = QueryKeyValueToCheckpoint(value, config.attention.n_head);
    }
    const bool renamed = state_spaces && p.name == kEmbeddingName;
    tensors.emplace_back(renamed ? kStateSpacesEmbeddingName : p.name, value);
  }
  if (state_spaces) {
    // That package stores a tied head a second time.
    if (config.tie_word_embeddings) {
      tensors.emplace_back(ParameterNames::Of(config.architecture).head, tensors.front().second);
    }
    WriteTorchCheckpoint(directory / kTorchWeightsFile, tensors);
  } else {
    const JsonValue generation(JsonValue::Object{{"_from_model_config", true},
                                                 {"bos_token_id", TokenIdJson(config.bos_token_id)},
                                                 {"eos_token_id", EndTokensJson(config)},
                                                 {"use_cache", true}});
    WriteSafetensors(directory / kWeightsFile, tensors, {{"format", "pt"}});
    WriteFileAtomically(directory / kGenerationConfigFile, generation.ToText(2) + "\n");
  }
  WriteFileAtomically(directory / kConfigFile, text);
}

Tensor QueryKeyValueFromCheckpoint(const Tensor& tensor, int64_t n_head) {
  return TransposeBlocks(tensor, n_head, 3);
}

Tensor QueryKeyValueToCheckpoint(const Tensor& tensor, int64_t n_head) {
  return TransposeBlocks(tensor, 3, n_head);
}

}  // namespace adder
