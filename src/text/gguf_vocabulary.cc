// tokenizer.ggml.* and the fields of Vocabulary.
#include "adder/text/gguf_vocabulary.h"

#include <limits>

#include "adder/core/error.h"

namespace adder {
namespace {

const std::string kPrefix = "tokenizer.ggml.";  // NOLINT(cert-err58-cpp): short, cannot throw

int32_t TokenId(const GgufFile& file, const char* key, size_t count) {
  const std::string full = kPrefix + key;
  if (file.Find(full) == nullptr) return -1;
  return static_cast<int32_t>(file.Int(full, 0, static_cast<int64_t>(count) - 1));
}

bool Flag(const GgufFile& file, const char* key, bool fallback) {
  const std::string full = kPrefix + key;
  return file.Find(full) != nullptr ? file.Bool(full) : fallback;
}

}  // namespace

Vocabulary ReadVocabulary(const GgufFile& file) {
  Vocabulary vocabulary;
  vocabulary.model = file.String(kPrefix + "model");
  if (vocabulary.model == "none" || vocabulary.model == "no_vocab") {
    throw Error(ErrorCode::kNotFound, file.path().string() + ": the file has no tokenizer");
  }
  if (file.Find(kPrefix + "pre") != nullptr) vocabulary.pre = file.String(kPrefix + "pre");
  vocabulary.tokens = file.Strings(kPrefix + "tokens");
  const size_t count = vocabulary.tokens.size();
  if (count == 0 || count > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
    file.Fail(kPrefix + "tokens", "a list of tokens");
  }
  if (file.Find(kPrefix + "merges") != nullptr)
    vocabulary.merges = file.Strings(kPrefix + "merges");
  if (const GgufValue* scores = file.Find(kPrefix + "scores")) {
    const GgufValue::Doubles* values = scores->AsDoubles();
    if (values == nullptr || values->size() != count) {
      file.Fail(kPrefix + "scores", "a number for each token");
    }
    vocabulary.scores.assign(values->begin(), values->end());
  }
  if (const GgufValue* types = file.Find(kPrefix + "token_type")) {
    const GgufValue::Integers* values = types->AsInts();
    if (values == nullptr || values->size() != count) {
      file.Fail(kPrefix + "token_type", "a number for each token");
    }
    for (const int64_t value : *values) {
      if (value < 0 || value > static_cast<int64_t>(TokenType::kByte)) {
        file.Fail(kPrefix + "token_type", "numbers from 1 to 6");
      }
      vocabulary.types.push_back(value == 0 ? TokenType::kNormal : static_cast<TokenType>(value));
    }
  }
  vocabulary.bos = TokenId(file, "bos_token_id", count);
  vocabulary.eos = TokenId(file, "eos_token_id", count);
  vocabulary.eot = TokenId(file, "eot_token_id", count);
  vocabulary.unknown = TokenId(file, "unknown_token_id", count);
  vocabulary.padding = TokenId(file, "padding_token_id", count);
  // llama.cpp's defaults: only SentencePiece's models begin with the begin token.
  vocabulary.add_bos = Flag(file, "add_bos_token", vocabulary.model == "llama");
  vocabulary.add_eos = Flag(file, "add_eos_token", false);
  vocabulary.add_space_prefix = Flag(file, "add_space_prefix", true);
  return vocabulary;
}

std::vector<std::pair<std::string, GgufValue>> VocabularyMetadata(const Vocabulary& vocabulary) {
  std::vector<std::pair<std::string, GgufValue>> metadata;
  const auto add = [&](const char* key, GgufValue value) {
    metadata.emplace_back(kPrefix + key, std::move(value));
  };
  add("model", vocabulary.model);
  if (!vocabulary.pre.empty()) add("pre", vocabulary.pre);
  add("tokens", vocabulary.tokens);
  if (!vocabulary.scores.empty()) {
    add("scores",
        GgufValue::Array(GgufValue::Type::kF32,
                         GgufValue::Doubles(vocabulary.scores.begin(), vocabulary.scores.end())));
  }
  GgufValue::Integers types(vocabulary.tokens.size(), static_cast<int64_t>(TokenType::kNormal));
  for (size_t i = 0; i < vocabulary.types.size(); ++i) {
    types[i] = static_cast<int64_t>(vocabulary.types[i]);
  }
  add("token_type", GgufValue::Array(GgufValue::Type::kI32, std::move(types)));
  // llama.cpp wants the list, were it empty.
  if (!vocabulary.merges.empty() || vocabulary.model == "gpt2") add("merges", vocabulary.merges);
  const auto add_id = [&](const char* key, int32_t id) {
    if (id >= 0) add(key, static_cast<uint32_t>(id));
  };
  add_id("bos_token_id", vocabulary.bos);
  add_id("eos_token_id", vocabulary.eos);
  add_id("eot_token_id", vocabulary.eot);
  add_id("unknown_token_id", vocabulary.unknown);
  add_id("padding_token_id", vocabulary.padding);
  add("add_bos_token", vocabulary.add_bos);
  add("add_eos_token", vocabulary.add_eos);
  if (vocabulary.model == "llama") add("add_space_prefix", vocabulary.add_space_prefix);
  return metadata;
}

std::vector<std::pair<std::string, GgufValue>> NoVocabularyMetadata() {
  return {{kPrefix + "model", "none"}};
}

}  // namespace adder
