// JSON values and typed fields: what is accepted, what is refused, and how errors read.
#include "adder/formats/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>

#include "adder/core/error.h"

namespace adder {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

std::string MessageOf(const std::function<void()>& call, ErrorCode code = ErrorCode::kCorrupt) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

std::string ParseError(std::string_view text) {
  return MessageOf([&] { JsonValue::Parse(text, "x.json"); });
}

TEST(JsonValueTest, ParsesEveryKind) {
  const JsonValue value = JsonValue::Parse(
      R"( {"b": [true, false, null], "a": {"é\n\u00e9\ud83d\ude00": -12}, "d": 0.1} )", "x.json");
  ASSERT_NE(value.AsObject(), nullptr);
  ASSERT_EQ(value.AsObject()->size(), 3u);
  const JsonValue::Array& array = *value.Find("b")->AsArray();
  EXPECT_TRUE(*array[0].AsBool());
  EXPECT_FALSE(*array[1].AsBool());
  EXPECT_TRUE(array[2].is_null());
  EXPECT_EQ(*value.Find("a")->Find("é\né😀")->AsInt(), -12);
  double number = 0;
  EXPECT_TRUE(value.Find("d")->AsDouble(&number));
  EXPECT_EQ(number, 0.1);
  EXPECT_EQ(value.Find("c"), nullptr);
  EXPECT_EQ(value.Find("a")->AsArray(), nullptr);
}

TEST(JsonValueTest, NumbersAreExact) {
  const auto number = [](std::string_view text) {
    double value = NAN;
    EXPECT_TRUE(JsonValue::Parse(text, "x").AsDouble(&value)) << text;
    return value;
  };
  // Values whose nearest double is easily missed by one unit.
  EXPECT_EQ(number("1e-05"), 1e-05);
  EXPECT_EQ(number("0.0001"), 0.0001);
  EXPECT_EQ(number("2.2250738585072011e-308"), 2.2250738585072011e-308);
  EXPECT_EQ(number("9007199254740993.0"), 9007199254740992.0);
  EXPECT_EQ(number("7.3177701707893310e+15"), 7.3177701707893310e+15);
  EXPECT_EQ(number("123456789012345678901234567890"), 123456789012345678901234567890.0);
  EXPECT_EQ(number("1e-9999"), 0.0);
  EXPECT_EQ(*JsonValue::Parse("9223372036854775807", "x").AsInt(), INT64_MAX);
  EXPECT_EQ(*JsonValue::Parse("-9223372036854775808", "x").AsInt(), INT64_MIN);
  EXPECT_EQ(JsonValue::Parse("9223372036854775808", "x").AsInt(), nullptr);
  EXPECT_EQ(number("18446744073709551615"), 18446744073709551615.0);
  EXPECT_EQ(JsonValue::Parse("1.0", "x").AsInt(), nullptr);
  EXPECT_THAT(ParseError("1e999"), HasSubstr("\"1e999\" is out of range"));
}

TEST(JsonValueTest, ErrorsNameLineAndColumn) {
  EXPECT_THAT(ParseError("{\n  \"a\": 1,\n  \"b\" 2\n}"), StartsWith("x.json:3:7: not valid JSON"));
  EXPECT_THAT(ParseError("{\"a\": 1} x"), StartsWith("x.json:1:10: not valid JSON: "));
  EXPECT_THAT(ParseError(R"({"a": {"k": 1, "b": 2, "k": 3}})"),
              HasSubstr("the key \"k\" occurs twice"));
}

TEST(JsonValueTest, RefusesWhatIsNotStrictJson) {
  for (const std::string_view text : {"",
                                      " ",
                                      "{",
                                      "[1,]",
                                      "{\"a\":1,}",
                                      "{'a':1}",
                                      "{a:1}",
                                      "01",
                                      "+1",
                                      ".5",
                                      "1.",
                                      "nan",
                                      "NaN",
                                      "Infinity",
                                      "tru",
                                      "\"\n\"",
                                      "\"\\x\"",
                                      "\"\\ud800\"",
                                      "\"\\ud800x\"",
                                      "\"",
                                      "[1 2]",
                                      "// c\n1",
                                      "1 2",
                                      "\xef\xbb\xbf{}",
                                      "\"\xff\"",
                                      "\"\xc0\x80\"",
                                      "\"\xed\xa0\x80\"",
                                      "\"\xf4\x90\x80\x80\"",
                                      "\"\xe2\x82\""}) {
    ParseError(text);
  }
  EXPECT_EQ(*JsonValue::Parse("[\"a\\u0000b\"]", "x").AsArray()->at(0).AsString(),
            std::string("a\0b", 3));
  const auto nested = [](size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
  };
  EXPECT_NO_THROW(JsonValue::Parse(nested(32), "x"));
  ParseError(nested(33));
  ParseError(nested(1000000));
}

TEST(JsonValueTest, WritesWhatItReads) {
  const JsonValue value(JsonValue::Object{
      {"name", "tab\t\"quote\" \\ é \x01"},
      {"list", JsonValue::Array{1, -2.5, 1.0, 1e-5, 1e300, true, JsonValue(), "x"}},
      {"empty", JsonValue::Object{}},
      {"none", JsonValue::Array{}}});
  for (const int indent : {0, 2}) {
    EXPECT_EQ(JsonValue::Parse(value.ToText(indent), "x"), value) << value.ToText(indent);
  }
  EXPECT_EQ(JsonValue(JsonValue::Object{{"b", 1.0}, {"a", JsonValue::Array{true}}}).ToText(2),
            "{\n  \"a\": [\n    true\n  ],\n  \"b\": 1.0\n}");
  EXPECT_THROW(JsonValue(NAN).ToText(), Error);
  EXPECT_THROW(JsonValue(JsonValue::Object{{"a", 1}, {"a", 2}}), Error);
}

TEST(JsonValueTest, QuotesForMessages) {
  EXPECT_EQ(JsonQuote("a\x1b[2J"), "\"a\\u001b[2J\"");
  EXPECT_EQ(JsonQuote("abcdef", 3), "\"abc…\"");
  EXPECT_EQ(JsonQuote("aééé", 4), "\"aé…\"");
}

TEST(JsonObjectTest, ReadsTypedFields) {
  const JsonObject config = JsonObject::Parse(
      R"({"i": 3, "d": 0.5, "b": true, "s": "text", "n": null, "l": [1, 2], "o": {"i": 7}})",
      "config.json");
  EXPECT_EQ(config.Int("i"), 3);
  EXPECT_EQ(config.PositiveInt("i"), 3);
  EXPECT_EQ(config.Double("i"), 3.0);
  EXPECT_EQ(config.Double("d", 0.0, 1.0), 0.5);
  EXPECT_TRUE(config.Bool("b"));
  EXPECT_EQ(config.String("s"), "text");
  EXPECT_EQ(config.Array("l").size(), 2u);
  EXPECT_EQ(config.Object("o").Int("i"), 7);
  EXPECT_EQ(config.IntOr("n", -1), -1);
  EXPECT_EQ(config.IntOr("i", -1), 3);
  EXPECT_EQ(config.DoubleOr("x", 2.5), 2.5);
  EXPECT_TRUE(config.BoolOr("x", true));
  EXPECT_EQ(config.StringOr("x", "y"), "y");
  EXPECT_FALSE(config.Has("n"));
  EXPECT_TRUE(config.Has("s"));
}

TEST(JsonObjectTest, ErrorsSayWhatStandsThereAndWhatWasExpected) {
  const JsonObject config = JsonObject::Parse(
      R"({"d_model": "abc", "i": 0, "d": 1.5, "o": {"x": [1]}, "b": 1})", "config.json");
  EXPECT_EQ(MessageOf([&] { config.PositiveInt("d_model"); }),
            "config.json: field \"d_model\" is \"abc\", expected a positive integer");
  EXPECT_EQ(MessageOf([&] { config.PositiveInt("i"); }),
            "config.json: field \"i\" is 0, expected a positive integer");
  EXPECT_EQ(MessageOf([&] { config.Int("d"); }),
            "config.json: field \"d\" is 1.5, expected an integer");
  EXPECT_EQ(MessageOf([&] { config.Int("i", 2, 8); }),
            "config.json: field \"i\" is 0, expected an integer from 2 to 8");
  EXPECT_EQ(MessageOf([&] { config.Double("d", 0.0, 1.0); }),
            "config.json: field \"d\" is 1.5, expected a number from 0 to 1");
  EXPECT_EQ(MessageOf([&] { config.Int("missing"); }),
            "config.json: field \"missing\" is missing, expected an integer");
  EXPECT_EQ(MessageOf([&] { config.Object("o").String("x"); }),
            "config.json: field \"o.x\" is an array, expected a string");
  EXPECT_EQ(MessageOf([&] { config.BoolOr("b", true); }),
            "config.json: field \"b\" is 1, expected true or false");
  EXPECT_EQ(MessageOf([&] { config.Fail("i", "more", ErrorCode::kUnsupported); },
                      ErrorCode::kUnsupported),
            "config.json: field \"i\" is 0, expected more");
  EXPECT_THAT(MessageOf([] { JsonObject::Parse("[1]", "x.json"); }),
              HasSubstr("x.json: the file is an array, expected a JSON object"));
  MessageOf([] { JsonObject::Read("/nonexistent/config.json"); }, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace adder
