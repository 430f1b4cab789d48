// White space against what Python says of the same texts.
#include "adder/eval/whitespace.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>

namespace adder {
namespace {

using namespace std::string_view_literals;

// All characters c for which Python's c.isspace() holds.
constexpr std::string_view kSpaces[] = {"\t",     "\n",     "\v",     "\f",     "\r",     "\x1c",
                                        "\x1d",   "\x1e",   "\x1f",   " ",      "\u0085", "\u00a0",
                                        "\u1680", "\u2000", "\u2001", "\u2002", "\u2003", "\u2004",
                                        "\u2005", "\u2006", "\u2007", "\u2008", "\u2009", "\u200a",
                                        "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"};
// Neighbours of theirs, and bytes that are no UTF-8.
constexpr std::string_view kOthers[] = {"\x08", "\x0e",   "\x1b",     "!",      "\x7f",   "\u0084",
                                        "é",    "\u200b", "\u2027",   "\u2030", "\u2060", "\x85",
                                        "\xa0", "\xc2",   "\xe2\x80", "\0"sv};

TEST(Whitespace, IsWhatPythonStrips) {
  for (const std::string_view space : kSpaces) {
    const std::string text = std::string(space) + "a" + std::string(space) + "b" +
                             std::string(space) + std::string(space);
    EXPECT_EQ(Trim(text), text.substr(space.size(), 2 + space.size())) << space;
    EXPECT_EQ(TrimEnd(text), text.substr(0, 2 + 2 * space.size())) << space;
    EXPECT_EQ(CountWords(text), 4);  // '', a, b, ''
  }
  for (const std::string_view other : kOthers) {
    const std::string text = std::string(other) + "a" + std::string(other);
    EXPECT_EQ(Trim(text), text);
    EXPECT_EQ(TrimEnd(text), text);
    EXPECT_EQ(CountWords(text), 1);
  }
}

TEST(Whitespace, OfTextsWithoutWords) {
  EXPECT_EQ(Trim(""), "");
  EXPECT_EQ(Trim(" \t\u3000\n"), "");
  EXPECT_EQ(TrimEnd(" \u2003 "), "");
  EXPECT_EQ(CountWords(""), 1);      // ['']
  EXPECT_EQ(CountWords(" \n "), 2);  // ['', '']
}

TEST(Whitespace, CountsPiecesBetweenRuns) {
  EXPECT_EQ(CountWords("one"), 1);
  EXPECT_EQ(CountWords("one two\n\nthree"), 3);
  EXPECT_EQ(CountWords("one two \u00a0 three\n"), 4);
}

}  // namespace
}  // namespace adder
