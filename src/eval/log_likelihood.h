// Log-likelihoods of many continuations at once: documents lie packed one after the other, and what
// the choices of a document share is read once and its state forked.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "adder/core/state.h"
#include "adder/eval/task_tokens.h"
#include "adder/models/language_model.h"

namespace adder {

struct LogLikelihood {
  double nats = 0.0;  // Σ ln p(token | all before it) over the continuation
  // Every token of it is the likeliest one in its place. Only computed where asked for.
  bool greedy = false;

  friend bool operator==(const LogLikelihood&, const LogLikelihood&) = default;
};

struct LogLikelihoodOptions {
  // Rows of one forward at most.
  int64_t batch_tokens = 2048;
  // What the states of the sequences in progress may take together (at least one is in progress).
  int64_t state_bytes = int64_t{1} << 29;
  // Called after each forward with its rows.
  std::function<void(int64_t rows)> progress;
  // Looked at before each forward: once true, kCancelled is thrown.
  const std::atomic<bool>* cancel = nullptr;
};

class LogLikelihoodScorer {
 public:
  // The model must outlive the scorer. Throws kInvalidArgument for an option without a valid value.
  LogLikelihoodScorer(const LanguageModel& model, LogLikelihoodOptions options);

  // Scores the first documents, as many as are read together (at least one): result[d][c] is that
  // of choice c of document d. The result does not depend on what is read together but for
  // rounding. Throws kCancelled.
  std::vector<std::vector<LogLikelihood>> Score(std::span<const TokenDocument> documents,
                                                bool greedy) const;

 private:
  struct Job;

  size_t Together(std::span<const TokenDocument> documents) const;
  // Reads inputs[s] on from sequence s of the state. visit(hidden, layout, read): the hidden rows
  // of a forward, and how many tokens of each sequence came before it.
  using Visit = std::function<void(const Tensor& hidden, const SequenceLayout& layout,
                                   std::span<const int64_t> read)>;
  void Read(std::span<const std::span<const int32_t>> inputs, State* state,
            const Visit& visit) const;
  void ScoreChoices(std::span<const Job> jobs, State state, bool greedy) const;
  void AddScores(std::span<const Job> jobs, const Tensor& hidden, const SequenceLayout& layout,
                 std::span<const int64_t> read, bool greedy) const;

  const LanguageModel& model_;
  LogLikelihoodOptions options_;
  int64_t sequence_bytes_;  // of an empty state
};

}  // namespace adder
