// Batches of documents through the model, and their results into the file.
#include "adder/eval/task_evaluation.h"

#include <fmt/core.h>
#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "adder/core/error.h"
#include "adder/eval/log_likelihood.h"
#include "adder/eval/task_results.h"

namespace adder {
namespace {

// A task's documents in tokens, and the hash that names them.
struct TokenSet {
  std::vector<TokenDocument> documents;
  uint64_t hash = 0;
};

void AppendTokens(std::span<const int32_t> tokens, std::vector<int64_t>* numbers) {
  numbers->push_back(static_cast<int64_t>(tokens.size()));
  numbers->insert(numbers->end(), tokens.begin(), tokens.end());
}

TokenSet Encode(const Tokenizer& tokenizer, const TaskSet& set, const TaskEncoding& encoding,
                int64_t vocab_size, const std::atomic<bool>* cancel) {
  TokenSet tokens;
  tokens.documents.reserve(set.documents.size());
  for (const TaskDocument& document : set.documents) {
    if (cancel != nullptr && cancel->load()) {
      throw Error(ErrorCode::kCancelled, "evaluation stopped");
    }
    tokens.documents.push_back(EncodeDocument(tokenizer, document, encoding, vocab_size));
    const TokenDocument& encoded = tokens.documents.back();
    std::vector<int64_t> numbers;
    AppendTokens(encoded.shared, &numbers);
    for (const TokenDocument::Choice& choice : encoded.choices) {
      AppendTokens(choice.tokens, &numbers);
      numbers.push_back(choice.scored);
    }
    tokens.hash = XXH64(numbers.data(), numbers.size() * sizeof(int64_t), tokens.hash);
  }
  return tokens;
}

TaskResultsHeader MakeHeader(const LanguageModel& model, std::span<const TaskSet> sets,
                             std::span<const TokenSet> tokens,
                             const TaskEvaluationOptions& options) {
  TaskResultsHeader header;
  header.fingerprint = model.fingerprint();
  header.dtype = DTypeName(model.compute_dtype());
  header.limit = options.limit;
  header.max_length = options.encoding.max_length;
  for (size_t t = 0; t < sets.size(); ++t) {
    TaskResultsHeader::TaskPart part;
    part.task = sets[t].task->name;
    part.requests = tokens[t].hash;
    part.greedy = sets[t].task->single();
    for (const TaskDocument& document : sets[t].documents) {
      part.choices.push_back(static_cast<int64_t>(document.requests.size()));
    }
    header.tasks.push_back(std::move(part));
  }
  return header;
}

void CheckFinite(const TaskSet& set, size_t first,
                 const std::vector<std::vector<LogLikelihood>>& results) {
  for (size_t d = 0; d < results.size(); ++d) {
    for (const LogLikelihood& result : results[d]) {
      if (std::isfinite(result.nats)) continue;
      throw Error(ErrorCode::kNumeric, fmt::format("{}: the model's log-likelihood is {}",
                                                   set.documents[first + d].source, result.nats));
    }
  }
}

int64_t RowsLeft(const TokenSet& tokens, size_t done) {
  int64_t rows = 0;
  for (size_t d = done; d < tokens.documents.size(); ++d) rows += tokens.documents[d].rows();
  return rows;
}

}  // namespace

std::vector<TaskOutcome> EvaluateTasks(const LanguageModel& model, const Tokenizer& tokenizer,
                                       std::span<const TaskSet> sets,
                                       const TaskEvaluationOptions& options) {
  std::vector<TokenSet> tokens;
  for (const TaskSet& set : sets) {
    tokens.push_back(Encode(tokenizer, set, options.encoding, model.vocab_size(), options.cancel));
  }
  TaskResults results(sets.size());
  std::unique_ptr<TaskResultsFile> file;
  if (!options.results.empty()) {
    file = std::make_unique<TaskResultsFile>(options.results,
                                             MakeHeader(model, sets, tokens, options));
    results = file->results();
  }

  TaskProgress progress = {};
  for (size_t t = 0; t < sets.size(); ++t) {
    progress.rows_left += RowsLeft(tokens[t], results[t].size());
  }
  LogLikelihoodOptions scoring;
  scoring.batch_tokens = options.batch_tokens;
  scoring.cancel = options.cancel;
  scoring.progress = [&](int64_t rows) {
    progress.rows += rows;
    progress.rows_left -= rows;
    if (options.progress) options.progress(progress);
  };
  const LogLikelihoodScorer scorer(model, scoring);
  std::vector<TaskOutcome> outcomes;
  for (size_t t = 0; t < sets.size(); ++t) {
    const std::span<const TokenDocument> documents = tokens[t].documents;
    progress.set = &sets[t];
    for (size_t done = results[t].size(); done < documents.size(); done = results[t].size()) {
      progress.documents = static_cast<int64_t>(done);
      const std::vector<std::vector<LogLikelihood>> scores =
          scorer.Score(documents.subspan(done), sets[t].task->single());
      CheckFinite(sets[t], done, scores);
      if (file) file->Append(t, static_cast<int64_t>(done), scores);
      results[t].insert(results[t].end(), scores.begin(), scores.end());
    }
    outcomes.push_back(
        {std::string(sets[t].task->name), static_cast<int64_t>(documents.size()),
         ComputeMetrics(*sets[t].task, sets[t].documents, results[t], options.cancel)});
  }
  return outcomes;
}

}  // namespace adder
