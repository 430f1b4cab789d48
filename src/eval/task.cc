// The tasks' prompts, and the reader of their files. The prompts are those of the YAML files and
// functions in lm_eval/tasks of lm-evaluation-harness 0.4.
#include "adder/eval/task.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "adder/core/error.h"
#include "adder/eval/whitespace.h"
#include "adder/formats/file.h"

namespace adder {
namespace {

// Between a prompt and its answer.
constexpr std::string_view kDelimiter = " ";
constexpr size_t kMostChoices = 64;

int64_t CountCharacters(std::string_view utf8) {
  return std::count_if(utf8.begin(), utf8.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0) != 0x80;  // not a later byte of a character
  });
}

void AddChoice(const std::string& context, const std::string& choice, TaskDocument* document) {
  document->requests.push_back({context, std::string(kDelimiter) + choice});
  document->lengths.push_back(CountCharacters(choice));
}

const std::string& StringOf(const JsonValue& value, const JsonObject& of, std::string_view field) {
  if (value.AsString() == nullptr) of.Fail(field, "an array of strings");
  return *value.AsString();
}

// The choices of a field. Each has the context before it: many could fill the memory from one line.
std::vector<std::string> Strings(const JsonObject& object, std::string_view field) {
  std::vector<std::string> strings;
  for (const JsonValue& value : object.Array(field)) {
    strings.push_back(StringOf(value, object, field));
  }
  if (strings.size() < 2 || strings.size() > kMostChoices) {
    object.Fail(field, fmt::format("an array of 2 to {} strings", kMostChoices));
  }
  return strings;
}

// What comes before the last space is the context, the last word the answer.
TaskDocument ReadLambada(const JsonObject& line) {
  const std::string& text = line.String("text");
  const size_t space = text.rfind(' ');
  const std::string word = space == std::string::npos ? text : text.substr(space + 1);
  TaskDocument document;
  AddChoice(space == std::string::npos ? "" : text.substr(0, space), word, &document);
  return document;
}

TaskDocument ReadHellaswag(const JsonObject& line) {
  const std::string& query = line.String("query");
  TaskDocument document;
  for (const std::string& choice : Strings(line, "choices")) AddChoice(query, choice, &document);
  document.gold = line.Int("gold", 0, static_cast<int64_t>(document.requests.size()) - 1);
  return document;
}

std::string Question(const std::string& question) {
  return fmt::format("Question: {}\nAnswer:", question);
}

TaskDocument ReadPiqa(const JsonObject& line) {
  const std::string context = Question(line.String("goal"));
  TaskDocument document;
  AddChoice(context, line.String("sol1"), &document);
  AddChoice(context, line.String("sol2"), &document);
  document.gold = line.Int("label", 0, 1);
  return document;
}

TaskDocument ReadArc(const JsonObject& line) {
  const std::string context = Question(line.String("question"));
  const JsonObject choices = line.Object("choices");
  TaskDocument document;
  for (const std::string& choice : Strings(choices, "text")) AddChoice(context, choice, &document);
  const std::vector<std::string> labels = Strings(choices, "label");
  if (labels.size() != document.requests.size()) {
    choices.Fail("label", "as many labels as there are choices");
  }
  const auto gold = std::find(labels.begin(), labels.end(), line.String("answerKey"));
  if (gold == labels.end()) line.Fail("answerKey", "one of choices.label");
  document.gold = gold - labels.begin();
  return document;
}

// Partial scoring (arXiv 1806.02847): how likely is the rest of the sentence after each option?
TaskDocument ReadWinogrande(const JsonObject& line) {
  const std::string& sentence = line.String("sentence");
  const size_t blank = sentence.find('_');
  if (blank == std::string::npos) line.Fail("sentence", "a sentence with a blank, \"_\"");
  const std::string before = sentence.substr(0, blank);
  const std::string rest(Trim(std::string_view(sentence).substr(blank + 1)));
  TaskDocument document;
  for (const char* option : {"option1", "option2"}) {
    AddChoice(before + line.String(option), rest, &document);
  }
  const std::string& answer = line.String("answer");
  if (answer != "1" && answer != "2") line.Fail("answer", "\"1\" or \"2\"");
  document.gold = answer == "1" ? 0 : 1;
  return document;
}

constexpr TaskMetric kLastWord[] = {TaskMetric::kPerplexity, TaskMetric::kAcc};
constexpr TaskMetric kChoice[] = {TaskMetric::kAcc, TaskMetric::kAccNorm};
constexpr TaskMetric kPartial[] = {TaskMetric::kAcc};

constexpr Task kTasks[] = {
    {"lambada_openai", "text", kLastWord, ReadLambada},
    {"hellaswag", "query, choices, gold", kChoice, ReadHellaswag},
    {"piqa", "goal, sol1, sol2, label", kChoice, ReadPiqa},
    {"arc_easy", "question, choices.text, choices.label, answerKey", kChoice, ReadArc},
    {"arc_challenge", "question, choices.text, choices.label, answerKey", kChoice, ReadArc},
    {"winogrande", "sentence, option1, option2, answer", kPartial, ReadWinogrande},
};

}  // namespace

std::span<const Task> Tasks() { return kTasks; }

const Task& FindTask(std::string_view name) {
  std::string known;
  for (const Task& task : kTasks) {
    if (task.name == name) return task;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", task.name);
  }
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("no task is called {}; there are {}", JsonQuote(name, 40), known));
}

std::vector<TaskDocument> ParseTask(const Task& task, std::string_view text,
                                    std::string_view source, int64_t limit) {
  std::vector<TaskDocument> documents;
  int64_t number = 0;
  while (!text.empty() && static_cast<int64_t>(documents.size()) < limit) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = Trim(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    ++number;
    if (line.empty()) continue;
    const std::string place = fmt::format("{}, line {}", source, number);
    if (line.front() != '{') {
      throw Error(ErrorCode::kCorrupt, fmt::format("{}: {} is no JSON object, expected one with {}",
                                                   place, JsonQuote(line, 40), task.fields));
    }
    documents.push_back(task.read(JsonObject::Parse(line, place)));
    documents.back().source = place;
  }
  if (documents.empty()) {
    throw Error(ErrorCode::kCorrupt,
                fmt::format("{}: the file is empty, expected a line of JSON for each document of "
                            "{}",
                            source, task.name));
  }
  return documents;
}

std::vector<TaskDocument> ReadTask(const Task& task, const std::filesystem::path& directory,
                                   int64_t limit) {
  const std::filesystem::path path = directory / (std::string(task.name) + ".jsonl");
  const std::filesystem::path packed = path.string() + ".xz";
  if (!std::filesystem::exists(path) && std::filesystem::exists(packed)) {
    throw Error(ErrorCode::kNotFound, fmt::format("{}: does not exist, only its compressed form; "
                                                  "unpack it with: xz -dk {}",
                                                  path.string(), packed.string()));
  }
  return ParseTask(task, MappedFile::Open(path)->text(), path.string(), limit);
}

}  // namespace adder
