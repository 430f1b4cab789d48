// The 29 characters of str.isspace(), by their UTF-8 bytes.
#include "adder/eval/whitespace.h"

#include <algorithm>
#include <cstddef>

namespace adder {
namespace {

unsigned char Byte(std::string_view text, size_t i) { return static_cast<unsigned char>(text[i]); }

// Bytes of the white space character that the text begins with, or 0.
size_t SpaceAtBegin(std::string_view text) {
  if (text.empty()) return 0;
  const unsigned char first = Byte(text, 0);
  if (first < 0x80) {
    const bool space =
        first == ' ' || (first >= '\t' && first <= '\r') || (first >= 0x1c && first <= 0x1f);
    return space ? 1 : 0;
  }
  if (text.size() >= 2 && first == 0xc2) {
    return Byte(text, 1) == 0x85 || Byte(text, 1) == 0xa0 ? 2 : 0;  // U+0085, U+00A0
  }
  if (text.size() < 3) return 0;
  const int rest = Byte(text, 1) << 8 | Byte(text, 2);
  bool space = false;
  if (first == 0xe1) space = rest == 0x9a80;  // U+1680
  if (first == 0xe3) space = rest == 0x8080;  // U+3000
  if (first == 0xe2) {
    // U+2000 to U+200A, U+2028, U+2029, U+202F, U+205F
    space = (rest >= 0x8080 && rest <= 0x808a) || rest == 0x80a8 || rest == 0x80a9 ||
            rest == 0x80af || rest == 0x819f;
  }
  return space ? 3 : 0;
}

// The same of the character at the end.
size_t SpaceAtEnd(std::string_view text) {
  for (size_t bytes = 1; bytes <= std::min<size_t>(3, text.size()); ++bytes) {
    if (SpaceAtBegin(text.substr(text.size() - bytes)) == bytes) return bytes;
  }
  return 0;
}

}  // namespace

std::string_view TrimEnd(std::string_view text) {
  while (const size_t bytes = SpaceAtEnd(text)) text.remove_suffix(bytes);
  return text;
}

std::string_view Trim(std::string_view text) {
  while (const size_t bytes = SpaceAtBegin(text)) text.remove_prefix(bytes);
  return TrimEnd(text);
}

int64_t CountWords(std::string_view text) {
  int64_t words = 1;
  bool in_space = false;
  while (!text.empty()) {
    const size_t bytes = SpaceAtBegin(text);
    if (bytes > 0 && !in_space) ++words;
    in_space = bytes > 0;
    text.remove_prefix(std::max<size_t>(1, bytes));
  }
  return words;
}

}  // namespace adder
