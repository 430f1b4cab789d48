#include <utility>

#include "adder/text/tokenizer.h"

namespace adder {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

// A character's length by its first byte, and the range of its second byte, which is narrower than
// 80..BF where overlong forms, surrogates or values past U+10FFFF lie (Unicode, table 3-7).
struct Sequence {
  size_t length;  // 0: no character begins with this byte
  unsigned char second_low = 0x80;
  unsigned char second_high = 0xbf;
};

Sequence SequenceOf(unsigned char first) {
  if (first < 0x80) return {1};
  if (first < 0xc2) return {0};
  if (first < 0xe0) return {2};
  if (first == 0xe0) return {3, 0xa0, 0xbf};
  if (first == 0xed) return {3, 0x80, 0x9f};
  if (first < 0xf0) return {3};
  if (first == 0xf0) return {4, 0x90, 0xbf};
  if (first < 0xf4) return {4};
  if (first == 0xf4) return {4, 0x80, 0x8f};
  return {0};
}

}  // namespace

std::string Utf8Stream::Push(std::string_view bytes) {
  pending_ += bytes;
  const std::string input = std::exchange(pending_, {});
  std::string output;
  size_t begin = 0;
  while (begin < input.size()) {
    const Sequence sequence = SequenceOf(static_cast<unsigned char>(input[begin]));
    size_t end = begin + 1;
    while (end < input.size() && end - begin < sequence.length) {
      const auto byte = static_cast<unsigned char>(input[end]);
      const bool second = end - begin == 1;
      if (byte < (second ? sequence.second_low : 0x80) ||
          byte > (second ? sequence.second_high : 0xbf)) {
        break;
      }
      ++end;
    }
    if (end - begin == sequence.length) {
      output.append(input, begin, sequence.length);
    } else if (sequence.length > 0 && end == input.size()) {
      pending_ = input.substr(begin);  // the rest may still come
    } else {
      output += kReplacement;
    }
    begin = end;
  }
  return output;
}

std::string Utf8Stream::Finish() {
  // What is pending is the beginning of one character.
  return std::exchange(pending_, {}).empty() ? std::string() : std::string(kReplacement);
}

}  // namespace adder
