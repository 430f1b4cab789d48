// Log-likelihoods of packed documents with shared contexts against a plain reading of each request
// by itself.
#include "adder/eval/log_likelihood.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "adder/core/error.h"
#include "adder/core/random.h"
#include "adder/infer/toy_model_test.h"
#include "adder/models/checkpoint.h"

namespace adder {
namespace {

using test::ToyModel;

constexpr int64_t kVocabulary = 7;

std::vector<int32_t> RandomTokens(Random& random, int64_t count, int64_t vocab) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) {
    tokens.push_back(static_cast<int32_t>(random.NextBelow(static_cast<uint64_t>(vocab))));
  }
  return tokens;
}

std::vector<TokenDocument> RandomDocuments(int count, int64_t vocab = kVocabulary) {
  Random random(11);
  std::vector<TokenDocument> documents(static_cast<size_t>(count));
  for (TokenDocument& document : documents) {
    // Without a shared beginning, and with up to 20 tokens.
    document.shared = RandomTokens(random, static_cast<int64_t>(random.NextBelow(21)), vocab);
    document.choices.resize(1 + random.NextBelow(4));
    for (TokenDocument::Choice& choice : document.choices) {
      choice.tokens = RandomTokens(random, 2 + static_cast<int64_t>(random.NextBelow(9)), vocab);
      choice.scored = 1 + static_cast<int64_t>(random.NextBelow(choice.tokens.size() - 1));
    }
  }
  return documents;
}

// The definition: all tokens of the request read in one piece, every logit looked at.
LogLikelihood Plain(const LanguageModel& model, const TokenDocument& document, size_t c) {
  std::vector<int32_t> tokens = document.shared;
  const TokenDocument::Choice& choice = document.choices[c];
  tokens.insert(tokens.end(), choice.tokens.begin(), choice.tokens.end());
  const auto rows = static_cast<int64_t>(tokens.size()) - 1;
  State state;
  const Tensor hidden =
      model.Forward(Tensor::From<int32_t>({rows}, std::span(tokens).first(tokens.size() - 1)),
                    SequenceLayout::Single(rows), &state);
  const Tensor logits = model.Logits(hidden);
  LogLikelihood result = {0.0, true};
  for (int64_t row = rows - choice.scored; row < rows; ++row) {
    const float* l = logits.data<float>() + row * logits.dim(1);
    const auto target = tokens[static_cast<size_t>(row) + 1];
    double sum = 0.0;
    for (int64_t v = 0; v < logits.dim(1); ++v) sum += std::exp(static_cast<double>(l[v]));
    result.nats += static_cast<double>(l[target]) - std::log(sum);
    result.greedy &= std::max_element(l, l + logits.dim(1)) - l == target;
  }
  return result;
}

LogLikelihoodOptions Batches(int64_t tokens, int64_t state_bytes = int64_t{1} << 30) {
  LogLikelihoodOptions options;
  options.batch_tokens = tokens;
  options.state_bytes = state_bytes;
  return options;
}

// All documents, batch by batch.
std::vector<std::vector<LogLikelihood>> ScoreAll(const LanguageModel& model,
                                                 std::span<const TokenDocument> documents,
                                                 const LogLikelihoodOptions& options,
                                                 bool greedy = true) {
  const LogLikelihoodScorer scorer(model, options);
  std::vector<std::vector<LogLikelihood>> results;
  while (!documents.empty()) {
    const auto scores = scorer.Score(documents, greedy);
    EXPECT_GT(scores.size(), 0u);
    results.insert(results.end(), scores.begin(), scores.end());
    documents = documents.subspan(scores.size());
  }
  return results;
}

TEST(LogLikelihood, PackedIsOneByOne) {
  const ToyModel model(kVocabulary);
  const std::vector<TokenDocument> documents = RandomDocuments(40);
  const auto one_by_one = ScoreAll(model, documents, Batches(1000, 0));
  int64_t greedy = 0;
  for (size_t d = 0; d < documents.size(); ++d) {
    ASSERT_EQ(one_by_one[d].size(), documents[d].choices.size());
    for (size_t c = 0; c < one_by_one[d].size(); ++c) {
      const LogLikelihood plain = Plain(model, documents[d], c);
      // The toy's loss per row is rounded to f32.
      EXPECT_NEAR(one_by_one[d][c].nats, plain.nats, 1e-5);
      EXPECT_EQ(one_by_one[d][c].greedy, plain.greedy);
      greedy += plain.greedy ? 1 : 0;
    }
  }
  EXPECT_GT(greedy, 0);  // both answers occur
  EXPECT_LT(greedy, 40);
  // The toy model computes the same in any batch, so the results are equal, not just near.
  for (const int64_t batch : {1, 5, 64, 100000}) {
    for (const int64_t bytes : {int64_t{0}, int64_t{200}, int64_t{1} << 30}) {
      const ToyModel counting(kVocabulary);
      EXPECT_EQ(ScoreAll(counting, documents, Batches(batch, bytes)), one_by_one)
          << batch << " tokens, " << bytes << " bytes";
      EXPECT_LE(counting.most_rows(), batch);
    }
  }
}

// Real models: a batch's shape may change the rounding, nothing else.
class LogLikelihoodOf : public testing::TestWithParam<const char*> {};

TEST_P(LogLikelihoodOf, AModelIsThatOfEachRequest) {
  const auto model = LoadModel(
      std::filesystem::path(ADDER_SOURCE_DIR) / "tests" / "goldens" / GetParam(), DType::kF32);
  const std::vector<TokenDocument> documents = RandomDocuments(12, model->vocab_size());
  for (const LogLikelihoodOptions& options : {Batches(7), Batches(4096), Batches(4096, 50000)}) {
    const auto results = ScoreAll(*model, documents, options);
    for (size_t d = 0; d < documents.size(); ++d) {
      for (size_t c = 0; c < results[d].size(); ++c) {
        const LogLikelihood plain = Plain(*model, documents[d], c);
        // f32 all through: logits of order 10, sums of up to 10 of them.
        EXPECT_NEAR(results[d][c].nats, plain.nats, 1e-4);
        EXPECT_EQ(results[d][c].greedy, plain.greedy);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, LogLikelihoodOf,
                         testing::Values("mamba-tied", "mamba2-g1", "mamba2-g2", "falcon-mamba",
                                         "gpt-neox", "llama"),
                         [](const auto& model) {
                           std::string name = model.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(LogLikelihood, ReadsWhatIsSharedOnce) {
  const ToyModel model(kVocabulary);
  const std::vector<TokenDocument> documents = RandomDocuments(30);
  int64_t expected = 0;
  for (const TokenDocument& document : documents) expected += document.rows();
  int64_t rows = 0;
  LogLikelihoodOptions options;
  options.progress = [&](int64_t count) { rows += count; };
  ScoreAll(model, documents, options);
  EXPECT_EQ(rows, expected);
  EXPECT_EQ(model.forwards(), 2);  // beginnings and choices
}

TEST(LogLikelihood, GreedyIsOnlyToldWhereAskedFor) {
  const ToyModel model(kVocabulary);
  const std::vector<TokenDocument> documents = RandomDocuments(10);
  for (const auto& results : ScoreAll(model, documents, {}, /*greedy=*/false)) {
    for (const LogLikelihood& result : results) EXPECT_FALSE(result.greedy);
  }
}

TEST(LogLikelihood, StopsWhenAskedToAndRefusesEmptyBatches) {
  const ToyModel model(kVocabulary);
  std::atomic<bool> cancel = true;
  LogLikelihoodOptions options;
  options.cancel = &cancel;
  try {
    ScoreAll(model, RandomDocuments(1), options);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCancelled);
  }
  EXPECT_EQ(model.forwards(), 0);
  EXPECT_THROW(LogLikelihoodScorer(model, Batches(0)), Error);
}

}  // namespace
}  // namespace adder
