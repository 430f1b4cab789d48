// Writing and strict reading of results files.
#include "adder/eval/task_results.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "adder/core/error.h"
#include "adder/formats/file.h"
#include "adder/formats/json.h"

namespace adder {
namespace {

constexpr int64_t kVersion = 1;
constexpr const char* kVersionKey = "adder_task_results";

std::string Hex(uint64_t number) { return fmt::format("{:016x}", number); }

JsonValue ToJson(const TaskResultsHeader::TaskPart& part) {
  return JsonValue::Object{
      {"task", part.task}, {"documents", part.choices.size()}, {"requests", Hex(part.requests)}};
}

JsonValue ToJson(const TaskResultsHeader& header) {
  JsonValue::Array tasks;
  for (const TaskResultsHeader::TaskPart& part : header.tasks) tasks.push_back(ToJson(part));
  return JsonValue::Object{{kVersionKey, kVersion},
                           {"fingerprint", Hex(header.fingerprint)},
                           {"dtype", header.dtype},
                           {"limit", header.limit ? JsonValue(*header.limit) : JsonValue()},
                           {"max_length", header.max_length},
                           {"tasks", std::move(tasks)}};
}

std::string TaskNames(const JsonValue& header) {
  std::string names;
  const JsonValue* tasks = header.Find("tasks");
  if (tasks == nullptr || tasks->AsArray() == nullptr) return "none";
  for (const JsonValue& part : *tasks->AsArray()) {
    const JsonValue* name = part.Find("task");
    if (name == nullptr || name->AsString() == nullptr) return "none";
    names += (names.empty() ? "" : ",") + *name->AsString();
  }
  return names;
}

// How `of` header says `key`, for messages.
std::string Say(const JsonValue& header, std::string_view key) {
  const JsonValue* value = header.Find(key);
  if (key == "tasks") return TaskNames(header);
  if (value == nullptr || value->is_null()) return "none";
  return value->AsString() != nullptr ? *value->AsString() : value->ToText();
}

void CheckHeader(const JsonObject& found, const JsonValue& expected) {
  if (found.Int(kVersionKey, 1) > kVersion) {
    throw Error(ErrorCode::kUnsupported, found.source() + ": written by a newer version of Adder");
  }
  if (found.value() == expected) return;
  struct Part {
    const char* key;
    const char* words;
  };
  constexpr Part kParts[] = {{"fingerprint", "the model with fingerprint"},
                             {"dtype", "computation in"},
                             {"limit", "the limit"},
                             {"max_length", "the maximal length"},
                             {"tasks", "the tasks"}};
  std::string reason = "its documents, prompts or tokens were others";
  for (const Part& part : kParts) {
    const std::string theirs = Say(found.value(), part.key);
    const std::string ours = Say(expected, part.key);
    if (theirs == ours) continue;
    reason = fmt::format("it was begun with {} {}, this run has {}", part.words,
                         theirs.substr(0, 200), ours);
    break;
  }
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("{}: holds the results of another evaluation: {}; name another file or "
                          "delete it",
                          found.source(), reason));
}

std::string ToLine(const TaskResultsHeader::TaskPart& part, int64_t document,
                   const std::vector<LogLikelihood>& results) {
  JsonValue::Array nats;
  JsonValue::Array greedy;
  for (const LogLikelihood& result : results) {
    nats.emplace_back(result.nats);
    greedy.emplace_back(result.greedy);
  }
  JsonValue::Object line = {
      {"task", part.task}, {"document", document}, {"log_likelihoods", std::move(nats)}};
  if (part.greedy) line.push_back({"greedy", std::move(greedy)});
  return JsonValue(std::move(line)).ToText() + "\n";
}

// Of the document `document` of the task; anything else is refused.
std::vector<LogLikelihood> ParseLine(const JsonObject& line,
                                     const TaskResultsHeader::TaskPart& part, size_t document) {
  if (line.String("task") != part.task) line.Fail("task", JsonQuote(part.task));
  if (line.Int("document") != static_cast<int64_t>(document)) {
    line.Fail("document", std::to_string(document));
  }
  const JsonValue::Array& nats = line.Array("log_likelihoods");
  const auto choices = static_cast<size_t>(part.choices[document]);
  if (nats.size() != choices) {
    line.Fail("log_likelihoods", fmt::format("{} numbers", part.choices[document]));
  }
  if (part.greedy && line.Array("greedy").size() != choices) {
    line.Fail("greedy", fmt::format("{} truth values", part.choices[document]));
  }
  std::vector<LogLikelihood> results(choices);
  for (size_t c = 0; c < choices; ++c) {
    if (!nats[c].AsDouble(&results[c].nats)) line.Fail("log_likelihoods", "an array of numbers");
    if (!part.greedy) continue;
    const bool* greedy = line.Array("greedy")[c].AsBool();
    if (greedy == nullptr) line.Fail("greedy", "an array of truth values");
    results[c].greedy = *greedy;
  }
  return results;
}

}  // namespace

TaskResults ParseTaskResults(std::string_view text, std::string_view source,
                             const TaskResultsHeader& header, uint64_t* keep) {
  TaskResults results(header.tasks.size());
  *keep = 0;
  size_t task = 0;
  int64_t number = 0;
  for (size_t end = text.find('\n'); end != std::string_view::npos; end = text.find('\n')) {
    const std::string place = fmt::format("{}, line {}", source, ++number);
    const JsonObject line = JsonObject::Parse(text.substr(0, end), place);
    if (number == 1) {
      CheckHeader(line, ToJson(header));
    } else {
      while (task < results.size() && results[task].size() == header.tasks[task].choices.size()) {
        ++task;
      }
      if (task == results.size()) {
        throw Error(ErrorCode::kCorrupt,
                    place + ": more results than the evaluation has documents");
      }
      results[task].push_back(ParseLine(line, header.tasks[task], results[task].size()));
    }
    *keep += end + 1;
    text.remove_prefix(end + 1);
  }
  if (number == 0 && !text.empty()) {
    throw Error(ErrorCode::kCorrupt, fmt::format("{}: is not a results file: its first line does "
                                                 "not end",
                                                 source));
  }
  return results;
}

TaskResultsFile::TaskResultsFile(const std::filesystem::path& path, const TaskResultsHeader& header)
    : header_(header), results_(header.tasks.size()) {
  const auto fail = [&](const char* what, int reason) {
    if (lock_ >= 0) close(lock_);
    throw Error(ErrorCode::kIo, fmt::format("{}: {}: {}", path.string(), what, strerror(reason)));
  };
  lock_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (lock_ < 0) fail("cannot be opened for writing", errno);
  if (flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) fail("cannot be locked", errno);
    close(lock_);
    throw Error(ErrorCode::kInvalidArgument,
                path.string() + ": another process writes its results there");
  }
  try {
    uint64_t keep = 0;
    results_ = ParseTaskResults(MappedFile::Open(path)->text(), path.string(), header, &keep);
    file_ = std::make_unique<AppendFile>(path, keep);
    if (keep == 0) file_->Append(ToJson(header).ToText() + "\n");
  } catch (...) {
    close(lock_);
    throw;
  }
}

TaskResultsFile::~TaskResultsFile() { close(lock_); }

void TaskResultsFile::Append(size_t task, int64_t first,
                             const std::vector<std::vector<LogLikelihood>>& results) {
  std::string lines;
  for (size_t i = 0; i < results.size(); ++i) {
    lines += ToLine(header_.tasks[task], first + static_cast<int64_t>(i), results[i]);
  }
  file_->Append(lines);
}

}  // namespace adder
