// The zero-shot tasks that language models are compared by, with the prompts and metrics of
// EleutherAI's lm-evaluation-harness: each document of a task becomes a few questions to the model,
// "how likely is this continuation after this context?", and each answer a log-likelihood.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "adder/formats/json.h"

namespace adder {

// How likely is `continuation` after `context`?
struct TaskRequest {
  std::string context;
  std::string continuation;
};

struct TaskDocument {
  std::string source;                 // "piqa.jsonl, line 17", for messages
  std::vector<TaskRequest> requests;  // one for each choice
  std::vector<int64_t> lengths;       // of the choices, in characters (acc_norm's denominators)
  int64_t gold = 0;                   // the right choice
};

enum class TaskMetric {
  kPerplexity,  // exp of minus the mean log-likelihood
  kAcc,      // the likeliest choice is the right one; of a single continuation: every token of it
             // is the likeliest one in its place
  kAccNorm,  // the same of log-likelihoods divided by the choices' lengths
};

struct Task {
  std::string_view name;    // the file is NAME.jsonl
  std::string_view fields;  // what a line holds, for --help and messages
  std::span<const TaskMetric> metrics;
  // The document of a line. Throws kCorrupt, naming what is wrong.
  TaskDocument (*read)(const JsonObject& line);

  // Whether the document has one continuation, and acc asks if it would be generated greedily.
  bool single() const { return metrics.front() == TaskMetric::kPerplexity; }
};

// lambada_openai, hellaswag, piqa, arc_easy, arc_challenge, winogrande.
std::span<const Task> Tasks();
// Throws kInvalidArgument for another name.
const Task& FindTask(std::string_view name);

inline constexpr int64_t kAllDocuments = std::numeric_limits<int64_t>::max();

// The first `limit` documents of a task's JSON lines; blank lines are skipped. `source` is what
// messages call the text. Throws kCorrupt with file and line for anything that is not such a
// document, and for a text without documents.
std::vector<TaskDocument> ParseTask(const Task& task, std::string_view text,
                                    std::string_view source, int64_t limit = kAllDocuments);
// ParseTask of DIRECTORY/NAME.jsonl. Throws kNotFound and kIo too.
std::vector<TaskDocument> ReadTask(const Task& task, const std::filesystem::path& directory,
                                   int64_t limit = kAllDocuments);

}  // namespace adder
