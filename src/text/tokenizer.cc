// Finds out which tokenizer a model directory has.
#include "adder/text/tokenizer.h"

#include <fmt/format.h>

#include "adder/core/error.h"
#include "adder/formats/file.h"
#include "adder/formats/json.h"
#include "adder/text/byte_level.h"

namespace adder {
namespace {

constexpr std::string_view kKnown =
    "this version knows byte tokenizers only (BPE with ByteLevel, 256 single bytes, no merges)";

bool IsString(const JsonValue* value, std::string_view text) {
  return value != nullptr && value->AsString() != nullptr && *value->AsString() == text;
}

bool IsFalse(const JsonValue* value) {
  return value != nullptr && value->AsBool() != nullptr && !*value->AsBool();
}

bool IsAbsent(const JsonValue* value) { return value == nullptr || value->is_null(); }

// Absent, "", [] or {}.
bool IsEmpty(const JsonValue* value) {
  if (IsAbsent(value)) return true;
  if (const std::string* text = value->AsString()) return text->empty();
  if (const JsonValue::Array* array = value->AsArray()) return array->empty();
  if (const JsonValue::Object* object = value->AsObject()) return object->empty();
  return false;
}

// Byte b's character has the id b, and there is nothing else.
bool IsByteVocabulary(const JsonValue& vocab) {
  if (vocab.AsObject() == nullptr || vocab.AsObject()->size() != 256) return false;
  for (int byte = 0; byte < 256; ++byte) {
    const JsonValue* id = vocab.Find(ByteLevelCharacter(static_cast<unsigned char>(byte)));
    if (id == nullptr || id->AsInt() == nullptr || *id->AsInt() != byte) return false;
  }
  return true;
}

// Everything in tokenizer.json that changes what text becomes.
bool IsByteTokenizer(const JsonObject& file) {
  const JsonValue& root = file.value();
  const JsonObject model = file.Object("model");
  const JsonValue* pre_tokenizer = root.Find("pre_tokenizer");
  const JsonValue* decoder = root.Find("decoder");
  const JsonValue* vocab = model.value().Find("vocab");
  return IsString(model.value().Find("type"), "BPE") && vocab != nullptr &&
         IsByteVocabulary(*vocab) && IsEmpty(model.value().Find("merges")) &&
         IsAbsent(model.value().Find("dropout")) &&
         IsEmpty(model.value().Find("continuing_subword_prefix")) &&
         IsEmpty(model.value().Find("end_of_word_suffix")) && IsAbsent(root.Find("normalizer")) &&
         IsEmpty(root.Find("added_tokens")) && IsAbsent(root.Find("post_processor")) &&
         IsAbsent(root.Find("truncation")) && pre_tokenizer != nullptr &&
         IsString(pre_tokenizer->Find("type"), "ByteLevel") &&
         IsFalse(pre_tokenizer->Find("add_prefix_space")) &&
         IsFalse(pre_tokenizer->Find("use_regex")) && decoder != nullptr &&
         IsString(decoder->Find("type"), "ByteLevel");
}

std::string DescribeTokenizer(const JsonObject& file) {
  const JsonObject model = file.Object("model");
  std::string text = "a " + JsonQuote(model.StringOr("type", "?"), 40) + " tokenizer";
  if (const JsonValue* vocab = model.value().Find("vocab")) {
    if (const JsonValue::Object* entries = vocab->AsObject()) {
      text += fmt::format(", vocabulary {}", entries->size());
    }
  }
  if (const JsonValue* merges = model.value().Find("merges")) {
    if (const JsonValue::Array* pairs = merges->AsArray()) {
      text += fmt::format(", {} merges", pairs->size());
    }
  }
  if (const JsonValue* added = file.value().Find("added_tokens")) {
    if (const JsonValue::Array* tokens = added->AsArray(); tokens != nullptr && !tokens->empty()) {
      text += fmt::format(", {} added tokens", tokens->size());
    }
  }
  return text;
}

}  // namespace

std::unique_ptr<Tokenizer> Tokenizer::Parse(std::string_view text, std::string_view source) {
  const JsonObject file = JsonObject::Parse(text, std::string(source));
  if (IsByteTokenizer(file)) return std::make_unique<ByteTokenizer>();
  throw Error(ErrorCode::kUnsupported,
              fmt::format("{}: {}; {}", source, DescribeTokenizer(file), kKnown));
}

std::unique_ptr<Tokenizer> Tokenizer::Load(const std::filesystem::path& directory) {
  const std::filesystem::path description = directory / "tokenizer.json";
  if (std::filesystem::exists(description)) {
    return Parse(ReadFile(description), description.string());
  }
  // Older formats of other tokenizers: the vocabulary's size alone must not hide them.
  for (const char* name :
       {"tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "merges.txt"}) {
    if (std::filesystem::exists(directory / name)) {
      throw Error(ErrorCode::kUnsupported, fmt::format("{}: a tokenizer without tokenizer.json; {}",
                                                       (directory / name).string(), kKnown));
    }
  }
  const JsonObject config = JsonObject::Read(directory / "config.json");
  const int64_t vocab_size = config.PositiveInt("vocab_size");
  if (vocab_size != 256) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: no tokenizer.json, and config.json has vocab_size {}; without "
                            "tokenizer.json only a vocabulary of 256 bytes is known",
                            directory.string(), vocab_size));
  }
  return std::make_unique<ByteTokenizer>();
}

}  // namespace adder
