#include "adder/formats/shards.h"

#include <fmt/format.h>

#include <set>

#include "adder/core/error.h"
#include "adder/formats/file.h"
#include "adder/formats/json.h"

namespace adder {
namespace {

// A plain name in the same directory.
bool IsShardName(std::string_view name, std::string_view suffix) {
  return name.ends_with(suffix) && name.find_first_of("/\\") == name.npos &&
         name.find('\0') == name.npos;
}

}  // namespace

std::map<std::string, std::string> ParseShardIndex(std::string_view text, std::string_view source,
                                                   std::string_view suffix) {
  const JsonObject index = JsonObject::Parse(text, std::string(source));
  const JsonObject weight_map = index.Object("weight_map");
  std::map<std::string, std::string> shards;
  for (const JsonValue::Member& member : *weight_map.value().AsObject()) {
    const std::string* shard = member.value.AsString();
    if (shard == nullptr || !IsShardName(*shard, suffix)) {
      weight_map.Fail(member.key,
                      fmt::format("the name of a {} file in the same directory", suffix));
    }
    shards.emplace(member.key, *shard);
  }
  return shards;
}

std::map<std::string, Tensor> OpenShards(
    const std::filesystem::path& directory, const ShardNames& names,
    const std::function<std::map<std::string, Tensor>(const std::filesystem::path&)>& open) {
  const std::filesystem::path single = directory / names.single;
  const std::filesystem::path index = directory / names.index;
  if (std::filesystem::exists(single)) return open(single);
  if (!std::filesystem::exists(index)) {
    throw Error(ErrorCode::kNotFound, fmt::format("{}: has neither {} nor {}", directory.string(),
                                                  names.single, names.index));
  }

  std::map<std::string, Tensor> tensors;
  const std::map<std::string, std::string> shard_of =
      ParseShardIndex(ReadFile(index), index.string(), names.suffix);
  std::set<std::string> shards;
  for (const auto& [name, shard] : shard_of) shards.insert(shard);
  for (const std::string& shard : shards) {
    if (!std::filesystem::exists(directory / shard)) {
      throw Error(ErrorCode::kNotFound, fmt::format("{}: names the shard {}, which is missing",
                                                    index.string(), JsonQuote(shard, 200)));
    }
    for (const auto& [name, tensor] : open(directory / shard)) {
      const auto listed = shard_of.find(name);
      if (listed == shard_of.end() || listed->second != shard) {
        throw Error(ErrorCode::kCorrupt,
                    fmt::format("{}: tensor {} is in this shard, but {} {}",
                                (directory / shard).string(), JsonQuote(name, 200), names.index,
                                listed == shard_of.end()
                                    ? "does not list it"
                                    : "says it is in " + JsonQuote(listed->second, 200)));
      }
      tensors.emplace(name, tensor);
    }
  }
  for (const auto& [name, shard] : shard_of) {
    if (!tensors.contains(name)) {
      throw Error(ErrorCode::kCorrupt,
                  fmt::format("{}: tensor {} is missing, {} says it is there",
                              (directory / shard).string(), JsonQuote(name, 200), names.index));
    }
  }
  return tensors;
}

}  // namespace adder
