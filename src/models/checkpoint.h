// Checkpoint directories: config.json, model.safetensors (or an index of shards), as Hugging Face
// writes them for MambaForCausalLM. Fields and names in docs/file-formats.md.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "adder/core/dtype.h"
#include "adder/models/block_language_model.h"

namespace adder {

// The config of a Hugging Face `MambaForCausalLM` directory, resolved. Absent fields have the
// defaults they have there. Throws kNotFound, kIo, kCorrupt (naming file, field and what was
// expected), kUnsupported (another architecture, or a variant that Adder does not compute).
ModelConfig ReadModelConfig(const std::filesystem::path& directory);
// The same from the text of a config.json, which messages call `source`.
ModelConfig ParseModelConfig(std::string_view json, const std::string& source);

// Reads config and weights: `model.safetensors`, or the shards that `model.safetensors.index.json`
// names. Weights may be f32, bf16 or f16; those in the dtype that is computed with are mapped, not
// copied. Nothing is allocated for a tensor before the file is seen to hold it in the config's
// shape. Throws as ReadModelConfig, naming tensors that are missing, unexpected or of the wrong
// shape. A tied head stored a second time must equal the embedding.
std::unique_ptr<BlockLanguageModel> LoadModel(const std::filesystem::path& directory,
                                              DType compute_dtype);

// The text of config.json, with the weights' dtype.
std::string ModelConfigJson(const ModelConfig& config, DType dtype);

// Writes config.json, generation_config.json and model.safetensors into an existing directory, each
// file whole or not at all. Values are written in `dtype` (f32, bf16 or f16), those of
// full_precision parameters always in f32: a model that computes in `dtype` is read back exactly
// as it computed. Throws kIo, kInvalidArgument.
void SaveModel(const BlockLanguageModel& model, const std::filesystem::path& directory,
               DType dtype);

}  // namespace adder
