// Text ↔ token ids.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace adder {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual int64_t vocab_size() const = 0;
  virtual std::vector<int32_t> Encode(std::string_view text) const = 0;
  // The bytes a token stands for; not necessarily whole UTF-8 characters. Throws kInvalidArgument
  // for a token outside the vocabulary.
  virtual std::string_view Bytes(int32_t token) const = 0;
  // Writes the files by which Load, and Hugging Face's tokenizers, know this tokenizer.
  virtual void Save(const std::filesystem::path& directory) const = 0;

  // The tokenizer of a model directory: the one that its tokenizer.json describes, or the byte
  // tokenizer where there is none and config.json says vocab_size 256. Throws kNotFound, kIo,
  // kCorrupt; kUnsupported, naming what was found, for another kind of tokenizer.
  static std::unique_ptr<Tokenizer> Load(const std::filesystem::path& directory);
  // The tokenizer of a tokenizer.json's text; `source` is what messages call it.
  static std::unique_ptr<Tokenizer> Parse(std::string_view text, std::string_view source);
};

// Token i is byte i (MambaByte).
class ByteTokenizer : public Tokenizer {
 public:
  int64_t vocab_size() const override { return 256; }
  std::vector<int32_t> Encode(std::string_view text) const override;
  std::string_view Bytes(int32_t token) const override;
  void Save(const std::filesystem::path& directory) const override;
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

}  // namespace adder
