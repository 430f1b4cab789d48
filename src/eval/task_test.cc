// The tasks' prompts, letter by letter, and files that are none.
#include "adder/eval/task.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "adder/core/error.h"
#include "tests/temporary_directory.h"

namespace adder {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

std::vector<TaskDocument> Parse(std::string_view task, std::string_view text,
                                int64_t limit = kAllDocuments) {
  return ParseTask(FindTask(task), text, "file.jsonl", limit);
}

TaskDocument ParseOne(std::string_view task, std::string line) {
  std::erase(line, '\n');
  const std::vector<TaskDocument> documents = Parse(task, line);
  EXPECT_EQ(documents.size(), 1u);
  return documents.front();
}

// "context|continuation" of each request.
std::vector<std::string> Requests(const TaskDocument& document) {
  std::vector<std::string> requests;
  for (const TaskRequest& request : document.requests) {
    requests.push_back(request.context + "|" + request.continuation);
  }
  return requests;
}

TEST(Task, LambadaAsksForTheLastWord) {
  EXPECT_THAT(Requests(ParseOne("lambada_openai", R"({"text": "I don't care about signs"})")),
              ElementsAre("I don't care about| signs"));
  // Words are what spaces separate, and nothing else does.
  EXPECT_THAT(Requests(ParseOne("lambada_openai", R"({"text": "he said\n\"no\n\"yes"})")),
              ElementsAre("he| said\n\"no\n\"yes"));
  EXPECT_THAT(Requests(ParseOne("lambada_openai", R"({"text": "two  spaces"})")),
              ElementsAre("two | spaces"));
  EXPECT_THAT(Requests(ParseOne("lambada_openai", R"({"text": "one"})")), ElementsAre("| one"));
  EXPECT_THAT(Requests(ParseOne("lambada_openai", R"({"text": "end "})")), ElementsAre("end| "));
}

TEST(Task, HellaswagTakesTextsAsTheyAre) {
  const TaskDocument document = ParseOne(
      "hellaswag", R"({"query": "Ahab: he", "choices": ["sails.", "né.", "", "x"], "gold": 3})");
  EXPECT_THAT(Requests(document),
              ElementsAre("Ahab: he| sails.", "Ahab: he| né.", "Ahab: he| ", "Ahab: he| x"));
  EXPECT_THAT(document.lengths, ElementsAre(6, 3, 0, 1));  // characters, without the space
  EXPECT_EQ(document.gold, 3);
}

TEST(Task, PiqaAsksAQuestion) {
  const TaskDocument document =
      ParseOne("piqa", R"({"goal": "dresser", "sol1": "replace ", "sol2": "finish", "label": 1})");
  EXPECT_THAT(Requests(document), ElementsAre("Question: dresser\nAnswer:| replace ",
                                              "Question: dresser\nAnswer:| finish"));
  EXPECT_THAT(document.lengths, ElementsAre(8, 6));
  EXPECT_EQ(document.gold, 1);
}

TEST(Task, ArcFindsTheAnswerByItsLabel) {
  for (const char* name : {"arc_easy", "arc_challenge"}) {
    const TaskDocument document =
        ParseOne(name, R"({"question": "Hot?", "choices": {"text": ["ice", "sun", "dew"],
                           "label": ["1", "2", "3"]}, "answerKey": "2"})"
                       "\n");
    EXPECT_THAT(Requests(document),
                ElementsAre("Question: Hot?\nAnswer:| ice", "Question: Hot?\nAnswer:| sun",
                            "Question: Hot?\nAnswer:| dew"));
    EXPECT_EQ(document.gold, 1);
  }
}

TEST(Task, WinograndeAsksForTheRestOfTheSentence) {
  const TaskDocument document =
      ParseOne("winogrande", R"({"sentence": "Ann met Bo as _ always got _ cases. ",
                                 "option1": "Ann", "option2": "Bo", "answer": "2"})");
  EXPECT_THAT(Requests(document), ElementsAre("Ann met Bo as Ann| always got _ cases.",
                                              "Ann met Bo as Bo| always got _ cases."));
  EXPECT_EQ(document.gold, 1);
}

TEST(Task, ReadsLinesUpToTheLimit) {
  const std::string text =
      "{\"text\": \"a b\"}\r\n\n   \n{\"text\": \"c d\", \"more\": 1}\n{\"text\": \"e f\"}";
  const std::vector<TaskDocument> all = Parse("lambada_openai", text);
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[1].source, "file.jsonl, line 4");
  EXPECT_EQ(all[2].requests[0].context, "e");
  EXPECT_EQ(Parse("lambada_openai", text, 2).size(), 2u);
  // What lies beyond the limit is not looked at.
  EXPECT_EQ(Parse("lambada_openai", text + "\nrubbish", 3).size(), 3u);
}

std::string MessageOf(std::string_view task, std::string_view text) {
  try {
    Parse(task, text);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCorrupt);
    EXPECT_EQ(std::string_view(error.what()).find('\n'), std::string_view::npos);
    return error.what();
  }
  ADD_FAILURE() << "accepted: " << text;
  return "";
}

TEST(Task, RefusesWhatIsNoDocumentNamingTheLine) {
  EXPECT_EQ(MessageOf("piqa", ""),
            "file.jsonl: the file is empty, expected a line of JSON for each document of piqa");
  EXPECT_THAT(MessageOf("piqa", "\n \n"), HasSubstr("is empty"));
  EXPECT_EQ(MessageOf("lambada_openai", "{\"text\": \"a b\"}\n[1]"),
            "file.jsonl, line 2: \"[1]\" is no JSON object, expected one with text");
  EXPECT_THAT(MessageOf("lambada_openai", "\x7f\x1b[2J"), StartsWith("file.jsonl, line 1: "));
  EXPECT_THAT(MessageOf("lambada_openai", "{\"text\": \"a"),
              AllOf(StartsWith("file.jsonl, line 1:"), HasSubstr("not valid JSON")));
  EXPECT_THAT(MessageOf("lambada_openai", "{\"text\": \"\xff\"}"), HasSubstr("line 1"));
  EXPECT_EQ(MessageOf("lambada_openai", "{\"text\": \"a b\"}\n\n{}"),
            "file.jsonl, line 3: field \"text\" is missing, expected a string");
  EXPECT_THAT(MessageOf("lambada_openai", R"({"text": 3})"), HasSubstr("is 3, expected a string"));
}

TEST(Task, RefusesFieldsThatContradictEachOther) {
  struct Case {
    const char* task;
    const char* line;
    const char* message;
  };
  constexpr Case kCases[] = {
      {"hellaswag", R"({"query": "q", "choices": ["a", 1], "gold": 0})", "\"choices\""},
      {"hellaswag", R"({"query": "q", "choices": ["a"], "gold": 0})", "2 to 64"},
      {"hellaswag", R"({"query": "q", "choices": "ab", "gold": 0})", "an array"},
      {"hellaswag", R"({"query": "q", "choices": ["a", "b"], "gold": 2})", "from 0 to 1"},
      {"hellaswag", R"({"query": "q", "choices": ["a", "b"], "gold": "1"})", "\"gold\""},
      {"hellaswag", R"({"choices": ["a", "b"], "gold": 1})", "\"query\" is missing"},
      {"piqa", R"({"goal": "g", "sol1": "a", "sol2": "b", "label": -1})", "\"label\" is -1"},
      {"piqa", R"({"goal": "g", "sol1": "a", "label": 1})", "\"sol2\" is missing"},
      {"arc_easy", R"({"question": "q", "choices": ["a", "b"], "answerKey": "A"})", "an object"},
      {"arc_easy",
       R"({"question": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]},
           "answerKey": "C"})",
       "\"answerKey\" is \"C\""},
      {"arc_challenge",
       R"({"question": "q", "choices": {"text": ["a", "b"], "label": ["A", "B", "C"]},
           "answerKey": "C"})",
       "\"choices.label\""},
      {"winogrande", R"({"sentence": "no", "option1": "a", "option2": "b", "answer": "1"})",
       "a blank"},
      {"winogrande", R"({"sentence": "_", "option1": "a", "option2": "b", "answer": "3"})",
       "\"answer\" is \"3\""},
      {"winogrande", R"({"sentence": "_", "option1": "a", "option2": "b", "answer": 1})",
       "\"answer\" is 1"},
  };
  for (const Case& c : kCases) {
    std::string line = c.line;
    std::erase(line, '\n');
    EXPECT_THAT(MessageOf(c.task, line),
                AllOf(StartsWith("file.jsonl, line 1: "), HasSubstr(c.message)));
  }
}

TEST(Task, RefusesManyChoices) {
  const auto line = [](int choices) {
    std::string list = "\"a\"";
    for (int i = 1; i < choices; ++i) list += ",\"a\"";
    return R"({"query": "q", "gold": 0, "choices": [)" + list + "]}";
  };
  EXPECT_EQ(ParseTask(FindTask("hellaswag"), line(64), "f")[0].requests.size(), 64u);
  EXPECT_THAT(MessageOf("hellaswag", line(65)), HasSubstr("an array of 2 to 64 strings"));
}

TEST(Task, KnowsItsNames) {
  EXPECT_EQ(Tasks().size(), 6u);
  for (const Task& task : Tasks()) EXPECT_EQ(&FindTask(task.name), &task);
  try {
    FindTask("boolq");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_THAT(error.what(), AllOf(HasSubstr("\"boolq\""), HasSubstr("winogrande")));
  }
}

TEST(Task, ReadsFilesAndSaysHowToUnpackThem) {
  const TemporaryDirectory directory;
  const Task& task = FindTask("lambada_openai");
  std::ofstream(directory.path() / "lambada_openai.jsonl") << "{\"text\": \"a b\"}\n";
  EXPECT_EQ(ReadTask(task, directory.path()).size(), 1u);

  std::filesystem::rename(directory.path() / "lambada_openai.jsonl",
                          directory.path() / "lambada_openai.jsonl.xz");
  for (const bool packed : {true, false}) {
    if (!packed) std::filesystem::remove(directory.path() / "lambada_openai.jsonl.xz");
    try {
      ReadTask(task, directory.path());
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kNotFound);
      EXPECT_THAT(error.what(), HasSubstr("lambada_openai.jsonl"));
      EXPECT_EQ(std::string_view(error.what()).find("xz -dk") != std::string_view::npos, packed);
    }
  }
}

}  // namespace
}  // namespace adder
