// From a tokenizer.json to the lists that a GGUF file holds.
#include <fmt/core.h>

#include <limits>
#include <unordered_map>

#include "adder/core/error.h"
#include "adder/text/bpe_tokenizer.h"
#include "adder/text/vocabulary.h"

namespace adder {
namespace {

[[noreturn]] void Refuse(const std::string& source, std::string_view what) {
  throw Error(ErrorCode::kUnsupported,
              fmt::format("{}: a GGUF file cannot hold a tokenizer {}", source, what));
}

// tokenizer.ggml.pre, by names that llama.cpp knows too.
std::string CuttingName(Normalizer::Style normalizer, PreTokenizer::Style cutting) {
  const bool plain = normalizer == Normalizer::Style::kNone;
  const bool nfc = normalizer == Normalizer::Style::kNfc;
  if (cutting == PreTokenizer::Style::kGpt2 && plain) return "gpt-2";
  if (cutting == PreTokenizer::Style::kGpt2 && nfc) return "olmo";
  if (cutting == PreTokenizer::Style::kLlama3 && plain) return "llama-bpe";
  if (cutting == PreTokenizer::Style::kQwen2 && nfc) return "qwen2";
  if (cutting == PreTokenizer::Style::kFalcon && plain) return "falcon";
  return "";
}

// SentencePiece merges by scores: each token's falls with the place of its first merge.
std::vector<float> ScoresOf(const Vocabulary& vocabulary) {
  std::unordered_map<std::string, size_t> ranks;
  for (size_t i = 0; i < vocabulary.merges.size(); ++i) {
    std::string merged = vocabulary.merges[i];
    merged.erase(merged.find(' '), 1);
    ranks.emplace(std::move(merged), i);
  }
  std::vector<float> scores;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const auto rank = ranks.find(vocabulary.tokens[id]);
    const size_t place = rank == ranks.end() ? vocabulary.merges.size() : rank->second;
    scores.push_back(vocabulary.types[id] == TokenType::kNormal ? -static_cast<float>(place)
                                                                : 0.0f);
  }
  return scores;
}

}  // namespace

Vocabulary BpeTokenizer::ToVocabulary() const {
  const JsonObject file = JsonObject::Parse(*FindFile("tokenizer.json"), source_);
  const JsonObject model = file.Object("model");
  Vocabulary vocabulary;
  const bool byte_level = pre_tokenizer_.byte_level();
  if (byte_level) {
    vocabulary.model = "gpt2";
    vocabulary.pre = CuttingName(normalizer_.style(), pre_tokenizer_.style());
    if (vocabulary.pre.empty()) Refuse(source_, "that normalizes or cuts text like this one");
  } else {
    using Spaces = Normalizer::Style;
    using Cutting = PreTokenizer::Style;
    const bool by_normalizer = pre_tokenizer_.style() == Cutting::kNone;
    const bool prefix = by_normalizer ? normalizer_.style() == Spaces::kMetaspace
                                      : pre_tokenizer_.style() == Cutting::kMetaspace;
    const bool no_prefix = by_normalizer ? normalizer_.style() == Spaces::kMetaspaceNoPrefix
                                         : pre_tokenizer_.style() == Cutting::kMetaspaceNoPrefix;
    const bool plain = by_normalizer || normalizer_.style() == Spaces::kNone;
    if (!plain || (!prefix && !no_prefix) || !model.BoolOr("byte_fallback", false)) {
      Refuse(source_, "that is neither over bytes nor like SentencePiece's with byte_fallback");
    }
    vocabulary.model = "llama";
    vocabulary.add_space_prefix = prefix;
  }

  for (const JsonValue& merge : model.Array("merges")) {
    const JsonValue::Array* pair = merge.AsArray();
    if (pair == nullptr) {
      vocabulary.merges.push_back(*merge.AsString());
      continue;
    }
    const std::string& left = *(*pair)[0].AsString();
    const std::string& right = *(*pair)[1].AsString();
    if (left.find(' ') != std::string::npos || right.find(' ') != std::string::npos) {
      Refuse(source_, "whose merges have spaces");
    }
    vocabulary.merges.push_back(left + " " + right);
  }
  if (model.Has("unk_token")) vocabulary.unknown = ids_.at(model.String("unk_token"));
  for (size_t id = 0; id < texts_.size(); ++id) {
    const std::string& text = texts_[id];
    TokenType type = TokenType::kNormal;
    if (text.empty()) {
      type = TokenType::kUnused;
    } else if (static_cast<int64_t>(id) == vocabulary.unknown && !byte_level) {
      type = TokenType::kUnknown;
    } else if (special_[id]) {
      type = TokenType::kControl;
    } else if (added_[id]) {
      type = TokenType::kUserDefined;
    } else if (!byte_level && text.size() == 6 && text.starts_with("<0x") && text.ends_with('>')) {
      type = TokenType::kByte;
    }
    vocabulary.tokens.push_back(text.empty() ? fmt::format("[PAD{}]", id) : text);
    vocabulary.types.push_back(type);
  }
  if (!byte_level) vocabulary.scores = ScoresOf(vocabulary);
  ExportSpecialTokens(&vocabulary);
  return vocabulary;
}

void BpeTokenizer::ExportSpecialTokens(Vocabulary* vocabulary) const {
  if (const std::string* text = FindFile("tokenizer_config.json")) {
    const JsonObject config = JsonObject::Parse(*text, source_ + "'s tokenizer_config.json");
    const auto id_of = [&](const char* key) -> int32_t {
      const JsonValue* value = config.value().Find(key);
      if (value != nullptr && value->AsObject() != nullptr) value = value->Find("content");
      if (value == nullptr || value->AsString() == nullptr) return -1;
      for (size_t id = 0; id < texts_.size(); ++id) {
        if (texts_[id] == *value->AsString()) return static_cast<int32_t>(id);
      }
      return -1;
    };
    vocabulary->bos = id_of("bos_token");
    vocabulary->eos = id_of("eos_token");
    vocabulary->padding = id_of("pad_token");
  }
  if (prefix_.size() > 1 || suffix_.size() > 1) {
    Refuse(source_, "that puts several tokens before or behind a text");
  }
  if (!prefix_.empty()) vocabulary->bos = prefix_[0];
  if (!suffix_.empty()) vocabulary->eos = suffix_[0];
  vocabulary->add_bos = !prefix_.empty();
  vocabulary->add_eos = !suffix_.empty();
}

const std::string* BpeTokenizer::FindFile(std::string_view name) const {
  for (const KeptFile& file : files_) {
    if (file.name == name) return &file.content;
  }
  return nullptr;
}

}  // namespace adder
