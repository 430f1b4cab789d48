// Batches, chunks, stops and continuations: all must give what one undisturbed run gives.
#include "adder/infer/generator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <functional>
#include <map>

#include "adder/core/error.h"
#include "adder/formats/safetensors.h"
#include "adder/infer/toy_model_test.h"
#include "adder/models/checkpoint.h"
#include "adder/models/small_model_test.h"
#include "tests/temporary_directory.h"

namespace adder {
namespace {

using test::ToyModel;
using test::ToyTokenizer;

constexpr int kVocab = 12;

SamplingOptions Plain() {
  SamplingOptions sampling;
  sampling.temperature = 1.0;
  sampling.top_p = 1.0;
  return sampling;
}

GenerationOptions MaxTokens(int64_t max_tokens) {
  GenerationOptions options;
  options.sampling = Plain();
  options.max_tokens = max_tokens;
  return options;
}

Session Prompt(const LanguageModel& model, std::vector<int32_t> tokens, uint64_t seed = 5,
               uint64_t stream = 0) {
  Session session = Session::Begin(model, seed, stream);
  session.Append(tokens);
  return session;
}

struct Outcome {
  std::vector<int32_t> tokens;
  std::string text;  // of the events alone
  Generated end;
};

// Runs all that was added to the end.
std::map<int64_t, Outcome> RunAll(Generator& generator) {
  std::map<int64_t, Outcome> runs;
  while (generator.active() > 0) {
    for (Generated& end : generator.Step([&](const TokenEvent& event) {
           runs[event.id].tokens.push_back(event.token);
           runs[event.id].text += event.text;
         })) {
      const int64_t id = end.id;
      runs[id].end = std::move(end);
    }
  }
  return runs;
}

Outcome RunOne(const LanguageModel& model, const Tokenizer& tokenizer, Session session,
               const GenerationOptions& options, int64_t max_rows = 1024) {
  Generator generator(model, tokenizer, max_rows);
  generator.Add(std::move(session), options);
  return RunAll(generator).at(0);
}

TEST(Generator, EachTokenIsDrawnFromTheModelsLogitsAfterAllBefore) {
  const ToyModel model(kVocab);
  const ToyTokenizer tokenizer = ToyTokenizer::Letters(kVocab);
  const std::vector<int32_t> prompt = {3, 1, 4, 1, 5};
  const Outcome run = RunOne(model, tokenizer, Prompt(model, prompt, 9, 2), MaxTokens(20));

  // By hand: the whole text again for every token.
  Random random(9, 2);
  std::vector<int32_t> text = prompt;
  for (const int32_t token : run.tokens) {
    State state;
    const auto rows = static_cast<int64_t>(text.size());
    const Tensor hidden =
        model.Forward(Tensor::From<int32_t>({rows}, text), SequenceLayout::Single(rows), &state);
    const Tensor logits = model.Logits(hidden.Rows(rows - 1, 1));
    ASSERT_EQ(token,
              SampleToken({logits.data<float>(), kVocab}, Plain(), text, random.NextDouble()));
    text.push_back(token);
  }
  EXPECT_EQ(run.tokens.size(), 20u);
  EXPECT_EQ(run.end.reason, FinishReason::kLength);
  EXPECT_EQ(run.end.prompt_tokens, 5);
  EXPECT_EQ(run.end.generated_tokens, 20);
  // The last token was not read yet.
  EXPECT_EQ(run.end.session.state.positions()[0], 24);
  EXPECT_THAT(run.end.session.pending, testing::ElementsAre(run.tokens.back()));
}

TEST(Generator, ABatchOfUnequalPromptsGivesWhatEachGivesAlone) {
  const ToyModel model(kVocab);
  const ToyTokenizer tokenizer = ToyTokenizer::Letters(kVocab);
  Random random(1);
  std::vector<Session> sessions;
  std::vector<GenerationOptions> options;
  for (uint64_t i = 0; i < 9; ++i) {
    std::vector<int32_t> prompt(1 + random.NextBelow(40));
    for (int32_t& token : prompt) token = static_cast<int32_t>(random.NextBelow(kVocab));
    sessions.push_back(Prompt(model, prompt, 3, i));
    options.push_back(MaxTokens(static_cast<int64_t>(random.NextBelow(30))));
    if (i % 2 == 0) options.back().eos_tokens = {7};
    if (i % 3 == 0) options.back().stop = {"ab", "ca"};
  }
  for (const int64_t max_rows : {1, 7, 1000}) {
    Generator generator(model, tokenizer, max_rows);
    std::map<int64_t, Outcome> runs;
    // Some join later, while others are in full swing.
    for (size_t i = 0; i < 5; ++i) generator.Add(sessions[i], options[i]);
    const auto step = [&] {
      for (Generated& end : generator.Step([&](const TokenEvent& event) {
             runs[event.id].tokens.push_back(event.token);
             runs[event.id].text += event.text;
           })) {
        const int64_t id = end.id;
        runs[id].end = std::move(end);
      }
    };
    for (int i = 0; i < 6; ++i) step();
    for (size_t i = 5; i < 9; ++i) generator.Add(sessions[i], options[i]);
    while (generator.active() > 0) step();

    for (size_t i = 0; i < 9; ++i) {
      const Outcome alone = RunOne(model, tokenizer, sessions[i], options[i]);
      const Outcome& together = runs[static_cast<int64_t>(i)];
      EXPECT_EQ(together.tokens, alone.tokens) << i;
      EXPECT_EQ(together.text, alone.text) << i;
      EXPECT_EQ(together.end.reason, alone.end.reason) << i;
      EXPECT_EQ(together.end.session.state, alone.end.session.state) << i;
      EXPECT_EQ(together.end.session.pending, alone.end.session.pending) << i;
      EXPECT_EQ(together.end.session.random_offset, alone.end.session.random_offset) << i;
    }
  }
}

// The same of real models, with memories of fixed size and such as grow, through a file too.
TEST(Generator, ModelsOfEveryKindGiveInABatchWhatEachGivesAlone) {
  const TemporaryDirectory directory;
  for (const auto& [name, config] : test::EveryArchitecture()) {
    SCOPED_TRACE(name);
    const auto model = test::SmallModel(DType::kF32, config);
    const ToyTokenizer tokenizer(
        std::vector<std::string>(static_cast<size_t>(model->vocab_size()), "x"));
    std::vector<Session> sessions;
    std::vector<GenerationOptions> options;
    for (int64_t i = 0; i < 5; ++i) {
      const Tensor prompt = test::RandomTokens(1 + 7 * i, model->vocab_size(), 2 + i);
      sessions.push_back(
          Prompt(*model, {prompt.data<int32_t>(), prompt.data<int32_t>() + 1 + 7 * i}));
      options.push_back(MaxTokens(12 + 5 * i));
      options.back().sampling.temperature = 0;
    }
    Generator generator(*model, tokenizer, /*max_rows=*/16);
    std::map<int64_t, std::vector<int32_t>> together;
    const auto take = [&](const TokenEvent& event) { together[event.id].push_back(event.token); };
    for (size_t i = 0; i < 3; ++i) generator.Add(sessions[i], options[i]);
    for (int i = 0; i < 4; ++i) generator.Step(take);
    for (size_t i = 3; i < 5; ++i) generator.Add(sessions[i], options[i]);
    while (generator.active() > 0) generator.Step(take);
    for (size_t i = 0; i < 5; ++i) {
      SCOPED_TRACE(i);
      const Outcome whole = RunOne(*model, tokenizer, sessions[i], options[i]);
      EXPECT_EQ(together[static_cast<int64_t>(i)], whole.tokens);

      GenerationOptions part = options[i];
      part.max_tokens = 10;
      const Outcome first = RunOne(*model, tokenizer, sessions[i], part);
      WriteSession(directory.path() / "session", first.end.session);
      part.max_tokens = options[i].max_tokens - 10;
      const Outcome rest =
          RunOne(*model, tokenizer, ReadSession(directory.path() / "session", *model), part);
      std::vector<int32_t> tokens = first.tokens;
      tokens.insert(tokens.end(), rest.tokens.begin(), rest.tokens.end());
      EXPECT_EQ(tokens, whole.tokens);
      EXPECT_EQ(rest.end.session.state.positions()[0], whole.end.session.state.positions()[0]);
    }
  }
}

TEST(Generator, LongPromptsAreReadInBoundedChunks) {
  const ToyModel model(kVocab);
  const ToyTokenizer tokenizer = ToyTokenizer::Letters(kVocab);
  const Session session = Prompt(model, std::vector<int32_t>(1000, 3));
  const Outcome run = RunOne(model, tokenizer, session, MaxTokens(5), 64);
  EXPECT_EQ(model.most_rows(), 64);
  EXPECT_EQ(model.forwards(), 16 + 4);
  EXPECT_EQ(run.tokens, RunOne(model, tokenizer, session, MaxTokens(5)).tokens);
}

TEST(Generator, SplitRunsGiveWhatOneRunGives) {
  const ToyModel model(kVocab);
  // Bytes of two-byte and three-byte characters as tokens of their own: cuts fall inside them.
  const ToyTokenizer tokenizer(
      {"a", "b", "\xc3", "\xa9", "\xe2\x82", "\xac", " ", "E", "N", "D", "EN", "\n"});
  GenerationOptions options = MaxTokens(300);
  options.sampling.repetition_penalty = 1.3;
  options.stop = {"END", "a\nb", "\xc3\xa9 "};
  int stopped = 0;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const Session begin = Prompt(model, {0, 1}, seed);
    const Outcome whole = RunOne(model, tokenizer, begin, options);
    stopped += whole.end.reason == FinishReason::kStop ? 1 : 0;
    for (const int64_t length : {1, 2, 3, 50}) {
      Session session = begin;
      std::vector<int32_t> tokens;
      std::string text;
      Generated end;
      do {
        GenerationOptions part = options;
        part.max_tokens =
            std::min(length, options.max_tokens - static_cast<int64_t>(tokens.size()));
        const Outcome run = RunOne(model, tokenizer, session, part);
        tokens.insert(tokens.end(), run.tokens.begin(), run.tokens.end());
        text += run.text;
        session = run.end.session;
        end = run.end;
      } while (end.reason == FinishReason::kLength && tokens.size() < 300);
      EXPECT_EQ(tokens, whole.tokens) << seed;
      EXPECT_EQ(text + end.FinalText(), whole.text + whole.end.FinalText()) << seed;
      EXPECT_EQ(end.reason, whole.end.reason);
      EXPECT_EQ(session.state, whole.end.session.state);
      EXPECT_EQ(session.recent, whole.end.session.recent);
      EXPECT_EQ(session.unshown, whole.end.session.unshown);
    }
  }
  EXPECT_GT(stopped, 0);  // the test is about both ends
  EXPECT_LT(stopped, 20);
}

TEST(Generator, FinishInTheMiddleOfAPromptKeepsTheRestForLater) {
  const ToyModel model(kVocab);
  const ToyTokenizer tokenizer = ToyTokenizer::Letters(kVocab);
  const Session begin = Prompt(model, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0});
  Generator generator(model, tokenizer, 5);
  generator.Add(begin, MaxTokens(10));
  generator.Step();
  const std::vector<Generated> ends = generator.Finish();
  ASSERT_EQ(ends.size(), 1u);
  EXPECT_EQ(ends[0].reason, FinishReason::kStopped);
  EXPECT_EQ(ends[0].session.state.positions()[0], 5);
  EXPECT_EQ(ends[0].session.pending.size(), 7u);
  EXPECT_EQ(generator.active(), 0);
  EXPECT_EQ(RunOne(model, tokenizer, ends[0].session, MaxTokens(10)).tokens,
            RunOne(model, tokenizer, begin, MaxTokens(10)).tokens);
}

TEST(Generator, NoTokensWantedReadsAllButTheLastAndGoesOnExactly) {
  const ToyModel model(kVocab);
  const ToyTokenizer tokenizer = ToyTokenizer::Letters(kVocab);
  const Session begin = Prompt(model, {1, 2, 3});
  const Outcome read = RunOne(model, tokenizer, begin, MaxTokens(0));
  EXPECT_EQ(read.end.generated_tokens, 0);
  EXPECT_EQ(read.end.session.state.positions()[0], 2);
  EXPECT_EQ(RunOne(model, tokenizer, read.end.session, MaxTokens(9)).tokens,
            RunOne(model, tokenizer, begin, MaxTokens(9)).tokens);
  // Nothing to read at all: a single token.
  EXPECT_EQ(RunOne(model, tokenizer, Prompt(model, {4}), MaxTokens(0)).end.reason,
            FinishReason::kLength);
}

TEST(Generator, StopStringsAreNotGivenOutWhereverTokensEnd) {
  const ToyModel model(kVocab);
  const ToyTokenizer tokenizer = ToyTokenizer::Letters(kVocab);
  const Outcome free = RunOne(model, tokenizer, Prompt(model, {0}), MaxTokens(60));
  ASSERT_EQ(free.text.size(), 60u);
  for (size_t at = 0; at + 4 <= free.text.size(); at += 7) {
    GenerationOptions options = MaxTokens(60);
    options.stop = {free.text.substr(at, 4)};
    const size_t first = free.text.find(options.stop[0]);
    const Outcome run = RunOne(model, tokenizer, Prompt(model, {0}), options);
    EXPECT_EQ(run.end.reason, FinishReason::kStop);
    EXPECT_EQ(run.text + run.end.FinalText(), free.text.substr(0, first));
    EXPECT_EQ(run.end.generated_tokens, static_cast<int64_t>(first) + 4);
  }
}

TEST(Generator, EndsAtTheEndTokenAndDoesNotGiveItOut) {
  const ToyModel model(kVocab);
  const ToyTokenizer tokenizer = ToyTokenizer::Letters(kVocab);
  const Outcome free = RunOne(model, tokenizer, Prompt(model, {0}), MaxTokens(60));
  GenerationOptions options = MaxTokens(60);
  options.eos_tokens = {kVocab, free.tokens[20]};
  const Outcome run = RunOne(model, tokenizer, Prompt(model, {0}), options);
  const size_t first = free.text.find(static_cast<char>('a' + free.tokens[20]));
  EXPECT_EQ(run.end.reason, FinishReason::kEos);
  EXPECT_EQ(run.text, free.text.substr(0, first));
  EXPECT_EQ(run.end.generated_tokens, static_cast<int64_t>(first) + 1);
}

TEST(Generator, OnlyTokensThatTheTokenizerKnowsAreDrawn) {
  const ToyModel padded(kVocab);
  const ToyTokenizer tokenizer = ToyTokenizer::Letters(3);
  const Outcome run = RunOne(padded, tokenizer, Prompt(padded, {0}), MaxTokens(200));
  EXPECT_THAT(run.tokens, testing::Each(testing::Lt(3)));
}

TEST(Generator, RefusesWhatItCannotBegin) {
  const ToyModel model(kVocab);
  const ToyModel other(kVocab + 1);
  const ToyTokenizer tokenizer = ToyTokenizer::Letters(kVocab);
  Generator generator(model, tokenizer);
  EXPECT_THROW(generator.Add(Prompt(model, {}), MaxTokens(1)), Error);
  EXPECT_THROW(generator.Add(Prompt(model, {kVocab}), MaxTokens(1)), Error);
  EXPECT_THROW(generator.Add(Prompt(model, {-1}), MaxTokens(1)), Error);
  EXPECT_THROW(generator.Add(Prompt(other, {1}), MaxTokens(1)), Error);
  EXPECT_THROW(generator.Add(Prompt(model, {1}), MaxTokens(-1)), Error);
  GenerationOptions options = MaxTokens(1);
  options.stop = {""};
  EXPECT_THROW(generator.Add(Prompt(model, {1}), options), Error);
  EXPECT_EQ(generator.active(), 0);
  EXPECT_THROW(Generator(model, tokenizer, 0), Error);
}

TEST(Generator, NothingIsInProgressAfterAnError) {
  ToyModel model(kVocab);
  const ToyTokenizer tokenizer = ToyTokenizer::Letters(kVocab);
  Generator generator(model, tokenizer, 4);
  for (int i = 0; i < 3; ++i) generator.Add(Prompt(model, {1, 2, 3}), MaxTokens(5));
  EXPECT_THROW(generator.Step([](const TokenEvent&) { throw Error(ErrorCode::kIo, "no paper"); }),
               Error);
  EXPECT_EQ(generator.active(), 0);
  EXPECT_TRUE(generator.Finish().empty());
  // And it can be begun again.
  generator.Add(Prompt(model, {1, 2, 3}), MaxTokens(5));
  EXPECT_EQ(RunAll(generator).at(3).tokens,
            RunOne(model, tokenizer, Prompt(model, {1, 2, 3}), MaxTokens(5)).tokens);
}

TEST(Generator, RunningTextsHaveARowEachWhateverTheBound) {
  const ToyModel model(kVocab);
  const ToyTokenizer tokenizer = ToyTokenizer::Letters(kVocab);
  Generator generator(model, tokenizer, 2);
  for (int i = 0; i < 5; ++i) generator.Add(Prompt(model, {1}), MaxTokens(9));
  generator.Add(Prompt(model, std::vector<int32_t>(20, 3)), MaxTokens(1));
  RunAll(generator);
  EXPECT_EQ(model.most_rows(), 5 + 1);
}

TEST(Generator, NamesLogitsThatAreNoNumbers) {
  ToyModel model(kVocab);
  model.BreakAfter(2);
  const ToyTokenizer tokenizer = ToyTokenizer::Letters(kVocab);
  try {
    RunOne(model, tokenizer, Prompt(model, {2}), MaxTokens(1));
    FAIL() << "no error was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNumeric);
    EXPECT_THAT(error.what(), testing::HasSubstr("nan"));
  }
}

TEST(Generator, GreedyIdsAreThoseOfTheReferenceImplementation) {
  const std::filesystem::path goldens = ADDER_SOURCE_DIR "/tests/goldens";
  for (const char* name : {"mamba-tied", "mamba-untied-bias"}) {
    const auto model = LoadModel(goldens / name, DType::kF32);
    const ToyTokenizer tokenizer(
        std::vector<std::string>(static_cast<size_t>(model->vocab_size()), "x"));
    const SafetensorsFile file = SafetensorsFile::Open(goldens / name / "golden.safetensors");
    // The prompt's 16 ids, then what follows; it may have ended early.
    const Tensor greedy = file.Get("greedy").Reshape({file.Get("greedy").elements()});
    ASSERT_EQ(greedy.dtype(), DType::kI32);
    const std::vector<int32_t> ids(greedy.data<int32_t>(), greedy.data<int32_t>() + greedy.dim(0));
    ASSERT_GT(ids.size(), 16u);
    GenerationOptions options = MaxTokens(static_cast<int64_t>(ids.size()) - 16);
    options.sampling.temperature = 0.0;
    for (const int64_t max_rows : {5, 1024}) {
      const Outcome outcome = RunOne(
          *model, tokenizer, Prompt(*model, {ids.begin(), ids.begin() + 16}), options, max_rows);
      EXPECT_EQ(outcome.tokens, std::vector<int32_t>(ids.begin() + 16, ids.end())) << name;
    }
  }
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;  // sanitizers keep freed memory for a while
#else
constexpr bool kSanitized = false;
#endif

int64_t ResidentBytes() {
  int64_t size = 0;
  int64_t resident = 0;
  std::FILE* file = std::fopen("/proc/self/statm", "r");
  if (file == nullptr) return -1;
  if (std::fscanf(file, "%ld %ld", &size, &resident) != 2) resident = -1;
  std::fclose(file);
  return resident * 4096;
}

TEST(Generator, MemoryDoesNotGrowWithTheNumberOfTokens) {
  const ToyModel model(4);
  const ToyTokenizer tokenizer = ToyTokenizer::Letters(4);
  const int64_t tokens = kSanitized ? 5000 : 100000;
  Generator generator(model, tokenizer);
  GenerationOptions options = MaxTokens(tokens);
  options.sampling.repetition_penalty = 1.1;
  options.stop = {"no such text"};
  generator.Add(Prompt(model, {0}), options);
  int64_t generated = 0;
  int64_t before = 0;
  while (generator.active() > 0) {
    generator.Step([&](const TokenEvent&) { ++generated; });
    if (generated == 2000) before = ResidentBytes();
  }
  EXPECT_EQ(generated, tokens);
  ASSERT_GT(before, 0);
  // Keeping but the tokens' ids would take 400 kB.
  if (!kSanitized) {
    EXPECT_LT(ResidentBytes() - before, 256 << 10);
  }
}

}  // namespace
}  // namespace adder
