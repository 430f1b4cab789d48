// Training text as tokens: made once with a tokenizer, kept in a file that is mapped from then on.
// The file's layout is in docs/file-formats.md.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "adder/data/byte_corpus.h"
#include "adder/data/training_corpus.h"
#include "adder/formats/file.h"
#include "adder/text/tokenizer.h"

namespace adder {

class TokenCorpus : public TrainingCorpus {
 public:
  struct BuildOptions {
    // Called now and then with the bytes of text tokenized so far.
    std::function<void(int64_t bytes, int64_t total)> progress;
    // Looked at now and then: once true, kCancelled is thrown, and no file is left.
    const std::atomic<bool>* cancel = nullptr;
  };

  // Tokenizes the documents of a text into a file, which appears when it is whole. `key` stands for
  // text and tokenizer. Throws kIo, kCancelled; kInvalidArgument when no document has two tokens,
  // the least that has something to predict.
  static void Build(const std::filesystem::path& path, uint64_t key, const ByteCorpus& text,
                    const Tokenizer& tokenizer, const BuildOptions& options);
  // Maps such a file. Throws kNotFound, kIo; kCorrupt for a file that is none or not whole.
  static TokenCorpus Open(const std::filesystem::path& path);
  // The same of such a file's bytes, which must live as long; `source` names them in errors.
  static TokenCorpus Parse(std::span<const std::byte> bytes, std::string source);

  uint64_t key() const { return key_; }
  // Bytes of the text that was tokenized.
  int64_t text_bytes() const { return text_bytes_; }

  int64_t vocab_size() const override { return vocab_size_; }
  // Throws kCorrupt for a token outside the vocabulary.
  void Read(int64_t position, std::span<int32_t> tokens) const override;
  uint64_t Fingerprint() const override;

 private:
  TokenCorpus() = default;

  std::string source_;
  std::shared_ptr<const MappedFile> file_;  // that the bytes are of, if any
  const std::byte* data_ = nullptr;         // the tokens
  size_t token_bytes_ = 0;                  // 2 or 4
  uint64_t key_ = 0;
  int64_t vocab_size_ = 0;
  int64_t text_bytes_ = 0;
};

}  // namespace adder
