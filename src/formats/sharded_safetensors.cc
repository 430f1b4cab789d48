#include "adder/formats/sharded_safetensors.h"

#include <fmt/format.h>

#include "adder/core/error.h"
#include "adder/formats/json.h"
#include "adder/formats/shards.h"

namespace adder {
namespace {

constexpr ShardNames kNames = {"model.safetensors", "model.safetensors.index.json", ".safetensors"};

[[noreturn]] void Missing(const std::filesystem::path& directory, const std::string& name) {
  throw Error(ErrorCode::kNotFound, fmt::format("{}: no file there has a tensor {}",
                                                directory.string(), JsonQuote(name, 200)));
}

}  // namespace

ShardedSafetensors ShardedSafetensors::Open(const std::filesystem::path& directory) {
  ShardedSafetensors opened;
  opened.directory_ = directory;
  opened.tensors_ = OpenShards(directory, kNames, [&](const std::filesystem::path& path) {
    opened.files_.push_back(SafetensorsFile::Open(path));
    return opened.files_.back().tensors();
  });
  return opened;
}

const Tensor& ShardedSafetensors::Get(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) Missing(directory_, name);
  return found->second;
}

const std::filesystem::path& ShardedSafetensors::FileOf(const std::string& name) const {
  for (const SafetensorsFile& file : files_) {
    if (file.Contains(name)) return file.path();
  }
  Missing(directory_, name);
}

}  // namespace adder
