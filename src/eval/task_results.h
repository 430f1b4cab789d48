// The results file of an evaluation: JSON lines, only ever appended to, so that an evaluation that
// was stopped goes on where it stood. The first line says what was evaluated; then each document's
// log-likelihoods follow in the order of the tasks and documents:
//
//   {"adder_task_results":1,"dtype":"f32","fingerprint":"…","limit":50,"max_length":2048,
//    "tasks":[{"documents":50,"requests":"…","task":"piqa"}]}                      (on one line)
//   {"document":0,"log_likelihoods":[-310.25,-305.5],"task":"piqa"}
//   {"document":0,"greedy":[false],"log_likelihoods":[-12.5],"task":"lambada_openai"}
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "adder/eval/log_likelihood.h"
#include "adder/formats/append_file.h"

namespace adder {

// What results depend on: those of another header are not gone on with.
struct TaskResultsHeader {
  struct TaskPart {
    std::string task;
    std::vector<int64_t> choices;  // per document
    uint64_t requests = 0;  // hash of all tokens: of the documents, their prompts and the tokenizer
    bool greedy = false;    // whether lines tell it
  };

  uint64_t fingerprint = 0;      // of the model
  std::string dtype;             // computed in
  std::optional<int64_t> limit;  // of documents per task
  int64_t max_length = 0;
  std::vector<TaskPart> tasks;
};

// results[t][d][c]: for each task the documents done so far, the first ones.
using TaskResults = std::vector<std::vector<std::vector<LogLikelihood>>>;

// The results in a file's text that a run with this header made. *keep: the bytes of whole lines
// (a line that was not finished is left out). Throws kInvalidArgument, saying what differs, for a
// file of another header; kCorrupt, naming the line, for a line that such a run does not write.
TaskResults ParseTaskResults(std::string_view text, std::string_view source,
                             const TaskResultsHeader& header, uint64_t* keep);

class TaskResultsFile {
 public:
  // Opens the file, or makes it and writes the header. While it is open no other process may have
  // it open. Throws what ParseTaskResults does, kIo; kInvalidArgument while another process writes
  // it.
  TaskResultsFile(const std::filesystem::path& path, const TaskResultsHeader& header);
  ~TaskResultsFile();
  TaskResultsFile(const TaskResultsFile&) = delete;
  TaskResultsFile& operator=(const TaskResultsFile&) = delete;

  // What the file held when it was opened.
  const TaskResults& results() const { return results_; }

  // Appends the results of consecutive documents of a task, beginning with number `first`.
  void Append(size_t task, int64_t first, const std::vector<std::vector<LogLikelihood>>& results);

 private:
  TaskResultsHeader header_;
  TaskResults results_;
  int lock_ = -1;
  std::unique_ptr<AppendFile> file_;
};

}  // namespace adder
