// How many bits a language model needs for each byte of a text: its cross-entropy, in a unit that
// does not depend on the tokenizer and that compressors share.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string_view>

#include "adder/models/language_model.h"
#include "adder/text/tokenizer.h"

namespace adder {

struct BitsPerByteOptions {
  // Read before the text, so that its first token is predicted too. -1: none; the first token is
  // then counted as one of vocab_size() equally likely ones (8 bits for a byte model).
  int64_t start_token = -1;
  // Rows of one forward: what bounds the memory. The result does not depend on it but for rounding.
  int64_t chunk_rows = 1024;
  // Called after each chunk with the bytes read so far.
  std::function<void(int64_t bytes, int64_t total)> progress;
  // Looked at before each chunk: once true, kCancelled is thrown.
  const std::atomic<bool>* cancel = nullptr;
};

struct BitsPerByte {
  int64_t bytes = 0;
  int64_t tokens = 0;
  double nats = 0.0;  // the sum over all tokens of -ln p(token | everything before it)
  double seconds = 0.0;

  double bits() const;           // nats / ln 2
  double bits_per_byte() const;  // bits() / bytes
  // exp(nats / units): of tokens, words or whatever else the text has `units` of. May be infinite.
  double perplexity(int64_t units) const;
};

// Reads `text` from start to end with the state carried over, in constant memory where the
// tokenizer can cut it into parts.
//
// Text is tokenized in parts of about 64 KiB (Tokenizer::EncodeParts); the tokens are those of the
// whole.
//
// Throws kInvalidArgument for an empty text or a token outside the model's vocabulary, kNumeric
// where the model's answer is not a finite number, kCancelled.
BitsPerByte MeasureBitsPerByte(const LanguageModel& model, const Tokenizer& tokenizer,
                               std::string_view text, const BitsPerByteOptions& options = {});

}  // namespace adder
