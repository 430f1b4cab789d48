// Results files: what is written is read again, and what another run wrote is refused by name.
#include "adder/eval/task_results.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "adder/core/error.h"
#include "tests/temporary_directory.h"

namespace adder {
namespace {

using testing::AllOf;
using testing::HasSubstr;

TaskResultsHeader Header() {
  TaskResultsHeader header;
  header.fingerprint = 0xabcdef;
  header.dtype = "f32";
  header.limit = 3;
  header.max_length = 2048;
  header.tasks = {{"piqa", {2, 2, 2}, 11, false}, {"lambada_openai", {1, 1}, 12, true}};
  return header;
}

std::vector<LogLikelihood> Choices(double first, double second) {
  return {{first, false}, {second, false}};
}

std::string Slurp(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

class TaskResultsTest : public testing::Test {
 protected:
  // A file with two documents of the first task, and one of the second where `second` says so.
  void Write(bool second) const {
    TaskResultsFile file(path_, Header());
    file.Append(0, 0, {Choices(-1.0 / 3.0, -2e-300), Choices(-3.0, -4.0)});
    if (!second) return;
    file.Append(0, 2, {Choices(-5.0, -6.0)});
    file.Append(1, 0, {{{-7.5, true}}});
  }

  void Append(const std::string& text) const { std::ofstream(path_, std::ios::app) << text; }

  std::string MessageOf(const TaskResultsHeader& header, ErrorCode code) const {
    const std::string before = Slurp(path_);
    try {
      const TaskResultsFile file(path_, header);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      EXPECT_EQ(Slurp(path_), before);  // untouched
      return error.what();
    }
    ADD_FAILURE() << "accepted";
    return "";
  }

  TemporaryDirectory directory_;
  std::filesystem::path path_ = directory_.path() / "results.jsonl";
};

TEST_F(TaskResultsTest, GoOnWhereTheyEnd) {
  Write(true);
  const std::string text = Slurp(path_);
  const TaskResultsFile file(path_, Header());
  ASSERT_EQ(file.results().size(), 2u);
  ASSERT_EQ(file.results()[0].size(), 3u);
  EXPECT_EQ(file.results()[0][0], Choices(-1.0 / 3.0, -2e-300));  // to the last bit
  EXPECT_EQ(file.results()[0][2], Choices(-5.0, -6.0));
  ASSERT_EQ(file.results()[1].size(), 1u);
  EXPECT_EQ(file.results()[1][0], (std::vector<LogLikelihood>{{-7.5, true}}));
  EXPECT_EQ(Slurp(path_), text);
}

TEST_F(TaskResultsTest, AnUnfinishedLineIsCutOff) {
  Write(false);
  const std::string text = Slurp(path_);
  Append("{\"document\":2,\"log_likeli");
  {
    TaskResultsFile file(path_, Header());
    EXPECT_EQ(file.results()[0].size(), 2u);
    EXPECT_EQ(Slurp(path_), text);
    file.Append(0, 2, {Choices(-5.0, -6.0)});
  }
  EXPECT_EQ(TaskResultsFile(path_, Header()).results()[0].size(), 3u);
}

TEST_F(TaskResultsTest, AnotherEvaluationsFileIsRefusedByName) {
  Write(true);
  struct Case {
    TaskResultsHeader header = Header();
    const char* message;
  };
  std::vector<Case> cases(7);
  cases[0].header.fingerprint = 1;
  cases[0].message = "the model with fingerprint 0000000000abcdef, this run has 0000000000000001";
  cases[1].header.dtype = "bf16";
  cases[1].message = "computation in f32, this run has bf16";
  cases[2].header.limit.reset();
  cases[2].message = "the limit 3, this run has none";
  cases[3].header.max_length = 100;
  cases[3].message = "the maximal length 2048";
  cases[4].header.tasks.pop_back();
  cases[4].message = "the tasks piqa,lambada_openai, this run has piqa;";
  cases[5].header.tasks[0].requests = 13;
  cases[5].message = "its documents, prompts or tokens were others";
  cases[6].header.tasks[1].choices.push_back(1);
  cases[6].message = "its documents, prompts or tokens were others";
  for (const Case& c : cases) {
    EXPECT_THAT(MessageOf(c.header, ErrorCode::kInvalidArgument),
                AllOf(HasSubstr("results.jsonl, line 1"), HasSubstr(c.message)));
  }
}

TEST_F(TaskResultsTest, RefuseWhatNoRunWrites) {
  struct Case {
    const char* line;
    const char* message;
  };
  constexpr Case kCases[] = {
      {"[]\n", "line 4: "},
      {"{\n", "line 4:"},
      {R"({"task": "arc_easy", "document": 2, "log_likelihoods": [-1, -2]})"
       "\n",
       "\"task\""},
      {R"({"task": "piqa", "document": 1, "log_likelihoods": [-1, -2]})"
       "\n",
       "\"document\" is 1, expected 2"},
      {R"({"task": "piqa", "document": 2, "log_likelihoods": [-1]})"
       "\n",
       "2 numbers"},
      {R"({"task": "piqa", "document": 2, "log_likelihoods": [-1, "x"]})"
       "\n",
       "numbers"},
      {R"({"task": "piqa", "document": 2, "log_likelihoods": [-1, -2]}
{"task": "lambada_openai", "document": 0, "log_likelihoods": [-1]})"
       "\n",
       "line 5: field \"greedy\" is missing"},
      {R"({"task": "piqa", "document": 2, "log_likelihoods": [-1, -2]}
{"task": "lambada_openai", "document": 0, "log_likelihoods": [-1], "greedy": [0]})"
       "\n",
       "truth values"},
      {R"({"task": "piqa", "document": 2, "log_likelihoods": [-1, -2]}
{"task": "lambada_openai", "document": 0, "log_likelihoods": [-1], "greedy": [true]}
{"task": "lambada_openai", "document": 1, "log_likelihoods": [-1], "greedy": [true]}
{"task": "lambada_openai", "document": 2, "log_likelihoods": [-1], "greedy": [true]})"
       "\n",
       "more results"},
  };
  for (const Case& c : kCases) {
    std::filesystem::remove(path_);
    Write(false);
    Append(c.line);
    EXPECT_THAT(MessageOf(Header(), ErrorCode::kCorrupt), HasSubstr(c.message));
  }
}

TEST_F(TaskResultsTest, RefuseOtherFiles) {
  for (const char* text : {"no results", "no results\n", "{}\n", "\n", "[1]\n"}) {
    std::ofstream(path_) << text;
    MessageOf(Header(), ErrorCode::kCorrupt);
  }
  std::ofstream(path_) << "{\"adder_task_results\":2}\n";
  EXPECT_THAT(MessageOf(Header(), ErrorCode::kUnsupported), HasSubstr("newer"));
  std::filesystem::remove(path_);
  std::filesystem::create_directory(path_);
  EXPECT_THROW(TaskResultsFile(path_, Header()), Error);
  EXPECT_THROW(TaskResultsFile(directory_.path() / "no" / "folder", Header()), Error);
}

TEST_F(TaskResultsTest, OneProcessAtATime) {
  const TaskResultsFile first(path_, Header());
  EXPECT_THAT(MessageOf(Header(), ErrorCode::kInvalidArgument), HasSubstr("another process"));
}

}  // namespace
}  // namespace adder
