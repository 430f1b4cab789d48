#include <utility>

#include "adder/text/tokenizer.h"
#include "adder/text/utf8.h"

namespace adder {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

}  // namespace

std::string Utf8Stream::Push(std::string_view bytes) {
  pending_ += bytes;
  const std::string input = std::exchange(pending_, {});
  std::string output;
  size_t begin = 0;
  while (begin < input.size()) {
    const Utf8Lead lead = ReadUtf8Lead(static_cast<unsigned char>(input[begin]));
    size_t end = begin + 1;
    while (end < input.size() && end - begin < lead.length) {
      const auto byte = static_cast<unsigned char>(input[end]);
      const bool second = end - begin == 1;
      if (byte < (second ? lead.second_low : 0x80) || byte > (second ? lead.second_high : 0xbf)) {
        break;
      }
      ++end;
    }
    if (end - begin == lead.length) {
      output.append(input, begin, lead.length);
    } else if (lead.length > 0 && end == input.size()) {
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

std::string ToUtf8(std::string_view bytes) {
  Utf8Stream stream;
  const std::string text = stream.Push(bytes);
  return text + stream.Finish();
}

}  // namespace adder
