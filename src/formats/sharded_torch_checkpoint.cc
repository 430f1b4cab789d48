#include "adder/formats/sharded_torch_checkpoint.h"

#include <fmt/format.h>

#include "adder/core/error.h"
#include "adder/formats/json.h"
#include "adder/formats/shards.h"

namespace adder {
namespace {

constexpr ShardNames kNames = {"pytorch_model.bin", "pytorch_model.bin.index.json", ".bin"};

[[noreturn]] void Missing(const std::filesystem::path& directory, const std::string& name) {
  throw Error(ErrorCode::kNotFound, fmt::format("{}: no file there has a tensor {}",
                                                directory.string(), JsonQuote(name, 200)));
}

}  // namespace

ShardedTorchCheckpoint ShardedTorchCheckpoint::Open(const std::filesystem::path& directory) {
  ShardedTorchCheckpoint opened;
  opened.directory_ = directory;
  opened.tensors_ = OpenShards(directory, kNames, [&](const std::filesystem::path& path) {
    opened.files_.push_back(TorchCheckpoint::Open(path));
    return opened.files_.back().tensors();
  });
  return opened;
}

const Tensor& ShardedTorchCheckpoint::Get(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) Missing(directory_, name);
  return found->second;
}

const std::filesystem::path& ShardedTorchCheckpoint::FileOf(const std::string& name) const {
  for (const TorchCheckpoint& file : files_) {
    if (file.Contains(name)) return file.path();
  }
  Missing(directory_, name);
}

}  // namespace adder
