// Generation on a CUDA device: the texts of the CPU, and conversations that move between the two.
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "adder/backend/cuda/cuda_test.h"
#include "adder/infer/generator.h"
#include "adder/infer/toy_model_test.h"
#include "adder/models/small_model_test.h"
#include "tests/temporary_directory.h"

namespace adder {
namespace {

using test::kCuda;
using Tokens = std::vector<int32_t>;

class GeneratorCudaTest : public test::CudaTest {
 protected:
  static GenerationOptions Greedy(int64_t max_tokens) {
    GenerationOptions options;
    options.sampling.temperature = 0;
    options.max_tokens = max_tokens;
    return options;
  }
  static Session Prompt(const LanguageModel& model, int64_t length, uint64_t seed) {
    const Tensor tokens = test::RandomTokens(length, model.vocab_size(), seed);
    Session session = Session::Begin(model, seed);
    session.Append({tokens.data<int32_t>(), static_cast<size_t>(length)});
    return session;
  }
  // The tokens and the ends of all that was added, by their numbers.
  struct Run {
    std::map<int64_t, Tokens> tokens;
    std::map<int64_t, Generated> ends;
  };
  static Run RunAll(Generator& generator) {
    Run run;
    while (generator.active() > 0) {
      for (Generated& end : generator.Step(
               [&](const TokenEvent& event) { run.tokens[event.id].push_back(event.token); })) {
        const int64_t id = end.id;
        run.ends.emplace(id, std::move(end));
      }
    }
    return run;
  }

  const std::vector<std::string> texts_ = std::vector<std::string>(61, "x");
  const test::ToyTokenizer tokenizer_{texts_};
};

TEST_F(GeneratorCudaTest, TextsAreThoseOfTheCpu) {
  for (const auto& [name, config] : test::EveryArchitecture()) {
    SCOPED_TRACE(name);
    for (const double temperature : {0.0, 1.0}) {
      const auto cpu = test::SmallModel(DType::kF32, config);
      const auto cuda = test::SmallModel(DType::kF32, config);
      cuda->MoveTo(kCuda);
      std::map<int64_t, Tokens> expected;
      for (const BlockLanguageModel* model : {cpu.get(), cuda.get()}) {
        // Some begin while others go on, and they end one after the other.
        Generator generator(*model, tokenizer_, /*max_rows=*/16);
        for (int64_t i = 0; i < 5; ++i) {
          GenerationOptions options = Greedy(12 + 5 * i);
          options.sampling.temperature = temperature;
          generator.Add(Prompt(*model, 1 + 7 * i, static_cast<uint64_t>(i)), options);
        }
        const Run run = RunAll(generator);
        if (expected.empty()) {
          expected = run.tokens;
        } else {
          EXPECT_EQ(run.tokens, expected);
        }
      }
    }
  }
}

TEST_F(GeneratorCudaTest, SampledTextsAreTheSameAgain) {
  const auto model = test::SmallModel();
  model->MoveTo(kCuda);
  GenerationOptions options;
  options.max_tokens = 30;
  Generator together(*model, tokenizer_);
  for (uint64_t i = 0; i < 3; ++i) together.Add(Prompt(*model, 9, i), options);
  const Run all = RunAll(together);
  Generator repeated(*model, tokenizer_);
  for (uint64_t i = 0; i < 3; ++i) repeated.Add(Prompt(*model, 9, i), options);
  EXPECT_EQ(RunAll(repeated).tokens, all.tokens);
}

TEST_F(GeneratorCudaTest, ASavedConversationGoesOnOnTheOtherDevice) {
  const TemporaryDirectory directory;
  for (const auto& [name, config] : test::EveryArchitecture()) {
    SCOPED_TRACE(name);
    const auto cpu = test::SmallModel(DType::kF32, config);
    const auto cuda = test::SmallModel(DType::kF32, config);
    cuda->MoveTo(kCuda);
    Generator whole(*cpu, tokenizer_);
    whole.Add(Prompt(*cpu, 11, 3), Greedy(24));
    const Tokens expected = RunAll(whole).tokens.at(0);
    const std::pair<const BlockLanguageModel*, const BlockLanguageModel*> ways[] = {
        {cpu.get(), cuda.get()}, {cuda.get(), cpu.get()}};
    for (const auto& [first, second] : ways) {
      Generator beginning(*first, tokenizer_);
      beginning.Add(Prompt(*first, 11, 3), Greedy(10));
      Run run = RunAll(beginning);
      Tokens tokens = run.tokens.at(0);
      WriteSession(directory.path() / "state", run.ends.at(0).session);
      const Session read = ReadSession(directory.path() / "state", *second);
      EXPECT_TRUE(read.state == run.ends.at(0).session.state);
      Generator rest(*second, tokenizer_);
      rest.Add(read, Greedy(14));
      const Run end = RunAll(rest);
      tokens.insert(tokens.end(), end.tokens.at(0).begin(), end.tokens.at(0).end());
      EXPECT_EQ(tokens, expected);
    }
  }
}

}  // namespace
}  // namespace adder
