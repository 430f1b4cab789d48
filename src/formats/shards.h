// A directory's tensors in one file, or in the shards that an index names: what the formats that
// Hugging Face shards have in common.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "adder/core/tensor.h"

namespace adder {

// The files' names, as in "model.safetensors", "model.safetensors.index.json", ".safetensors".
struct ShardNames {
  std::string_view single;
  std::string_view index;
  std::string_view suffix;  // of every shard
};

// The index's weight_map: tensor name → file name in the same directory. Throws kCorrupt for
// anything else; a file name that leads out of the directory is refused.
std::map<std::string, std::string> ParseShardIndex(std::string_view text, std::string_view source,
                                                   std::string_view suffix);

// Opens the single file, or without it the index and every shard, and returns the tensors of all.
// open(path) returns the tensors of one file. Throws what it throws; kNotFound when neither is
// there or a shard is missing; kCorrupt when index and shards disagree on where a tensor is.
std::map<std::string, Tensor> OpenShards(
    const std::filesystem::path& directory, const ShardNames& names,
    const std::function<std::map<std::string, Tensor>(const std::filesystem::path&)>& open);

}  // namespace adder
