// Learning a vocabulary: the merges a slow definition finds, in their order, whatever the order of
// the text.
#include "adder/text/bpe_trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>

#include "adder/core/error.h"
#include "adder/core/random.h"
#include "adder/text/byte_level.h"
#include "adder/text/gpt2_words.h"
#include "adder/text/tokenizer.h"

namespace adder {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

BpeTrainingOptions WithSize(int64_t vocab_size) {
  BpeTrainingOptions options;
  options.vocab_size = vocab_size;
  options.min_count = 1;
  return options;
}

std::string RandomText(uint64_t seed, int words) {
  Random random(seed);
  std::string text;
  for (int i = 0; i < words; ++i) {
    text += random.NextBelow(8) == 0 ? "\n" : " ";
    const uint64_t length = 1 + random.NextBelow(7);
    for (uint64_t k = 0; k < length; ++k) text += static_cast<char>('a' + random.NextBelow(4));
  }
  return text;
}

// Counts all pairs anew for each merge.
std::vector<std::string> MergesByDefinition(const std::string& text, const Vocabulary& vocabulary,
                                            size_t count) {
  std::map<std::string, int32_t> ids;
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    ids[vocabulary.tokens[i]] = static_cast<int32_t>(i);
  }
  std::vector<std::vector<std::string>> words;
  ForEachGpt2Word(text, [&](size_t begin, size_t length) {
    std::vector<std::string>& word = words.emplace_back();
    for (const char c : text.substr(begin, length)) {
      word.push_back(ByteLevelCharacter(static_cast<unsigned char>(c)));
    }
  });
  std::vector<std::string> merges;
  while (merges.size() < count) {
    std::map<std::pair<int32_t, int32_t>, int64_t> pairs;
    for (const auto& word : words) {
      for (size_t i = 0; i + 1 < word.size(); ++i) ++pairs[{ids.at(word[i]), ids.at(word[i + 1])}];
    }
    if (pairs.empty()) break;
    // The first of the most frequent ones, since the map is sorted by ids.
    const auto best =
        std::max_element(pairs.begin(), pairs.end(),
                         [](const auto& a, const auto& b) { return a.second < b.second; });
    const std::string left = vocabulary.tokens[static_cast<size_t>(best->first.first)];
    const std::string right = vocabulary.tokens[static_cast<size_t>(best->first.second)];
    merges.push_back(left + " " + right);
    for (auto& word : words) {
      for (size_t i = 0; i + 1 < word.size(); ++i) {
        if (word[i] != left || word[i + 1] != right) continue;
        word[i] += right;
        word.erase(word.begin() + static_cast<std::ptrdiff_t>(i) + 1);
      }
    }
  }
  return merges;
}

TEST(BpeTrainer, LearnsWhatTheDefinitionSays) {
  for (const uint64_t seed : {1, 2, 3}) {
    const std::string text = RandomText(seed, 300);
    BpeTrainer trainer;
    trainer.Add(text);
    const Vocabulary vocabulary = trainer.Train(WithSize(257 + 120));
    EXPECT_EQ(vocabulary.tokens.size(), 257u + 120u);
    EXPECT_EQ(vocabulary.merges, MergesByDefinition(text, vocabulary, 120));
  }
}

TEST(BpeTrainer, TheOrderOfTheTextMakesNoDifference) {
  const std::string a = RandomText(4, 500);
  const std::string b = RandomText(5, 500);
  BpeTrainer first;
  first.Add(a);
  first.Add(b);
  BpeTrainer second;
  second.Add(b);
  second.Add(a);
  EXPECT_EQ(first.Train(WithSize(500)).merges, second.Train(WithSize(500)).merges);
}

TEST(BpeTrainer, StopsWhereNothingIsLeftToMerge) {
  BpeTrainer trainer;
  trainer.Add("aab aab aaab");
  BpeTrainingOptions options = WithSize(1000);
  const Vocabulary all = trainer.Train(options);
  EXPECT_LT(all.tokens.size(), 270u);
  options.min_count = 3;
  // Then "aa b" is met twice, which is too seldom.
  EXPECT_THAT(trainer.Train(options).merges, ElementsAre("a a"));
  EXPECT_TRUE(BpeTrainer().Train(WithSize(300)).merges.empty());
}

TEST(BpeTrainer, WhatItLearnsIsATokenizer) {
  BpeTrainer trainer;
  trainer.Add("the cat and the other cat; caf\u00e9, cafe\u0301\xff, the end");
  BpeTrainingOptions options = WithSize(300);
  options.special_tokens = {"<e>", "<pad>"};
  const Vocabulary vocabulary = trainer.Train(options);
  const auto tokenizer = Tokenizer::FromVocabulary(vocabulary, "trained");
  EXPECT_EQ(tokenizer->vocab_size(), static_cast<int64_t>(vocabulary.tokens.size()));
  EXPECT_TRUE(tokenizer->IsSpecial(0));
  EXPECT_EQ(tokenizer->Bytes(0), "<e>");
  EXPECT_EQ(tokenizer->Encode("<pad>"), std::vector<int32_t>{1});
  EXPECT_EQ(tokenizer->Encode(" the").size(), 1u);
  const std::string text = "the cafe\u0301 \xff the";
  EXPECT_EQ(tokenizer->Decode(tokenizer->Encode(text)), "the caf\u00e9 \ufffd the");
  EXPECT_EQ(tokenizer->ToVocabulary().bos, 0);
  EXPECT_EQ(tokenizer->ToVocabulary().merges, vocabulary.merges);
}

TEST(BpeTrainer, RefusesWhatCannotBe) {
  BpeTrainer trainer;
  trainer.Add("some text");
  const auto message = [&](const BpeTrainingOptions& options) -> std::string {
    try {
      trainer.Train(options);
    } catch (const Error& error) {
      return std::string(ErrorCodeName(error.code())) + ": " + error.what();
    }
    return "accepted";
  };
  EXPECT_THAT(message(WithSize(256)), HasSubstr("invalid_argument: a vocabulary of 256 tokens"));
  EXPECT_THAT(message(WithSize(int64_t{1} << 40)), HasSubstr("invalid_argument"));
  BpeTrainingOptions options = WithSize(300);
  for (const std::string token : {"", "a", "\xff"}) {
    options.special_tokens = {token};
    EXPECT_THAT(message(options), HasSubstr("cannot be a special token"));
  }
  options.special_tokens = {"<e>", "<e>"};
  EXPECT_THAT(message(options), HasSubstr("given twice"));
  options.special_tokens = {"<e>"};
  const std::atomic<bool> cancel = true;
  options.cancel = &cancel;
  EXPECT_THAT(message(options), HasSubstr("cancelled: stopped after 0 of 43 merges"));
}

}  // namespace
}  // namespace adder
