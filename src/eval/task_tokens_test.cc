// Tokens of requests by the harness's rules, on a tokenizer whose tokens can cross borders.
#include "adder/eval/task_tokens.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "adder/core/error.h"
#include "adder/infer/toy_model_test.h"
#include "tests/temporary_directory.h"

namespace adder {
namespace {

using test::ToyTokenizer;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr int64_t kVocabulary = 10;

const ToyTokenizer& Pieces() {
  static const ToyTokenizer tokenizer({"a", "b", "c", "d", " ", "b c", " d", "\u2003", "!"});
  return tokenizer;
}

TaskDocument Document(const std::vector<TaskRequest>& requests) {
  TaskDocument document;
  document.source = "here";
  document.requests = requests;
  return document;
}

TokenDocument Encode(const std::vector<TaskRequest>& requests, const TaskEncoding& encoding = {}) {
  return EncodeDocument(Pieces(), Document(requests), encoding, kVocabulary);
}

TEST(TaskTokens, AreTheWholesCutWhereTheContextEnds) {
  const TokenDocument document = Encode({{"ab", " d"}});
  EXPECT_THAT(document.shared, IsEmpty());  // nothing to share with
  EXPECT_THAT(document.choices[0].tokens, ElementsAre(0, 1, 6));
  EXPECT_EQ(document.choices[0].scored, 1);
  EXPECT_EQ(document.rows(), 2);
  // "b c" across the border: the context alone is a, b, and the rest is what follows two tokens.
  const TokenDocument crossing = Encode({{"ab", " c d"}});
  EXPECT_THAT(crossing.choices[0].tokens, ElementsAre(0, 1, 6));
  EXPECT_EQ(crossing.choices[0].scored, 1);
}

TEST(TaskTokens, WhiteSpaceOfTheContextBelongsToTheContinuation) {
  const TokenDocument document = Encode({{"a \u2003", " d"}});
  EXPECT_THAT(document.choices[0].tokens, ElementsAre(0, 4, 7, 6));
  EXPECT_EQ(document.choices[0].scored, 3);
}

TEST(TaskTokens, EmptyContextsArePreceededByThePrefix) {
  TaskEncoding encoding;
  encoding.prefix_token = 8;
  for (const char* context : {"", " "}) {
    const TokenDocument document = Encode({{context, "d"}}, encoding);
    EXPECT_EQ(document.choices[0].tokens.front(), 8);
    EXPECT_EQ(document.choices[0].scored, 1);
  }
  // A prefix that stands there anyway is not predicted.
  const TokenDocument document = Encode({{"", "!ab"}}, encoding);
  EXPECT_THAT(document.choices[0].tokens, ElementsAre(8, 0, 1));
  EXPECT_EQ(document.choices[0].scored, 2);
}

// A tokenizer that puts tokens around every text.
class Surrounding : public ToyTokenizer {
 public:
  Surrounding(std::vector<int32_t> prefix, std::vector<int32_t> suffix)
      : ToyTokenizer(Pieces()), prefix_(std::move(prefix)), suffix_(std::move(suffix)) {}
  std::span<const int32_t> prefix_tokens() const override { return prefix_; }
  std::span<const int32_t> suffix_tokens() const override { return suffix_; }

 private:
  std::vector<int32_t> prefix_;
  std::vector<int32_t> suffix_;
};

TEST(TaskTokens, WhatTheTokenizerPutsAroundTexts) {
  const TaskDocument document = Document({{"ab", "c"}, {"ab", "dd"}});
  const TokenDocument begun = EncodeDocument(Surrounding({9, 8}, {}), document, {}, kVocabulary);
  EXPECT_THAT(begun.shared, ElementsAre(9, 8, 0));
  EXPECT_THAT(begun.choices[0].tokens, ElementsAre(1, 2));
  EXPECT_THAT(begun.choices[1].tokens, ElementsAre(1, 3, 3));
  EXPECT_EQ(begun.choices[1].scored, 2);
  EXPECT_EQ(begun.rows(), 3 + 1 + 2);
  // Where there is an end, the context ends too, and the whole is cut as late.
  const TokenDocument ended = EncodeDocument(Surrounding({9}, {8}), document, {}, kVocabulary);
  EXPECT_THAT(ended.shared, ElementsAre(9, 0, 1));
  EXPECT_THAT(ended.choices[0].tokens, ElementsAre(8, 8));
  EXPECT_THAT(ended.choices[1].tokens, ElementsAre(8, 3, 8));
  // None of it stands around an empty context's continuation.
  TaskEncoding encoding;
  encoding.prefix_token = 4;
  const TokenDocument empty =
      EncodeDocument(Surrounding({9}, {8}), Document({{"", "d"}}), encoding, kVocabulary);
  EXPECT_THAT(empty.choices[0].tokens, ElementsAre(4, 3));
}

TEST(TaskTokens, ShareWhatAllBeginWith) {
  // Contexts that differ, as winogrande's do.
  const TokenDocument document = Encode({{"abca", "dd"}, {"abcd", "dd"}, {"abcda", "dd"}});
  EXPECT_THAT(document.shared, ElementsAre(0, 1, 2));
  EXPECT_THAT(document.choices[0].tokens, ElementsAre(0, 3, 3));
  EXPECT_THAT(document.choices[2].tokens, ElementsAre(3, 0, 3, 3));
  // The row that predicts the first token asked for is each choice's own.
  const TokenDocument same = Encode({{"a", "bb"}, {"a", "bb"}});
  EXPECT_THAT(same.shared, IsEmpty());
  EXPECT_THAT(same.choices[1].tokens, ElementsAre(0, 1, 1));
}

TEST(TaskTokens, LongRequestsLoseTheirBeginning) {
  TaskEncoding encoding;
  encoding.max_length = 3;
  const TokenDocument document = Encode({{"abcd", "a"}, {"abcd", "aab"}}, encoding);
  EXPECT_THAT(document.shared, IsEmpty());
  EXPECT_THAT(document.choices[0].tokens, ElementsAre(1, 2, 3, 0));
  EXPECT_EQ(document.choices[0].scored, 1);
  EXPECT_THAT(document.choices[1].tokens, ElementsAre(3, 0, 0, 1));
  EXPECT_EQ(document.choices[1].scored, 3);
  // Exactly as long as allowed.
  EXPECT_THAT(Encode({{"ab", "cd"}}, encoding).choices[0].tokens, ElementsAre(0, 1, 2, 3));
}

std::string MessageOf(const TaskRequest& request, const TaskEncoding& encoding,
                      int64_t vocab_size = kVocabulary) {
  try {
    EncodeDocument(Pieces(), Document({request}), encoding, vocab_size);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_EQ(std::string(error.what()).substr(0, 6), "here: ");
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

TEST(TaskTokens, RefuseWhatCannotBeAsked) {
  TaskEncoding encoding;
  EXPECT_THAT(MessageOf({"", "a"}, encoding), HasSubstr("nothing comes before"));
  EXPECT_THAT(MessageOf({"a", ""}, encoding), HasSubstr("no tokens to predict"));
  // The whole is shorter in tokens than its beginning.
  EXPECT_THAT(MessageOf({"ab", " c"}, encoding), HasSubstr("no tokens to predict"));
  encoding.max_length = 2;
  EXPECT_THAT(MessageOf({"a", "bcd"}, encoding), HasSubstr("3 tokens to predict"));
  EXPECT_THAT(MessageOf({"a", "d"}, encoding, 3), HasSubstr("token 3 is outside"));
  encoding.prefix_token = kVocabulary;
  EXPECT_THAT(MessageOf({"", "d"}, encoding), HasSubstr("token 10 is outside"));
}

TEST(TaskEncoding, ComesFromTheModelsFiles) {
  const TemporaryDirectory directory;
  const auto read = [&] { return ReadTaskEncoding(directory.path()); };
  const auto write = [&](const char* name, const char* text) {
    std::ofstream(directory.path() / name) << text;
  };
  EXPECT_EQ(read().max_length, 2048);
  EXPECT_EQ(read().prefix_token, -1);

  write("tokenizer_config.json", R"({"model_max_length": 1000000000000000019884624838656})");
  write("config.json", R"({"bos_token_id": null, "eos_token_id": 3})");
  EXPECT_EQ(read().max_length, 2048);
  EXPECT_EQ(read().prefix_token, 3);
  write("tokenizer_config.json", R"({"model_max_length": 512})");
  EXPECT_EQ(read().max_length, 512);
  write("config.json",
        R"({"bos_token_id": 1, "eos_token_id": [2, 3], "max_position_embeddings": 4096})");
  EXPECT_EQ(read().max_length, 4096);
  EXPECT_EQ(read().prefix_token, 1);

  for (const char* wrong : {"[]", "{", R"({"n_ctx": 0})", R"({"n_positions": "many"})"}) {
    write("config.json", wrong);
    EXPECT_THROW(read(), Error) << wrong;
  }
}

}  // namespace
}  // namespace adder
