// Text ↔ token ids.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace adder {

struct Vocabulary;

// All functions may be called by several threads at once.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  // The greatest id, and one.
  virtual int64_t vocab_size() const = 0;
  // The tokens of a text, without those that a model wants around it (see prefix_tokens). Special
  // tokens written out in the text are found. Bytes that are no UTF-8 are kept where the vocabulary
  // can spell single bytes, and become its unknown token otherwise.
  virtual std::vector<int32_t> Encode(std::string_view text) const = 0;
  // The bytes that a token adds to a text; not necessarily whole UTF-8 characters, and none for an
  // id below vocab_size() that no token has. Throws kInvalidArgument for a token outside the
  // vocabulary.
  virtual std::string_view Bytes(int32_t token) const = 0;
  // Writes the files by which Load, and Hugging Face's tokenizers, know this tokenizer.
  virtual void Save(const std::filesystem::path& directory) const = 0;

  // What the token adds as the first one of a text: SentencePiece's tokenizers put a space before a
  // text when they encode, which decoding takes away.
  virtual std::string FirstBytes(int32_t token) const { return std::string(Bytes(token)); }
  // A token that stands for no text: the beginning or end of one, a filler, …
  virtual bool IsSpecial(int32_t) const { return false; }
  // The tokens that the tokenizer's description puts before and behind a text, for a model that was
  // trained so ("add_special_tokens" in Hugging Face's).
  virtual std::span<const int32_t> prefix_tokens() const { return {}; }
  virtual std::span<const int32_t> suffix_tokens() const { return {}; }

  // Long texts in parts: the tokens of the whole are those of its parts, one after the other.
  // The length of a first part of `text`: about `bytes`, or more where it cannot be cut there.
  virtual size_t PartLength(std::string_view text, size_t bytes) const;
  // The tokens of a part; `first`: of the first.
  virtual std::vector<int32_t> EncodePart(std::string_view part, bool first) const;
  // Calls part(tokens, bytes) for each part of about `bytes` bytes.
  void EncodeParts(
      std::string_view text, size_t bytes,
      const std::function<void(std::span<const int32_t> tokens, size_t bytes)>& part) const;

  // The text of tokens, with U+FFFD where their bytes are no UTF-8.
  std::string Decode(std::span<const int32_t> tokens, bool skip_special = true) const;

  // Other for tokenizers that give other tokens: tells whether text must be tokenized anew.
  virtual uint64_t fingerprint() const;

  // What a GGUF file holds of a tokenizer. Throws kUnsupported for one that it cannot hold.
  virtual Vocabulary ToVocabulary() const;

  // The tokenizer of a model directory: the one that its tokenizer.json describes, or the pair of
  // vocab.json and merges.txt (GPT-2), or the byte tokenizer where there is none and config.json
  // says vocab_size 256. `directory` may be a tokenizer.json itself, or a GGUF file. Throws
  // kNotFound, kIo, kCorrupt; kUnsupported, naming what was found, for another kind of tokenizer.
  static std::unique_ptr<Tokenizer> Load(const std::filesystem::path& directory);
  // The tokenizer of a tokenizer.json's text; `source` is what messages call it.
  static std::unique_ptr<Tokenizer> Parse(std::string_view text, std::string_view source);
  // The tokenizer that a GGUF file describes. Throws as Parse; kUnsupported for a kind of
  // vocabulary that is not known.
  static std::unique_ptr<Tokenizer> FromVocabulary(const Vocabulary& vocabulary,
                                                   std::string_view source);
};

// Token i is byte i (MambaByte).
class ByteTokenizer : public Tokenizer {
 public:
  int64_t vocab_size() const override { return 256; }
  std::vector<int32_t> Encode(std::string_view text) const override;
  std::string_view Bytes(int32_t token) const override;
  void Save(const std::filesystem::path& directory) const override;
  size_t PartLength(std::string_view text, size_t bytes) const override;
  Vocabulary ToVocabulary() const override;
};

// Lets through whole UTF-8 characters only: bytes of an unfinished character are held back until
// the rest comes; bytes that can never become one are replaced by U+FFFD, once for each longest
// beginning of a character (as the Unicode standard recommends and Python's errors="replace" does).
class Utf8Stream {
 public:
  // The text that became complete.
  std::string Push(std::string_view bytes);
  // What is left at the end, replaced by U+FFFD where incomplete.
  std::string Finish();
  // The bytes held back: the beginning of a character.
  std::string_view pending() const { return pending_; }

 private:
  std::string pending_;
};

// All bytes, as a stream that ends with them gives them.
std::string ToUtf8(std::string_view bytes);

// The text of tokens that come one by one.
class TokenTextStream {
 public:
  // The tokenizer must outlive the stream.
  explicit TokenTextStream(const Tokenizer& tokenizer, bool skip_special = true)
      : tokenizer_(tokenizer), skip_special_(skip_special) {}

  // The text that became complete.
  std::string Push(int32_t token);
  std::string Finish() { return utf8_.Finish(); }

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  bool first_ = true;
  Utf8Stream utf8_;
};

}  // namespace adder
