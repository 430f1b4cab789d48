// Characters of UTF-8: what is valid, what follows, how one is written.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace adder {

// What a character's first byte says of it (Unicode, table 3-7): its length, and the range of its
// second byte, which is narrower than 80..BF where overlong forms, surrogates or values past
// U+10FFFF lie. Later bytes are 80..BF always.
struct Utf8Lead {
  size_t length;  // 0: no character begins with this byte
  unsigned char second_low = 0x80;
  unsigned char second_high = 0xbf;
};
Utf8Lead ReadUtf8Lead(unsigned char first);

// The length of the longest beginning of `text` that is whole UTF-8 characters.
size_t ValidUtf8Length(std::string_view text);

// The character at the beginning of valid UTF-8 that is not empty, and its length in bytes.
struct Utf8Character {
  char32_t code;
  size_t length;
};
inline Utf8Character ReadUtf8(const char* text) {
  const auto byte = [text](int i) {
    return static_cast<char32_t>(static_cast<unsigned char>(text[i]));
  };
  const char32_t first = byte(0);
  if (first < 0x80) return {first, 1};
  if (first < 0xe0) return {(first & 0x1f) << 6 | (byte(1) & 0x3f), 2};
  if (first < 0xf0) return {(first & 0x0f) << 12 | (byte(1) & 0x3f) << 6 | (byte(2) & 0x3f), 3};
  return {(first & 0x07) << 18 | (byte(1) & 0x3f) << 12 | (byte(2) & 0x3f) << 6 | (byte(3) & 0x3f),
          4};
}
// The last character of valid UTF-8 that is not empty.
Utf8Character ReadLastUtf8(std::string_view text);

void AppendUtf8(char32_t code, std::string* text);

}  // namespace adder
