// Prompts in lines and in JSON lines; what is neither is named with its line.
#include "adder/infer/prompts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "adder/core/error.h"

namespace adder {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string MessageOf(std::string_view text, bool json) {
  try {
    ParsePrompts(text, json, "file");
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(PromptsTest, LinesOfText) {
  EXPECT_THAT(ParsePrompts("one\n\ntwo\r\n three", false, "file"),
              ElementsAre("one", "two", " three"));
  EXPECT_THAT(ParsePrompts("\"x\"\n", false, "file"), ElementsAre("\"x\""));
  EXPECT_EQ(MessageOf("", false), "file: no prompt in the file");
  EXPECT_EQ(MessageOf("\n\r\n", false), "file: no prompt in the file");
}

TEST(PromptsTest, LinesOfJson) {
  EXPECT_THAT(ParsePrompts("\"a\\nb\"\n{\"id\": 1, \"prompt\": \"c\"}\r\n\"\"", true, "file"),
              ElementsAre("a\nb", "c", ""));
  EXPECT_THAT(MessageOf("\"a\"\n\n{\"text\": \"b\"}\n", true), HasSubstr("file, line 3: expected"));
  EXPECT_THAT(MessageOf("{\"prompt\": 5}", true), HasSubstr("file, line 1: expected"));
  EXPECT_THAT(MessageOf("\"a\"\n\"b\n", true), HasSubstr("file, line 2"));
}

}  // namespace
}  // namespace adder
