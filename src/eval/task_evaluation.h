// Evaluation of a model on tasks: from documents to metrics, stopped and gone on with at any place.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "adder/eval/task.h"
#include "adder/eval/task_metrics.h"
#include "adder/eval/task_tokens.h"
#include "adder/models/language_model.h"
#include "adder/text/tokenizer.h"

namespace adder {

struct TaskSet {
  const Task* task = nullptr;
  std::vector<TaskDocument> documents;
};

// Where an evaluation stands.
struct TaskProgress {
  const TaskSet* set;  // in progress
  int64_t documents;   // of it done
  int64_t rows;        // read by this run
  int64_t rows_left;   // of all tasks
};

struct TaskEvaluationOptions {
  TaskEncoding encoding;
  int64_t batch_tokens = 2048;    // rows of one forward at most
  std::optional<int64_t> limit;   // as the documents were read with; noted in the results file
  std::filesystem::path results;  // the results file; empty: none
  // Called after each forward.
  std::function<void(const TaskProgress&)> progress;
  // Looked at before each forward: once true, kCancelled is thrown.
  const std::atomic<bool>* cancel = nullptr;
};

struct TaskOutcome {
  std::string task;
  int64_t documents = 0;
  std::vector<MetricValue> metrics;
};

// Evaluates the sets in order. With a results file, documents found in it are not evaluated again,
// and each batch is written to it when it is done; a run that is stopped and repeated gives the
// numbers of one that was not, but for rounding where its batches differ.
// Throws what EncodeDocument, TaskResultsFile and LogLikelihoodScorer do; kNumeric, naming the
// document, where a log-likelihood is not a finite number.
std::vector<TaskOutcome> EvaluateTasks(const LanguageModel& model, const Tokenizer& tokenizer,
                                       std::span<const TaskSet> sets,
                                       const TaskEvaluationOptions& options);

}  // namespace adder
