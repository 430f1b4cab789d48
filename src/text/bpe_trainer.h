// Learns a byte-level BPE from text: GPT-NeoX's kind of tokenizer (NFC, GPT-2's words) with a
// vocabulary of any size.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "adder/text/vocabulary.h"

namespace adder {

struct BpeTrainingOptions {
  int64_t vocab_size = 32768;
  // Special tokens, which have the first ids; the first one begins and ends texts.
  std::vector<std::string> special_tokens = {"<|endoftext|>"};
  // A pair that is met less often becomes no token.
  int64_t min_count = 2;
  // Called now and then while merges are learned.
  std::function<void(int64_t merges, int64_t total)> progress;
  // Looked at between merges: once true, kCancelled is thrown.
  const std::atomic<bool>* cancel = nullptr;
};

// Throws kInvalidArgument for a vocabulary without room for the bytes and for special tokens that
// are empty, no UTF-8, twice there or a byte's character.
void CheckBpeTrainingOptions(const BpeTrainingOptions& options);

class BpeTrainer {
 public:
  // Counts the words of a text. Bytes that are no UTF-8 are passed over.
  void Add(std::string_view text);
  int64_t different_words() const { return static_cast<int64_t>(counts_.size()); }

  // Learns merges of the words added: again and again the pair of tokens that is met most often,
  // the one with the smaller ids of equal ones, until the vocabulary has its size or no pair is
  // left. The same words give the same vocabulary. Tokens: special ones, the 256 bytes in the order
  // of their characters, then one for each merge. Throws what CheckBpeTrainingOptions throws;
  // kCancelled.
  Vocabulary Train(const BpeTrainingOptions& options) const;

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view word) const { return std::hash<std::string_view>()(word); }
  };

  std::unordered_map<std::string, int64_t, Hash, std::equal_to<>> counts_;
};

}  // namespace adder
