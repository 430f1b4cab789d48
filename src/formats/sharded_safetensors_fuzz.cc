// Fuzzes the index of shards: no accepted file name may lead out of the directory.
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>

#include "adder/core/error.h"
#include "adder/formats/shards.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    for (const auto& [name, shard] : adder::ParseShardIndex(text, "fuzz", ".safetensors")) {
      const std::filesystem::path path = std::filesystem::path("/models/m") / shard;
      if (path.lexically_normal().parent_path() != "/models/m") std::abort();
      if (path.filename() == ".." || shard.find('\0') != shard.npos) std::abort();
    }
  } catch (const adder::Error&) {
  }
  return 0;
}
