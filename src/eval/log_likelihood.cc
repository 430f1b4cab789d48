// Two passes over a batch: the shared beginnings, then from forks of their states the choices.
#include "adder/eval/log_likelihood.h"

#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "adder/core/error.h"

namespace adder {
namespace {

// Rows whose logits are held at once.
constexpr int64_t kGreedyRows = 64;

}  // namespace

// A choice to score, and where its score goes.
struct LogLikelihoodScorer::Job {
  const TokenDocument::Choice* choice;
  int64_t document;  // in the batch: the sequence it goes on from
  LogLikelihood* result;

  std::span<const int32_t> input() const {
    return std::span(choice->tokens).first(choice->tokens.size() - 1);
  }
};

LogLikelihoodScorer::LogLikelihoodScorer(const LanguageModel& model, LogLikelihoodOptions options)
    : model_(model),
      options_(std::move(options)),
      sequence_bytes_(std::max<int64_t>(1, model.InitialState(1).bytes())) {
  if (options_.batch_tokens < 1 || options_.state_bytes < 0) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("batches of {} tokens (expected at least 1), {} bytes for states "
                            "(expected at least 0)",
                            options_.batch_tokens, options_.state_bytes));
  }
}

size_t LogLikelihoodScorer::Together(std::span<const TokenDocument> documents) const {
  // Neither pass over the batch is larger than a forward, nor are its states than their memory.
  int64_t shared = 0;
  int64_t own = 0;
  int64_t sequences = 0;
  size_t count = 0;
  for (const TokenDocument& document : documents) {
    const auto begin = static_cast<int64_t>(document.shared.size());
    shared += begin;
    own += document.rows() - begin;
    sequences += static_cast<int64_t>(document.choices.size());
    const bool fits = std::max(shared, own) <= options_.batch_tokens &&
                      sequences <= options_.state_bytes / sequence_bytes_;
    if (count > 0 && !fits) break;
    ++count;
  }
  return count;
}

void LogLikelihoodScorer::Read(std::span<const std::span<const int32_t>> inputs, State* state,
                               const Visit& visit) const {
  std::vector<int64_t> read(inputs.size(), 0);
  while (true) {
    std::vector<int64_t> lengths;
    int64_t left = options_.batch_tokens;
    for (size_t s = 0; s < inputs.size(); ++s) {
      lengths.push_back(std::min(left, static_cast<int64_t>(inputs[s].size()) - read[s]));
      left -= lengths.back();
    }
    const SequenceLayout layout = SequenceLayout::FromLengths(lengths);
    if (layout.rows() == 0) return;
    if (options_.cancel != nullptr && options_.cancel->load()) {
      throw Error(ErrorCode::kCancelled, "evaluation stopped");
    }
    const Tensor tokens = Tensor::Empty({layout.rows()}, DType::kI32);
    for (size_t s = 0; s < inputs.size(); ++s) {
      std::copy_n(inputs[s].begin() + read[s], lengths[s],
                  tokens.data<int32_t>() + layout.begin(static_cast<int64_t>(s)));
    }
    const Tensor hidden = model_.Forward(tokens, layout, state);
    if (visit) visit(hidden, layout, read);
    for (size_t s = 0; s < inputs.size(); ++s) read[s] += lengths[s];
    if (options_.progress) options_.progress(layout.rows());
  }
}

void LogLikelihoodScorer::AddScores(std::span<const Job> jobs, const Tensor& hidden,
                                    const SequenceLayout& layout, std::span<const int64_t> read,
                                    bool greedy) const {
  // The head sees only rows that predict a token asked for, gathered.
  struct Run {
    const Job* job;
    int64_t row;    // of hidden, the first
    int64_t token;  // of the choice, the one that it predicts
    int64_t count;
  };
  std::vector<Run> runs;
  int64_t rows = 0;
  for (size_t s = 0; s < jobs.size(); ++s) {
    const auto sequence = static_cast<int64_t>(s);
    const auto size = static_cast<int64_t>(jobs[s].choice->tokens.size());
    // Row i of the input predicts token i + 1.
    const int64_t first = std::max(read[s], size - jobs[s].choice->scored - 1);
    const int64_t end = read[s] + layout.length(sequence);
    if (first >= end) continue;
    runs.push_back({&jobs[s], layout.begin(sequence) + first - read[s], first + 1, end - first});
    rows += end - first;
  }
  if (rows == 0) return;
  const Tensor gathered = Tensor::Empty({rows, hidden.dim(1)}, hidden.dtype(), hidden.device());
  const Tensor targets = Tensor::Empty({rows}, DType::kI32);
  int64_t begin = 0;
  for (const Run& run : runs) {
    gathered.Rows(begin, run.count).CopyFrom(hidden.Rows(run.row, run.count));
    std::copy_n(run.job->choice->tokens.begin() + run.token, run.count,
                targets.data<int32_t>() + begin);
    begin += run.count;
  }

  const Tensor loss = model_.Loss(nullptr, Variable(gathered), targets).value().To(Device{});
  std::vector<char> likeliest(static_cast<size_t>(rows), 0);
  for (int64_t block = 0; greedy && block < rows; block += kGreedyRows) {
    const int64_t count = std::min(kGreedyRows, rows - block);
    const Tensor logits = model_.Logits(gathered.Rows(block, count)).To(Device{});
    for (int64_t i = 0; i < count; ++i) {
      const float* row = logits.data<float>() + i * logits.dim(1);
      likeliest[static_cast<size_t>(block + i)] =
          std::max_element(row, row + logits.dim(1)) - row == targets.data<int32_t>()[block + i];
    }
  }
  begin = 0;
  for (const Run& run : runs) {
    for (int64_t i = begin; i < begin + run.count; ++i) {
      run.job->result->nats -= static_cast<double>(loss.data<float>()[i]);
      run.job->result->greedy &= likeliest[static_cast<size_t>(i)] != 0;
    }
    begin += run.count;
  }
}

void LogLikelihoodScorer::ScoreChoices(std::span<const Job> jobs, State state, bool greedy) const {
  std::vector<std::span<const int32_t>> inputs;
  inputs.reserve(jobs.size());
  for (const Job& job : jobs) inputs.push_back(job.input());
  Read(inputs, &state,
       [&](const Tensor& hidden, const SequenceLayout& layout, std::span<const int64_t> read) {
         AddScores(jobs, hidden, layout, read, greedy);
       });
}

std::vector<std::vector<LogLikelihood>> LogLikelihoodScorer::Score(
    std::span<const TokenDocument> documents, bool greedy) const {
  documents = documents.first(Together(documents));
  std::vector<std::vector<LogLikelihood>> results(documents.size());
  std::vector<Job> jobs;
  std::vector<std::span<const int32_t>> beginnings;
  for (size_t d = 0; d < documents.size(); ++d) {
    results[d].resize(documents[d].choices.size(), {.greedy = greedy});
    for (size_t c = 0; c < results[d].size(); ++c) {
      jobs.push_back({&documents[d].choices[c], static_cast<int64_t>(d), &results[d][c]});
    }
    beginnings.emplace_back(documents[d].shared);
  }
  State shared = model_.InitialState(static_cast<int64_t>(documents.size()));
  Read(beginnings, &shared, nullptr);

  // A memory that grows with what was read has grown: count again how many fit.
  const int64_t bytes =
      std::max<int64_t>(1, shared.bytes() / std::max<int64_t>(1, shared.sequences()));
  const auto most = static_cast<size_t>(std::max<int64_t>(1, options_.state_bytes / bytes));
  for (std::span<const Job> left = jobs; !left.empty();) {
    const std::span<const Job> group = left.first(std::min(most, left.size()));
    left = left.subspan(group.size());
    std::vector<int64_t> sequences;
    sequences.reserve(group.size());
    for (const Job& job : group) sequences.push_back(job.document);
    ScoreChoices(group, shared.Select(sequences), greedy);
  }
  return results;
}

}  // namespace adder
