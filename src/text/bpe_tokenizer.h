// The tokenizer of a tokenizer.json with a BPE model: GPT-2's and GPT-NeoX's kind over bytes, and
// SentencePiece's over characters (Llama, Mistral). Text goes through
//     special tokens → normalizer → added tokens → pre-tokenizer → merges
// as in Hugging Face's tokenizers, and gets the same ids.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "adder/formats/json.h"
#include "adder/text/added_tokens.h"
#include "adder/text/bpe_model.h"
#include "adder/text/normalizer.h"
#include "adder/text/pre_tokenizer.h"
#include "adder/text/tokenizer.h"

namespace adder {

class BpeTokenizer : public Tokenizer {
 public:
  // `file` is the parsed tokenizer.json, `text` its text, which Save writes again. Throws kCorrupt,
  // kUnsupported naming what is not known.
  BpeTokenizer(const JsonObject& file, std::string text);

  // Further files of the directory that the tokenizer comes from, which Save writes again.
  void KeepFile(std::string name, std::string content);

  int64_t vocab_size() const override { return static_cast<int64_t>(texts_.size()); }
  std::vector<int32_t> Encode(std::string_view text) const override;
  std::string_view Bytes(int32_t token) const override;
  void Save(const std::filesystem::path& directory) const override;
  std::string FirstBytes(int32_t token) const override;
  bool IsSpecial(int32_t token) const override;
  std::span<const int32_t> prefix_tokens() const override { return prefix_; }
  std::span<const int32_t> suffix_tokens() const override { return suffix_; }
  size_t PartLength(std::string_view text, size_t bytes) const override;
  std::vector<int32_t> EncodePart(std::string_view part, bool first) const override;
  Vocabulary ToVocabulary() const override;
  uint64_t fingerprint() const override;

 private:
  struct KeptFile {
    std::string name;
    std::string content;
  };
  // One encoding in progress.
  class Encoding;

  // The texts of added tokens that the normalizer changes, as which they are decoded.
  using NormalizedTexts = std::unordered_map<int32_t, std::string>;

  void ReadVocabulary(const JsonObject& model);
  NormalizedTexts ReadAddedTokens(const JsonObject& file);
  std::vector<BpeModel::Merge> ReadMerges(const JsonObject& model) const;
  void ReadModel(const JsonObject& model);
  void ReadPostProcessor(const JsonObject& processor);
  void ReadDecoder(const JsonObject& file, const NormalizedTexts& normalized_texts);
  void CheckToken(int32_t token) const;
  // The content of a kept file, or null.
  const std::string* FindFile(std::string_view name) const;
  void ExportSpecialTokens(Vocabulary* vocabulary) const;

  std::deque<std::string> texts_;  // by id; empty: no token; where they are they stay
  TokenIds ids_;                   // of the model's tokens
  std::vector<bool> special_;
  std::vector<bool> added_;
  std::vector<std::string> bytes_;
  std::vector<std::string> first_bytes_;
  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  AddedTokenMatcher raw_tokens_;         // looked for in the text as it comes
  AddedTokenMatcher normalized_tokens_;  // and in normalized text
  std::unique_ptr<BpeModel> model_;
  std::vector<int32_t> prefix_;
  std::vector<int32_t> suffix_;
  bool local_ = false;  // text may be cut before spaces
  std::string source_;
  std::vector<KeptFile> files_;  // tokenizer.json first
};

}  // namespace adder
