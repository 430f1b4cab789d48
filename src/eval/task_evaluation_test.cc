// Whole evaluations of a toy model: known metrics, and one that is stopped and goes on.
#include "adder/eval/task_evaluation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "adder/core/error.h"
#include "adder/infer/toy_model_test.h"
#include "tests/temporary_directory.h"

namespace adder {
namespace {

using test::ToyModel;
using test::ToyTokenizer;
using testing::HasSubstr;

constexpr int64_t kVocabulary = 128;

// ASCII, a token for each character.
const ToyTokenizer& Ascii() {
  static const ToyTokenizer tokenizer = [] {
    std::vector<std::string> texts;
    for (int c = 0; c < kVocabulary; ++c) texts.emplace_back(1, static_cast<char>(c));
    return ToyTokenizer(texts);
  }();
  return tokenizer;
}

TaskSet Set(std::string_view task, const std::string& lines) {
  return {&FindTask(task), ParseTask(FindTask(task), lines, std::string(task) + ".jsonl")};
}

std::vector<TaskSet> Sets() {
  std::string words;
  std::string choices;
  for (int i = 0; i < 20; ++i) {
    words += R"({"text": "the whale number )" + std::to_string(i) + " swims x" +
             std::to_string(i % 3) + "\"}\n";
    choices += R"({"goal": "whale )" + std::to_string(i) +
               R"(", "sol1": "swims", "sol2": "sinks deep", "label": )" + std::to_string(i % 2) +
               "}\n";
  }
  return {Set("lambada_openai", words), Set("piqa", choices)};
}

void ExpectSame(const std::vector<TaskOutcome>& a, const std::vector<TaskOutcome>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t t = 0; t < a.size(); ++t) {
    EXPECT_EQ(a[t].task, b[t].task);
    EXPECT_EQ(a[t].documents, b[t].documents);
    ASSERT_EQ(a[t].metrics.size(), b[t].metrics.size());
    for (size_t m = 0; m < a[t].metrics.size(); ++m) {
      EXPECT_EQ(a[t].metrics[m].name, b[t].metrics[m].name);
      EXPECT_EQ(a[t].metrics[m].value, b[t].metrics[m].value);
      EXPECT_EQ(a[t].metrics[m].standard_error, b[t].metrics[m].standard_error);
    }
  }
}

std::string Slurp(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

// ln p of the text's last `count` characters, and whether each is the likeliest, token by token.
LogLikelihood Read(const LanguageModel& model, const std::string& text, size_t count) {
  State state;
  LogLikelihood result = {0.0, true};
  for (size_t i = 0; i + 1 < text.size(); ++i) {
    const int32_t token = static_cast<unsigned char>(text[i]);
    const Tensor logits = model.Logits(model.Forward(
        Tensor::From<int32_t>({1}, std::span(&token, 1)), SequenceLayout::Single(1), &state));
    if (i + 1 + count < text.size()) continue;
    const std::span<const float> row(logits.data<float>(), kVocabulary);
    double sum = 0.0;
    for (const float logit : row) sum += std::exp(static_cast<double>(logit));
    const auto next = static_cast<unsigned char>(text[i + 1]);
    result.nats += static_cast<double>(row[next]) - std::log(sum);
    result.greedy &= std::max_element(row.begin(), row.end()) - row.begin() == next;
  }
  return result;
}

TEST(TaskEvaluation, GivesTheMetricsOfEachTextReadAlone) {
  const ToyModel model(kVocabulary);
  const std::vector<TaskSet> sets = Sets();
  const std::vector<TaskOutcome> outcomes = EvaluateTasks(model, Ascii(), sets, {});
  ASSERT_EQ(outcomes.size(), 2u);
  EXPECT_EQ(outcomes[0].documents, 20);

  double sum = 0.0;
  for (const TaskDocument& document : sets[0].documents) {
    const TaskRequest& request = document.requests[0];
    sum += Read(model, request.context + request.continuation, request.continuation.size()).nats;
  }
  // The toy's loss per row is rounded to f32; the perplexity is large.
  EXPECT_NEAR(std::log(outcomes[0].metrics[0].value), -sum / 20, 1e-5);

  double right = 0.0;
  double right_by_length = 0.0;
  for (const TaskDocument& document : sets[1].documents) {
    double nats[2] = {};
    for (size_t c = 0; c < 2; ++c) {
      const TaskRequest& request = document.requests[c];
      nats[c] =
          Read(model, request.context + request.continuation, request.continuation.size()).nats;
    }
    right += (nats[1] > nats[0] ? 1 : 0) == document.gold ? 1.0 : 0.0;
    right_by_length += (nats[1] / 10 > nats[0] / 5 ? 1 : 0) == document.gold ? 1.0 : 0.0;
  }
  EXPECT_DOUBLE_EQ(outcomes[1].metrics[0].value, right / 20);
  EXPECT_DOUBLE_EQ(outcomes[1].metrics[1].value, right_by_length / 20);
  EXPECT_DOUBLE_EQ(outcomes[1].metrics[0].standard_error.value(),
                   std::sqrt(right / 20 * (1 - right / 20) / 19));
}

TEST(TaskEvaluation, StoppedAnywhereItGoesOn) {
  const TemporaryDirectory directory;
  const std::vector<TaskSet> sets = Sets();
  TaskEvaluationOptions options;
  options.batch_tokens = 100;  // some documents together
  options.results = directory.path() / "whole.jsonl";
  const ToyModel model(kVocabulary);
  const std::vector<TaskOutcome> whole = EvaluateTasks(model, Ascii(), sets, options);
  const std::string whole_file = Slurp(options.results);

  options.results = directory.path() / "parts.jsonl";
  const ToyModel stopped(kVocabulary);
  std::vector<TaskOutcome> parts;
  int runs = 0;
  for (; parts.empty(); ++runs) {
    ASSERT_LT(runs, 100);
    std::atomic<bool> cancel = false;
    options.cancel = &cancel;
    int forwards = 0;
    options.progress = [&](const TaskProgress& progress) {
      EXPECT_GT(progress.rows, 0);
      EXPECT_GE(progress.rows_left, 0);
      EXPECT_LT(progress.documents, 20);
      cancel = ++forwards >= 5;
    };
    try {
      parts = EvaluateTasks(stopped, Ascii(), sets, options);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kCancelled);
    }
  }
  EXPECT_GT(runs, 3);
  ExpectSame(parts, whole);
  EXPECT_EQ(Slurp(options.results), whole_file);
  // Batches that were interrupted were read again, and no others.
  EXPECT_LE(stopped.forwards(), model.forwards() + runs);

  // A finished file answers without the model.
  const ToyModel unused(kVocabulary);
  options.cancel = nullptr;
  options.progress = nullptr;
  ExpectSame(EvaluateTasks(unused, Ascii(), sets, options), whole);
  EXPECT_EQ(unused.forwards(), 0);
}

TEST(TaskEvaluation, OtherDocumentsOrTokensAreOtherResults) {
  const TemporaryDirectory directory;
  TaskEvaluationOptions options;
  options.results = directory.path() / "results.jsonl";
  const ToyModel model(kVocabulary);
  std::vector<TaskSet> sets = Sets();
  EvaluateTasks(model, Ascii(), sets, options);
  const auto message = [&] {
    try {
      EvaluateTasks(model, Ascii(), sets, options);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(message(), "");
  sets[1].documents[7].requests[0].continuation += "!";
  EXPECT_THAT(message(), HasSubstr("documents, prompts or tokens were others"));
  sets = Sets();
  options.limit = 20;
  EXPECT_THAT(message(), HasSubstr("the limit none, this run has 20"));
}

TEST(TaskEvaluation, AnswersThatAreNoNumbersAreNamed) {
  ToyModel model(kVocabulary);
  model.BreakAfter('w');  // of "swims"
  const std::vector<TaskSet> sets = Sets();
  try {
    EvaluateTasks(model, Ascii(), sets, {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNumeric);
    EXPECT_THAT(error.what(), HasSubstr("piqa.jsonl, line 1: "));
  }
}

}  // namespace
}  // namespace adder
