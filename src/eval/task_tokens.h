// A task's document in tokens: what the model reads, and which of it is asked for. The rules are
// lm-evaluation-harness's, for causal models.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "adder/eval/task.h"
#include "adder/text/tokenizer.h"

namespace adder {

struct TaskEncoding {
  // The context where a request has none, usually the model's begin token. -1: none; such a request
  // is then refused.
  int64_t prefix_token = -1;
  // The most tokens that the model is to read for one request: longer ones lose their beginning.
  int64_t max_length = 2048;
};

// What lm-evaluation-harness takes from a model directory's files, any of which may be absent:
// - max_length from config.json (n_positions, max_position_embeddings or n_ctx), else from
//   tokenizer_config.json (model_max_length), else 2048;
// - prefix_token is config.json's bos_token_id, else its eos_token_id.
// Throws kIo; kCorrupt for a file that is no JSON object or a length that is none.
TaskEncoding ReadTaskEncoding(const std::filesystem::path& model_directory);

// The requests of a document begin with the same tokens, often all of the context; those are read
// once, and each choice goes on from the state that they leave.
struct TokenDocument {
  struct Choice {
    // What follows `shared`. The last token is predicted, not read: the rows are one fewer.
    std::vector<int32_t> tokens;
    // The last tokens, those of the continuation; 1 ≤ scored < tokens.size().
    int64_t scored = 0;
  };

  std::vector<int32_t> shared;
  std::vector<Choice> choices;

  // Rows that the model is given.
  int64_t rows() const;
};

// Tokens of one document:
// - White space at the end of a context moves to the beginning of the continuation.
// - Context and continuation are encoded together, with the tokens that the tokenizer itself puts
//   around a text (prefix_tokens, suffix_tokens), and cut after as many tokens as the context so
//   encoded has. An empty context is the prefix token; one that the continuation begins with anyway
//   is not repeated.
// - Of context and continuation the last max_length + 1 tokens are kept.
// Throws kInvalidArgument, naming the document, for a request without a prefix token or without a
// token of its own to predict, a continuation longer than max_length, and a token that is not less
// than `vocab_size`.
TokenDocument EncodeDocument(const Tokenizer& tokenizer, const TaskDocument& document,
                             const TaskEncoding& encoding, int64_t vocab_size);

}  // namespace adder
