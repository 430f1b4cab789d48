// UTF-8 streaming: however the bytes are cut, the text is that of a plain decoder of the whole.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "adder/core/random.h"
#include "adder/text/tokenizer.h"

namespace adder {
namespace {

const char kBad[] = "\xef\xbf\xbd";

// The definition, on numbers: is `text` the encoding of one character, no longer than it need be,
// no surrogate, at most U+10FFFF?
bool IsCharacter(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  if (text.empty()) return false;
  size_t length = 0;
  uint32_t code = 0;
  if (byte(0) < 0x80) {
    length = 1, code = byte(0);
  } else if ((byte(0) & 0xe0) == 0xc0) {
    length = 2, code = byte(0) & 0x1f;
  } else if ((byte(0) & 0xf0) == 0xe0) {
    length = 3, code = byte(0) & 0x0f;
  } else if ((byte(0) & 0xf8) == 0xf0) {
    length = 4, code = byte(0) & 0x07;
  }
  if (text.size() != length) return false;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return false;
    code = code << 6 | (byte(i) & 0x3f);
  }
  constexpr uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  return code >= kSmallest[length] && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff);
}

// Can `text` be continued to a character?
bool IsBeginning(const std::string& text) {
  if (text.empty() || text.size() > 3) return false;
  // A continuation whose every byte is 80 or BF reaches the smallest and the largest code, and
  // whether one lies in the allowed range shows at these or, around the surrogates, at 9F and A0.
  for (const char* tail : {"\x80\x80\x80", "\xbf\xbf\xbf", "\x9f\xbf\xbf", "\xa0\x80\x80",
                           "\x8f\xbf\xbf", "\x90\x80\x80"}) {
    for (size_t more = 1; more <= 3; ++more) {
      if (IsCharacter(text + std::string(tail, more))) return true;
    }
  }
  return false;
}

std::string DecodeSlowly(std::string_view bytes) {
  std::string text;
  while (!bytes.empty()) {
    size_t length = 0;
    for (size_t n = 1; n <= 4 && n <= bytes.size() && length == 0; ++n) {
      if (IsCharacter(bytes.substr(0, n))) length = n;
    }
    if (length > 0) {
      text += bytes.substr(0, length);
    } else {
      length = 1;
      for (size_t n = 2; n <= 3 && n <= bytes.size(); ++n) {
        if (IsBeginning(std::string(bytes.substr(0, n)))) length = n;
      }
      text += kBad;
    }
    bytes.remove_prefix(length);
  }
  return text;
}

std::string Encode(uint32_t code) {
  std::string text;
  const int continuations = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  constexpr uint32_t kLead[] = {0, 0xc0, 0xe0, 0xf0};
  text += static_cast<char>(kLead[continuations] | code >> (6 * continuations));
  for (int i = continuations - 1; i >= 0; --i) {
    text += static_cast<char>(0x80 | (code >> (6 * i) & 0x3f));
  }
  return text;
}

std::string Stream(const std::vector<std::string_view>& pieces) {
  Utf8Stream stream;
  std::string text;
  for (const std::string_view piece : pieces) text += stream.Push(piece);
  return text + stream.Finish();
}

TEST(Utf8StreamTest, ReplacesAsUnicodeRecommends) {
  const auto decode = [](std::string_view bytes) { return ToUtf8(bytes); };
  const std::string bad = kBad;
  EXPECT_EQ(decode("aé€😀"), "aé€😀");
  EXPECT_EQ(decode("\xff"), bad);
  EXPECT_EQ(decode("\x80\xbf"), bad + bad);
  EXPECT_EQ(decode("\xc0\xaf"), bad + bad);                      // overlong "/"
  EXPECT_EQ(decode("\xe0\x80\xaf"), bad + bad + bad);            // overlong "/"
  EXPECT_EQ(decode("\xed\xa0\x80"), bad + bad + bad);            // U+D800
  EXPECT_EQ(decode("\xf4\x90\x80\x80"), bad + bad + bad + bad);  // U+110000
  EXPECT_EQ(decode("\xf0\x9f\x98"), bad);                        // three quarters of a character
  EXPECT_EQ(decode("\xf0\x9f\x98x"), bad + "x");
  EXPECT_EQ(decode("\xe2\x82\xe2\x82\xac"), bad + "€");
  // The example of the Unicode standard's table 3-11.
  EXPECT_EQ(decode("\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41"), bad + bad + bad + bad + "A");
  EXPECT_EQ(decode(std::string_view("a\0b", 3)), std::string("a\0b", 3));
}

TEST(Utf8StreamTest, HoldsBackNoMoreThanNeeded) {
  Utf8Stream stream;
  EXPECT_EQ(stream.Push("a\xf0"), "a");
  EXPECT_EQ(stream.pending(), "\xf0");
  EXPECT_EQ(stream.Push("\x9f\x98"), "");
  EXPECT_EQ(stream.Push("\x80 b"), "😀 b");
  EXPECT_EQ(stream.pending(), "");
  EXPECT_EQ(stream.Push("\xe2\x82"), "");
  EXPECT_EQ(stream.Push("x"), std::string(kBad) + "x");
  EXPECT_EQ(stream.Push("\xe2"), "");
  EXPECT_EQ(stream.Finish(), kBad);
  EXPECT_EQ(stream.Finish(), "");
  EXPECT_EQ(stream.Push("ok"), "ok");
}

TEST(Utf8StreamTest, EveryCharacterPassesAtEverySplit) {
  for (uint32_t code = 0; code <= 0x10ffff; code += code < 0x3000 ? 1 : 61) {
    if (code >= 0xd800 && code <= 0xdfff) continue;
    const std::string text = Encode(code);
    for (size_t split = 0; split <= text.size(); ++split) {
      const std::string_view view = text;
      ASSERT_EQ(Stream({view.substr(0, split), view.substr(split)}), text) << code;
    }
  }
}

TEST(Utf8StreamTest, EveryTwoBytesMatchTheDefinition) {
  // Before, between and after bytes that show what was taken along.
  for (int first = 0; first < 256; ++first) {
    for (int second = 0; second < 256; ++second) {
      for (const std::string tail : {"", "a", "\x80", "\x80\x80", "\xbf\xbf\xbf"}) {
        const std::string bytes =
            std::string{static_cast<char>(first), static_cast<char>(second)} + tail;
        ASSERT_EQ(Stream({bytes}), DecodeSlowly(bytes)) << first << " " << second;
      }
    }
  }
}

TEST(Utf8StreamTest, AnyBytesAtAnySplitMatchTheDefinition) {
  Random random(3);
  // Bytes from around the borders of the encoding's ranges, so that rare cases are not rare.
  const std::string alphabet(
      "\x00\x41\x7f\x80\x8f\x90\x9f\xa0\xbf\xc0\xc1\xc2\xdf\xe0\xe1\xec\xed\xee\xef\xf0\xf1\xf3\xf4"
      "\xf5\xff",
      25);
  for (int round = 0; round < 20000; ++round) {
    std::string bytes;
    const uint64_t length = random.NextBelow(12);
    for (uint64_t i = 0; i < length; ++i) bytes += alphabet[random.NextBelow(alphabet.size())];
    const std::string expected = DecodeSlowly(bytes);
    std::vector<std::string_view> pieces;
    std::string_view rest = bytes;
    while (!rest.empty()) {
      const size_t piece = std::min<size_t>(1 + random.NextBelow(4), rest.size());
      pieces.push_back(rest.substr(0, piece));
      rest.remove_prefix(piece);
    }
    ASSERT_EQ(Stream(pieces), expected);
    ASSERT_EQ(Stream({bytes}), expected);
  }
}

}  // namespace
}  // namespace adder
