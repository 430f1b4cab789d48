// A model directory's tensors as PyTorch saves them: one pytorch_model.bin, or the shards that
// pytorch_model.bin.index.json names.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "adder/core/tensor.h"
#include "adder/formats/torch_checkpoint.h"

namespace adder {

class ShardedTorchCheckpoint {
 public:
  // Opens pytorch_model.bin, or without it the index and every shard. Throws what
  // TorchCheckpoint::Open throws; kNotFound when neither is there or a shard is missing; kCorrupt
  // when index and shards disagree on where a tensor is.
  static ShardedTorchCheckpoint Open(const std::filesystem::path& directory);

  const std::filesystem::path& directory() const { return directory_; }
  const std::vector<TorchCheckpoint>& files() const { return files_; }
  // Name → tensor, sorted by name.
  const std::map<std::string, Tensor>& tensors() const { return tensors_; }
  bool Contains(const std::string& name) const { return tensors_.contains(name); }
  // Throws kNotFound naming directory and tensor.
  const Tensor& Get(const std::string& name) const;
  // The file that holds a tensor, for messages. Throws kNotFound.
  const std::filesystem::path& FileOf(const std::string& name) const;

 private:
  std::filesystem::path directory_;
  std::vector<TorchCheckpoint> files_;
  std::map<std::string, Tensor> tensors_;
};

}  // namespace adder
