#include "adder/formats/sharded_safetensors.h"

#include <fmt/format.h>

#include <set>

#include "adder/core/error.h"
#include "adder/formats/file.h"
#include "adder/formats/json.h"

namespace adder {
namespace {

constexpr std::string_view kSingleName = "model.safetensors";
constexpr std::string_view kIndexName = "model.safetensors.index.json";

// A plain name in the same directory.
bool IsShardName(std::string_view name) {
  return name.ends_with(".safetensors") && name.find_first_of("/\\") == name.npos &&
         name.find('\0') == name.npos;
}

[[noreturn]] void Missing(const std::filesystem::path& directory, const std::string& name) {
  throw Error(ErrorCode::kNotFound, fmt::format("{}: no file there has a tensor {}",
                                                directory.string(), JsonQuote(name, 200)));
}

}  // namespace

std::map<std::string, std::string> ParseShardIndex(std::string_view text, std::string_view source) {
  const JsonObject index = JsonObject::Parse(text, std::string(source));
  const JsonObject weight_map = index.Object("weight_map");
  std::map<std::string, std::string> shards;
  for (const JsonValue::Member& member : *weight_map.value().AsObject()) {
    const std::string* shard = member.value.AsString();
    if (shard == nullptr || !IsShardName(*shard)) {
      weight_map.Fail(member.key, "the name of a .safetensors file in the same directory");
    }
    shards.emplace(member.key, *shard);
  }
  return shards;
}

ShardedSafetensors ShardedSafetensors::Open(const std::filesystem::path& directory) {
  ShardedSafetensors opened;
  opened.directory_ = directory;
  const std::filesystem::path single = directory / kSingleName;
  const std::filesystem::path index = directory / kIndexName;
  if (std::filesystem::exists(single)) {
    opened.files_.push_back(SafetensorsFile::Open(single));
    opened.tensors_ = opened.files_.front().tensors();
    return opened;
  }
  if (!std::filesystem::exists(index)) {
    throw Error(ErrorCode::kNotFound, fmt::format("{}: has neither {} nor {}", directory.string(),
                                                  kSingleName, kIndexName));
  }

  const std::map<std::string, std::string> shard_of =
      ParseShardIndex(ReadFile(index), index.string());
  std::set<std::string> shards;
  for (const auto& [name, shard] : shard_of) shards.insert(shard);
  for (const std::string& shard : shards) {
    if (!std::filesystem::exists(directory / shard)) {
      throw Error(ErrorCode::kNotFound, fmt::format("{}: names the shard {}, which is missing",
                                                    index.string(), JsonQuote(shard, 200)));
    }
    opened.files_.push_back(SafetensorsFile::Open(directory / shard));
    for (const auto& [name, tensor] : opened.files_.back().tensors()) {
      const auto listed = shard_of.find(name);
      if (listed == shard_of.end() || listed->second != shard) {
        throw Error(ErrorCode::kCorrupt,
                    fmt::format("{}: tensor {} is in this shard, but {} {}",
                                (directory / shard).string(), JsonQuote(name, 200), kIndexName,
                                listed == shard_of.end()
                                    ? "does not list it"
                                    : "says it is in " + JsonQuote(listed->second, 200)));
      }
      opened.tensors_.emplace(name, tensor);
    }
  }
  for (const auto& [name, shard] : shard_of) {
    if (!opened.tensors_.contains(name)) {
      throw Error(ErrorCode::kCorrupt,
                  fmt::format("{}: tensor {} is missing, {} says it is there",
                              (directory / shard).string(), JsonQuote(name, 200), kIndexName));
    }
  }
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
