// White space as Python's str methods and its regular expressions' \s know it, in UTF-8 text: the
// published evaluations are defined by such programs. Bytes that are no UTF-8 are not white space.
#pragma once

#include <cstdint>
#include <string_view>

namespace adder {

// Without the white space at the end / at both ends: str.rstrip(), str.strip().
std::string_view TrimEnd(std::string_view text);
std::string_view Trim(std::string_view text);

// Pieces of the text between its runs of white space: len(re.split(r"\s+", text)). Of an empty text
// one; white space at the beginning or end adds an empty piece there.
int64_t CountWords(std::string_view text);

}  // namespace adder
