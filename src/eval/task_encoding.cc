// What a model directory's files say about how its evaluation reads texts.
#include <filesystem>
#include <limits>
#include <string_view>

#include "adder/eval/task_tokens.h"
#include "adder/formats/json.h"

namespace adder {
namespace {

// A token's id; -1 for anything else.
int32_t TokenOf(const JsonValue* value) {
  const int64_t* id = value == nullptr ? nullptr : value->AsInt();
  constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();
  return id != nullptr && *id >= 0 && *id <= kLargest ? static_cast<int32_t>(*id) : -1;
}

// An empty object where the file does not exist.
JsonObject ReadIfThere(const std::filesystem::path& path) {
  return std::filesystem::exists(path) ? JsonObject::Read(path)
                                       : JsonObject::Parse("{}", path.string());
}

}  // namespace

TaskEncoding ReadTaskEncoding(const std::filesystem::path& model_directory) {
  const JsonObject config = ReadIfThere(model_directory / "config.json");
  const JsonObject tokenizer_config = ReadIfThere(model_directory / "tokenizer_config.json");
  TaskEncoding encoding;

  // Other programs' files: a field of another type counts as absent. A limit of 1e30, which is no
  // 63-bit integer, says that there is none.
  const JsonValue* limit = tokenizer_config.value().Find("model_max_length");
  if (limit != nullptr && limit->AsInt() != nullptr && *limit->AsInt() > 0) {
    encoding.max_length = *limit->AsInt();
  }
  for (const char* key : {"n_ctx", "max_position_embeddings", "n_positions"}) {
    if (config.Has(key)) encoding.max_length = config.PositiveInt(key);
  }

  const int32_t begin = TokenOf(config.value().Find("bos_token_id"));
  const int32_t end = TokenOf(config.value().Find("eos_token_id"));
  encoding.prefix_token = begin >= 0 ? begin : end;
  return encoding;
}

}  // namespace adder
