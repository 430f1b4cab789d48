// Tokenized text: the tokens of each document, there again after reading the file, and no other
// file taken for one.
#include "adder/data/token_corpus.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

#include "adder/core/error.h"
#include "adder/data/batch_sampler.h"
#include "adder/text/small_tokenizer_test.h"
#include "tests/temporary_directory.h"

namespace adder {
namespace {

namespace fs = std::filesystem;
using test::SmallTokenizer;
using testing::HasSubstr;

class TokenCorpusTest : public testing::Test {
 protected:
  ByteCorpus Text(const std::vector<std::string>& documents) const {
    std::vector<fs::path> files;
    for (const std::string& document : documents) {
      files.push_back(directory_.path() / std::to_string(files.size()));
      std::ofstream(files.back(), std::ios::binary) << document;
    }
    return ByteCorpus::Open(files);
  }
  TokenCorpus Build(const std::vector<std::string>& documents, const Tokenizer& tokenizer) const {
    TokenCorpus::Build(path_, 7, Text(documents), tokenizer, {});
    return TokenCorpus::Open(path_);
  }
  std::string OpenError() const {
    try {
      TokenCorpus::Open(path_);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kCorrupt);
      return error.what();
    }
    return "accepted";
  }

  TemporaryDirectory directory_;
  const fs::path path_ = directory_.path() / "tokens";
};

std::vector<int32_t> TokensOf(const TrainingCorpus& corpus, int64_t document) {
  std::vector<int32_t> tokens(
      static_cast<size_t>(corpus.begin(document + 1) - corpus.begin(document)));
  corpus.Read(corpus.begin(document), tokens);
  return tokens;
}

TEST_F(TokenCorpusTest, HoldsTheTokensOfEachDocument) {
  SmallTokenizer small = SmallTokenizer::ByteLevel({{"t", "h"}, {"Ġ", "th"}});
  const std::vector<std::string> documents = {"a th", "x", "th th\n"};
  for (const bool wide : {false, true}) {
    if (wide) small.added_tokens = R"([{"id": 65790, "content": "<far>"}])";
    const auto tokenizer = small.Make();
    const TokenCorpus corpus = Build(documents, *tokenizer);
    EXPECT_EQ(corpus.vocab_size(), tokenizer->vocab_size());
    EXPECT_EQ(corpus.key(), 7u);
    EXPECT_EQ(corpus.text_bytes(), 11);
    EXPECT_EQ(corpus.documents(), 3);
    for (int64_t i = 0; i < 3; ++i) {
      EXPECT_EQ(TokensOf(corpus, i), tokenizer->Encode(documents[static_cast<size_t>(i)]));
    }
    EXPECT_EQ(corpus.Find(corpus.begin(2)), 2);
  }
}

// With a token for each byte, a batch of tokens is the batch of bytes.
TEST_F(TokenCorpusTest, BatchesAreThoseOfTheTokens) {
  const std::vector<std::string> documents = {"some text", "of three", "documents\n"};
  const TokenCorpus tokens = Build(documents, *SmallTokenizer::ByteLevel().Make());
  const ByteCorpus bytes = Text(documents);
  for (const Packing packing : {Packing::kWindows, Packing::kDocuments}) {
    BatchOptions options;
    options.packing = packing;
    options.batch = 2;
    options.length = 5;
    options.seed = 4;
    BatchSampler a(tokens, options);
    BatchSampler b(bytes, options);
    for (int64_t i = 0; i < 20; ++i) {
      const Batch of_tokens = a.Get(i);
      const Batch of_bytes = b.Get(i);
      ASSERT_EQ(of_tokens.layout.sequences(), of_bytes.layout.sequences());
      const auto values = [](const Tensor& tensor) {
        const auto* data = tensor.data<int32_t>();
        return std::vector<int32_t>(data, data + tensor.elements());
      };
      EXPECT_EQ(values(of_tokens.tokens), values(of_bytes.tokens));
      EXPECT_EQ(values(of_tokens.targets), values(of_bytes.targets));
    }
  }
}

TEST_F(TokenCorpusTest, WhatIsStoppedLeavesNoFile) {
  const std::atomic<bool> stop = true;
  const auto tokenizer = SmallTokenizer::ByteLevel().Make();
  EXPECT_THROW(
      TokenCorpus::Build(path_, 1, Text({"text"}), *tokenizer, {.progress = {}, .cancel = &stop}),
      Error);
  EXPECT_FALSE(fs::exists(path_));
  const auto merging = SmallTokenizer::ByteLevel({{"a", "b"}}).Make();
  EXPECT_THROW(Build({"ab", "ab"}, *merging), Error);  // one token each: nothing to predict
}

TEST_F(TokenCorpusTest, OtherFilesAreRefused) {
  Build({"some text", "more"}, *SmallTokenizer::ByteLevel().Make());
  const std::string good = ReadFile(path_);
  const auto write = [&](const std::string& content) {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << content;
  };
  for (size_t length = 0; length < good.size(); ++length) {
    write(good.substr(0, length));
    EXPECT_THAT(OpenError(), HasSubstr("no file of tokens"));
  }
  write(good + "x");
  EXPECT_THAT(OpenError(), HasSubstr("no file of tokens"));
  // Any byte but those of the tokens.
  const size_t tokens_end = 32 + 2 * 13;
  for (size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0x40);
    write(bad);
    if (i < 32 || i >= tokens_end + 6) {
      EXPECT_THAT(OpenError(), HasSubstr("no file of tokens")) << i;
    } else if (i < tokens_end && i % 2 == 1) {
      const TokenCorpus corpus = TokenCorpus::Open(path_);
      std::vector<int32_t> tokens(1);
      EXPECT_THROW(corpus.Read(static_cast<int64_t>(i - 32) / 2, tokens), Error);
    }
  }
}

}  // namespace
}  // namespace adder
