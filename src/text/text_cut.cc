#include "adder/text/text_cut.h"

#include <algorithm>

namespace adder {
namespace {

bool IsAsciiSpace(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

bool IsAsciiLetter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

}  // namespace

size_t LengthBeforeWord(std::string_view text, size_t bytes, const std::bitset<256>& not_behind) {
  if (text.size() <= std::max<size_t>(bytes, 2)) return text.size();
  const auto is_cut = [&](size_t at) {
    const auto before = static_cast<unsigned char>(text[at - 1]);
    return text[at] == ' ' && IsAsciiLetter(text[at + 1]) && before < 0x80 &&
           !IsAsciiSpace(text[at - 1]) && !not_behind[before];
  };
  for (size_t at = std::min(bytes, text.size() - 2); at > 0; --at) {
    if (is_cut(at)) return at;
  }
  for (size_t at = bytes + 1; at + 1 < text.size(); ++at) {
    if (is_cut(at)) return at;
  }
  return text.size();
}

}  // namespace adder
