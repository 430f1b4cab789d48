// The words of GPT-2's pattern, which GPT-NeoX and most byte-level tokenizers share, without a
// regular expression:
//     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "adder/text/unicode.h"
#include "adder/text/utf8.h"

namespace adder {

namespace gpt2 {

enum Class : uint8_t { kOther, kLetter, kNumber, kSpace, kNotAscii };

constexpr std::array<Class, 256> MakeByteClasses() {
  std::array<Class, 256> classes = {};
  for (int byte = 0; byte < 256; ++byte) {
    Class c = kOther;
    if ((byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z')) c = kLetter;
    if (byte >= '0' && byte <= '9') c = kNumber;
    if (byte == ' ' || (byte >= '\t' && byte <= '\r')) c = kSpace;
    if (byte >= 0x80) c = kNotAscii;
    classes[static_cast<size_t>(byte)] = c;
  }
  return classes;
}
inline constexpr std::array<Class, 256> kByteClasses = MakeByteClasses();

struct Character {
  Class kind;
  size_t length;
};

inline Character Read(const char* at) {
  const Class kind = kByteClasses[static_cast<unsigned char>(*at)];
  if (kind != kNotAscii) return {kind, 1};
  const Utf8Character character = ReadUtf8(at);
  if (IsLetter(character.code)) return {kLetter, character.length};
  if (IsNumber(character.code)) return {kNumber, character.length};
  if (IsWhiteSpace(character.code)) return {kSpace, character.length};
  return {kOther, character.length};
}

}  // namespace gpt2

// Calls word(offset, length) for each word of valid UTF-8, from left to right; they cover it all.
template <class Word>
void ForEachGpt2Word(std::string_view text, Word&& word) {
  const char* const begin = text.data();
  const char* const end = begin + text.size();
  const char* at = begin;
  while (at < end) {
    const char* const start = at;
    const auto left = static_cast<size_t>(end - at);
    if (*at == '\'' && left >= 2) {
      const char c = at[1];
      size_t length = 0;
      if (c == 's' || c == 'd' || c == 'm' || c == 't') length = 2;
      if (left >= 3 && ((c == 'l' && at[2] == 'l') || (c == 'v' && at[2] == 'e') ||
                        (c == 'r' && at[2] == 'e'))) {
        length = 3;
      }
      if (length > 0) {
        word(static_cast<size_t>(start - begin), length);
        at += length;
        continue;
      }
    }
    if (*at == ' ' && left >= 2) ++at;
    gpt2::Character first = gpt2::Read(at);
    if (first.kind == gpt2::kSpace) {
      // A run of spaces; the last of them is left to the word after it.
      at = start;
      const char* last = at;
      while (at < end) {
        const gpt2::Character next = gpt2::Read(at);
        if (next.kind != gpt2::kSpace) break;
        last = at;
        at += next.length;
      }
      if (at < end && last > start) at = last;
    } else {
      at += first.length;
      while (at < end) {
        const gpt2::Class kind = gpt2::kByteClasses[static_cast<unsigned char>(*at)];
        if (kind == first.kind) {
          ++at;
          continue;
        }
        if (kind != gpt2::kNotAscii) break;
        const gpt2::Character next = gpt2::Read(at);
        if (next.kind != first.kind) break;
        at += next.length;
      }
    }
    word(static_cast<size_t>(start - begin), static_cast<size_t>(at - start));
  }
}

}  // namespace adder
