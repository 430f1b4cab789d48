// What a model directory's files say about how its evaluation reads texts.
#include <filesystem>
#include <limits>
#include <string_view>

#include "adder/eval/task_tokens.h"
#include "adder/formats/json.h"

namespace adder {
namespace {

// A token's id; -1 for anything else, which no model's vocabulary has.
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

// The ids of a template's special token: special_tokens.NAME.ids.
void AppendSpecialToken(const JsonValue& post_processor, const JsonValue& piece,
                        std::vector<int32_t>* tokens) {
  const JsonValue* name = piece.Find("id");
  const JsonValue* all = post_processor.Find("special_tokens");
  if (name == nullptr || name->AsString() == nullptr || all == nullptr) return;
  const JsonValue* special = all->Find(*name->AsString());
  const JsonValue* ids = special == nullptr ? nullptr : special->Find("ids");
  if (ids == nullptr || ids->AsArray() == nullptr) return;
  for (const JsonValue& id : *ids->AsArray()) tokens->push_back(TokenOf(&id));
}

// The tokens before the text in the first template of a post_processor, or in those inside it.
std::vector<int32_t> TokensBeforeText(const JsonValue& post_processor) {
  std::vector<int32_t> tokens;
  const JsonValue* pieces = post_processor.Find("single");
  if (pieces != nullptr && pieces->AsArray() != nullptr) {
    for (const JsonValue& piece : *pieces->AsArray()) {
      const JsonValue* special = piece.Find("SpecialToken");
      if (special == nullptr) break;  // the text
      AppendSpecialToken(post_processor, *special, &tokens);
    }
    return tokens;
  }
  const JsonValue* inner = post_processor.Find("processors");
  if (inner == nullptr || inner->AsArray() == nullptr) return tokens;
  for (const JsonValue& processor : *inner->AsArray()) {
    tokens = TokensBeforeText(processor);
    if (!tokens.empty()) break;
  }
  return tokens;
}

}  // namespace

TaskEncoding ReadTaskEncoding(const std::filesystem::path& model_directory) {
  const JsonObject config = ReadIfThere(model_directory / "config.json");
  const JsonObject tokenizer_config = ReadIfThere(model_directory / "tokenizer_config.json");
  const JsonObject tokenizer = ReadIfThere(model_directory / "tokenizer.json");
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

  if (const JsonValue* post_processor = tokenizer.value().Find("post_processor")) {
    encoding.begin_tokens = TokensBeforeText(*post_processor);
  }
  const JsonValue* adds = tokenizer_config.value().Find("add_bos_token");
  if (adds != nullptr && adds->AsBool() != nullptr) {
    if (!*adds->AsBool()) encoding.begin_tokens.clear();
    if (*adds->AsBool() && encoding.begin_tokens.empty() && begin >= 0) {
      encoding.begin_tokens.push_back(begin);
    }
  }
  return encoding;
}

}  // namespace adder
