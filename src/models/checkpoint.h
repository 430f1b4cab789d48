// Checkpoint directories: config.json and weights, in Hugging Face's layout or in state-spaces'
// (the mamba_ssm package's), told apart by content. Fields and names in docs/file-formats.md.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "adder/core/dtype.h"
#include "adder/core/tensor.h"
#include "adder/models/block_language_model.h"

namespace adder {

enum class CheckpointLayout { kHuggingFace, kStateSpaces };

// The config of a directory or a GGUF file, resolved. Absent fields have the defaults they have
// there. Throws kNotFound, kIo, kCorrupt (naming file, field and what was expected), kUnsupported
// (another architecture, or a variant that Adder does not compute).
ModelConfig ReadModelConfig(const std::filesystem::path& path);
// The same from the text of a config.json, which messages call `source`.
ModelConfig ParseModelConfig(std::string_view json, const std::string& source);

// Reads a GGUF file (see gguf_checkpoint.h), or a directory's config and weights:
// `model.safetensors` or the shards that `model.safetensors.index.json` names, or without them
// `pytorch_model.bin` or its shards. Weights may be f32, bf16 or f16; those in the dtype that is
// computed with are mapped, not copied (but for GPT-NeoX's query_key_value, whose rows are put into
// another order). Nothing is allocated for a tensor before the file is seen to hold it in the
// config's shape. Throws as ReadModelConfig, naming tensors that are missing, unexpected or of the
// wrong shape. A tied head stored a second time must equal the embedding.
// The model computes on `device`, to which weights go straight from the file.
std::unique_ptr<BlockLanguageModel> LoadModel(const std::filesystem::path& path,
                                              DType compute_dtype, Device device = {});

// Writes a checkpoint into an existing directory, each file whole or not at all: config.json,
// generation_config.json and model.safetensors (Hugging Face), or config.json and
// pytorch_model.bin (state-spaces). Values are written in `dtype` (f32, bf16 or f16), those of
// full_precision parameters always in f32: a model that computes in `dtype` is read back exactly as
// it computed. Throws kIo, kInvalidArgument, kUnsupported (a model that the layout cannot hold).
void SaveModel(const BlockLanguageModel& model, const std::filesystem::path& directory, DType dtype,
               CheckpointLayout layout = CheckpointLayout::kHuggingFace);

// GPT-NeoX's checkpoints keep query_key_value head by head: the rows of head 0's query, key and
// value, then head 1's. The model has all queries, then all keys, then all values. Copies of a
// weight [3 · d_model, d_model] or bias [3 · d_model] in the other order.
Tensor QueryKeyValueFromCheckpoint(const Tensor& tensor, int64_t n_head);
Tensor QueryKeyValueToCheckpoint(const Tensor& tensor, int64_t n_head);

}  // namespace adder
