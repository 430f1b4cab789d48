// What tokenizers share, and which one a model directory has.
#include "adder/text/tokenizer.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <fstream>
#include <utility>

#include "adder/core/error.h"
#include "adder/formats/file.h"
#include "adder/formats/json.h"
#include "adder/text/bpe_tokenizer.h"
#include "adder/text/byte_level.h"
#include "adder/text/gguf_vocabulary.h"
#include "adder/text/vocabulary.h"

namespace adder {
namespace {

namespace fs = std::filesystem;

constexpr const char* kDescriptionFile = "tokenizer.json";
constexpr const char* kConfigFile = "tokenizer_config.json";
constexpr const char* kSpecialTokensFile = "special_tokens_map.json";
constexpr const char* kVocabularyFile = "vocab.json";
constexpr const char* kMergesFile = "merges.txt";

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

// Everything in tokenizer.json that changes what text becomes. Without merges it makes no
// difference how text is cut into words.
bool IsByteTokenizer(const JsonObject& file) {
  const JsonValue& root = file.value();
  const JsonObject model = file.Object("model");
  const JsonValue* pre_tokenizer = root.Find("pre_tokenizer");
  const JsonValue* post_processor = root.Find("post_processor");  // ByteLevel's changes no ids
  const JsonValue* decoder = root.Find("decoder");
  const JsonValue* vocab = model.value().Find("vocab");
  return IsString(model.value().Find("type"), "BPE") && vocab != nullptr &&
         IsByteVocabulary(*vocab) && IsEmpty(model.value().Find("merges")) &&
         IsAbsent(model.value().Find("dropout")) &&
         IsEmpty(model.value().Find("continuing_subword_prefix")) &&
         IsEmpty(model.value().Find("end_of_word_suffix")) && IsAbsent(root.Find("normalizer")) &&
         IsEmpty(root.Find("added_tokens")) &&
         (post_processor == nullptr || post_processor->is_null() ||
          IsString(post_processor->Find("type"), "ByteLevel")) &&
         IsAbsent(root.Find("truncation")) && pre_tokenizer != nullptr &&
         IsString(pre_tokenizer->Find("type"), "ByteLevel") &&
         IsFalse(pre_tokenizer->Find("add_prefix_space")) && decoder != nullptr &&
         IsString(decoder->Find("type"), "ByteLevel");
}

// GPT-2's files before there was tokenizer.json: tokens with their ids, and merges line by line.
std::unique_ptr<BpeTokenizer> LoadVocabularyAndMerges(const fs::path& directory) {
  const fs::path vocab_path = directory / kVocabularyFile;
  const JsonObject vocab = JsonObject::Read(vocab_path);
  const JsonValue::Object& entries = *vocab.value().AsObject();
  Vocabulary vocabulary;
  vocabulary.model = "gpt2";
  vocabulary.tokens.resize(entries.size());
  for (const JsonValue::Member& entry : entries) {
    const int64_t id = vocab.Int(entry.key, 0, static_cast<int64_t>(entries.size()) - 1);
    std::string& text = vocabulary.tokens[static_cast<size_t>(id)];
    if (!text.empty()) vocab.Fail(entry.key, "an id of its own");
    text = entry.key;
  }
  for (const std::string& token : vocabulary.tokens) {
    const bool special = token.starts_with("<|") && token.ends_with("|>");
    vocabulary.types.push_back(special ? TokenType::kControl : TokenType::kNormal);
  }
  const std::string merges = ReadFile(directory / kMergesFile);
  std::string_view rest = merges;
  while (!rest.empty()) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || line.starts_with("#version")) continue;
    vocabulary.merges.emplace_back(line);
  }
  const std::string source = vocab_path.string();
  std::string json = TokenizerJson(vocabulary, source);
  const JsonObject file = JsonObject::Parse(json, source);
  return std::make_unique<BpeTokenizer>(file, std::move(json));
}

// A file that begins as GGUF files do.
bool IsGguf(const fs::path& path) {
  char magic[4] = {};
  return fs::is_regular_file(path) &&
         std::ifstream(path, std::ios::binary).read(magic, sizeof(magic)) &&
         std::string_view(magic, sizeof(magic)) == "GGUF";
}

}  // namespace

size_t Tokenizer::PartLength(std::string_view text, size_t) const { return text.size(); }

std::vector<int32_t> Tokenizer::EncodePart(std::string_view part, bool) const {
  return Encode(part);
}

void Tokenizer::EncodeParts(
    std::string_view text, size_t bytes,
    const std::function<void(std::span<const int32_t> tokens, size_t bytes)>& part) const {
  for (bool first = true; !text.empty(); first = false) {
    const size_t length = PartLength(text, bytes);
    const std::vector<int32_t> tokens = EncodePart(text.substr(0, length), first);
    text.remove_prefix(length);
    part(tokens, length);
  }
}

std::string Tokenizer::Decode(std::span<const int32_t> tokens, bool skip_special) const {
  TokenTextStream stream(*this, skip_special);
  std::string text;
  for (const int32_t token : tokens) text += stream.Push(token);
  return text + stream.Finish();
}

uint64_t Tokenizer::fingerprint() const {
  uint64_t hash = static_cast<uint64_t>(vocab_size());
  for (int32_t token = 0; token < vocab_size(); ++token) {
    const std::string_view bytes = Bytes(token);
    hash = XXH64(bytes.data(), bytes.size(), hash);
  }
  return hash;
}

Vocabulary Tokenizer::ToVocabulary() const {
  throw Error(ErrorCode::kUnsupported, "the tokenizer cannot be written into a GGUF file");
}

std::string TokenTextStream::Push(int32_t token) {
  if (skip_special_ && tokenizer_.IsSpecial(token)) return {};
  if (!std::exchange(first_, false)) return utf8_.Push(tokenizer_.Bytes(token));
  return utf8_.Push(tokenizer_.FirstBytes(token));
}

std::unique_ptr<Tokenizer> Tokenizer::Parse(std::string_view text, std::string_view source) {
  const JsonObject file = JsonObject::Parse(text, std::string(source));
  if (IsByteTokenizer(file)) return std::make_unique<ByteTokenizer>();
  return std::make_unique<BpeTokenizer>(file, std::string(text));
}

std::unique_ptr<Tokenizer> Tokenizer::FromVocabulary(const Vocabulary& vocabulary,
                                                     std::string_view source) {
  std::string json = TokenizerJson(vocabulary, source);
  const JsonObject file = JsonObject::Parse(json, std::string(source));
  if (IsByteTokenizer(file)) return std::make_unique<ByteTokenizer>();
  auto tokenizer = std::make_unique<BpeTokenizer>(file, std::move(json));
  tokenizer->KeepFile(kConfigFile, TokenizerConfigJson(vocabulary));
  return tokenizer;
}

std::unique_ptr<Tokenizer> Tokenizer::Load(const fs::path& directory) {
  if (IsGguf(directory)) {
    return FromVocabulary(ReadVocabulary(GgufFile::Open(directory)), directory.string());
  }
  if (fs::is_regular_file(directory)) return Parse(ReadFile(directory), directory.string());
  const fs::path description = directory / kDescriptionFile;
  const bool old = fs::exists(directory / kVocabularyFile) && fs::exists(directory / kMergesFile);
  if (fs::exists(description) || old) {
    std::unique_ptr<BpeTokenizer> tokenizer;
    if (fs::exists(description)) {
      std::string text = ReadFile(description);
      const JsonObject file = JsonObject::Parse(text, description.string());
      if (IsByteTokenizer(file)) return std::make_unique<ByteTokenizer>();
      tokenizer = std::make_unique<BpeTokenizer>(file, std::move(text));
    } else {
      tokenizer = LoadVocabularyAndMerges(directory);
    }
    for (const char* name : {kConfigFile, kSpecialTokensFile}) {
      if (fs::exists(directory / name)) tokenizer->KeepFile(name, ReadFile(directory / name));
    }
    return tokenizer;
  }
  // Formats of other tokenizers: the vocabulary's size alone must not hide them.
  for (const char* name : {"tokenizer.model", "spiece.model", "vocab.json", "vocab.txt"}) {
    if (fs::exists(directory / name)) {
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("{}: a tokenizer without tokenizer.json; Hugging Face's transformers "
                              "write that file from it (AutoTokenizer, save_pretrained)",
                              (directory / name).string()));
    }
  }
  const JsonObject config = JsonObject::Read(directory / "config.json");
  const int64_t vocab_size = config.PositiveInt("vocab_size");
  if (vocab_size != 256) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: no tokenizer.json, and config.json has vocab_size {}; without "
                            "tokenizer.json only a vocabulary of 256 bytes is known (the Mamba "
                            "models of state-spaces use the one of EleutherAI/gpt-neox-20b)",
                            directory.string(), vocab_size));
  }
  return std::make_unique<ByteTokenizer>();
}

}  // namespace adder
