// adder tokenize and adder tokenizer as their users meet them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <filesystem>
#include <string>

#include "adder/formats/file.h"
#include "adder/formats/json.h"
#include "adder/text/small_tokenizer_test.h"
#include "tests/temporary_directory.h"

namespace adder {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

class TokenizeCommandTest : public testing::Test {
 protected:
  void SetUp() override {
    test::SmallTokenizer small = test::SmallTokenizer::ByteLevel({{"t", "h"}, {"Ġ", "th"}});
    small.added_tokens = R"([{"id": 258, "content": "<e>", "special": true}])";
    small.post_processor = R"({"type": "TemplateProcessing", "single": [
        {"SpecialToken": {"id": "<e>"}}, {"Sequence": {"id": "A"}}],
        "special_tokens": {"<e>": {"ids": [258]}}})";
    WriteFileAtomically(directory_.path() / "tokenizer.json", small.Json());
  }

  struct Finished {
    int exit_code;
    std::string out;  // and error messages
  };

  // Runs `adder ARGUMENTS` (in a shell's words) in the directory.
  Finished Run(const std::string& arguments) const {
    const std::string command = "cd '" + directory_.path().string() +
                                "' && " ADDER_BINARY_DIR "/adder " + arguments + " 2>&1";
    FILE* pipe = popen(command.c_str(), "r");
    Finished finished = {-1, ""};
    char buffer[4096];
    for (size_t count = 0; (count = fread(buffer, 1, sizeof(buffer), pipe)) > 0;) {
      finished.out.append(buffer, count);
    }
    const int status = pclose(pipe);
    finished.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return finished;
  }
  std::string Output(const std::string& arguments) const {
    const Finished finished = Run(arguments);
    EXPECT_EQ(finished.exit_code, 0) << finished.out;
    return finished.out;
  }

  TemporaryDirectory directory_;
};

TEST_F(TokenizeCommandTest, PrintsTokensIdsAndNumbers) {
  const std::string command = "tokenize --tokenizer tokenizer.json ";
  EXPECT_EQ(Output(command + "'a th\n'"),
            "      97  \"a\"\n     257  \" th\"\n      10  \"\\n\"\n");
  EXPECT_EQ(Output(command + "--ids 'a th<e>'"), "97 257 258\n");
  EXPECT_EQ(Output(command + "--ids --special a"), "258 97\n");
  EXPECT_EQ(Output(command + "--count ''"), "0\n");
  EXPECT_EQ(Output(command + "--ids -0 < /dev/null"), "\n");
  WriteFileAtomically(directory_.path() / "text", std::string("a th\0b", 6));
  EXPECT_EQ(Output(command + "--ids --null --file text"), "97 257\n98\n");
  EXPECT_EQ(Output("tokenize --model . --count --file text"), "4\n");
  const JsonValue json = JsonValue::Parse(Output(command + "--json th < /dev/null"), "output");
  EXPECT_EQ(json, JsonValue(JsonValue::Object{{"bytes", 2},
                                              {"count", 1},
                                              {"ids", JsonValue::Array{256}},
                                              {"texts", JsonValue::Array{"th"}}}));
}

TEST_F(TokenizeCommandTest, DecodesWhatItEncodes) {
  const std::string command = "tokenize --tokenizer tokenizer.json --decode ";
  EXPECT_EQ(Output(command + "'97 257,258'"), "a th<e>");
  WriteFileAtomically(directory_.path() / "text", "a th\n\xc3\xa9 <e>\n");
  EXPECT_EQ(
      Output("tokenize --tokenizer tokenizer.json --ids --file text | " ADDER_BINARY_DIR "/adder " +
             command),
      "a th\n\xc3\xa9 <e>\n");
}

TEST_F(TokenizeCommandTest, SaysWhatIsWrong) {
  const auto failure = [&](int code, const std::string& arguments) {
    const Finished finished = Run(arguments);
    EXPECT_EQ(finished.exit_code, code) << arguments;
    EXPECT_THAT(finished.out, StartsWith("adder: "));
    return finished.out;
  };
  EXPECT_THAT(failure(2, "tokenize text"), HasSubstr("--model DIR or --tokenizer FILE"));
  EXPECT_THAT(failure(2, "tokenize --model . --tokenizer x text"), HasSubstr("one of them"));
  EXPECT_THAT(failure(2, "tokenize --model . text --file x"), HasSubstr("twice"));
  EXPECT_THAT(failure(1, "tokenize --model . --file nothing"), HasSubstr("nothing"));
  EXPECT_THAT(failure(1, "tokenize --model . --decode 12x"), HasSubstr("\"12x\" is no token id"));
  EXPECT_THAT(failure(1, "tokenize --model . --decode 259"), HasSubstr("expected 0 to 258"));
  EXPECT_THAT(failure(2, "tokenizer"), HasSubstr("train"));
  EXPECT_THAT(failure(1, "tokenizer train --vocab-size 300 --output o nothing"),
              HasSubstr("nothing: no such file"));
  WriteFileAtomically(directory_.path() / "text", "text");
  // Before the work: no line of progress comes first.
  EXPECT_THAT(failure(2, "tokenizer train --vocab-size 100 --output o text"),
              StartsWith("adder: a vocabulary of 100 tokens, expected 257"));
  EXPECT_THAT(failure(2, "tokenizer train --vocab-size 300 --special a --output o text"),
              HasSubstr("\"a\" cannot be a special token"));
  EXPECT_THAT(failure(1, "tokenizer train --vocab-size 300 --output text/o text"),
              HasSubstr("text/o: Not a directory"));
  std::filesystem::create_directories(directory_.path() / "o/tokenizer.json");
  EXPECT_THAT(failure(1, "tokenizer train --vocab-size 300 --output o text"),
              HasSubstr("o/tokenizer.json: is a directory"));
}

TEST_F(TokenizeCommandTest, TrainsATokenizer) {
  std::string text;
  for (int i = 0; i < 200; ++i) text += "the snake sleeps in the tree\n";
  WriteFileAtomically(directory_.path() / "text", text);
  EXPECT_THAT(
      Output("tokenizer train --vocab-size 270 --special '<a>' --special '<b>' --output out "
             "text"),
      HasSubstr("270 tokens, 12 merges from 7 different words"));
  EXPECT_EQ(Output("tokenize --model out --ids '<b><a>'"), "1 0\n");
  EXPECT_EQ(Output("tokenize --model out --count ' the'"), "1\n");
  EXPECT_TRUE(std::filesystem::exists(directory_.path() / "out/tokenizer_config.json"));
}

}  // namespace
}  // namespace adder
