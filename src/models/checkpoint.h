// Checkpoint directories: config.json, model.safetensors (or an index of shards), tokenizer files.
#pragma once

#include <filesystem>
#include <memory>

#include "adder/core/dtype.h"
#include "adder/models/mamba.h"

namespace adder {

// Reads a Hugging Face `MambaForCausalLM` directory; weights are mapped, not copied, when they have
// the compute dtype. Throws kNotFound, kIo, kCorrupt, kUnsupported (another architecture), naming
// file, field or tensor and what was expected.
MambaConfig ReadMambaConfig(const std::filesystem::path& directory);
std::unique_ptr<MambaModel> LoadMamba(const std::filesystem::path& directory, DType compute_dtype);

// Writes config.json and model.safetensors (values in `dtype`) into an existing directory.
void SaveMamba(const MambaModel& model, const std::filesystem::path& directory, DType dtype);

}  // namespace adder
