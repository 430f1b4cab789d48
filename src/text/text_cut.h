// Where long text may be cut so that its parts give the words of the whole.
#pragma once

#include <bitset>
#include <cstddef>
#include <string_view>

namespace adder {

// The length of a first part of `text`: up to a space between an ASCII character that is neither
// white space nor one of `not_behind`, and an ASCII letter; the last such place among the first
// `bytes` bytes, else the first one after them, else all. There a word of GPT-2's kind begins, no
// normal form reaches across, and all is valid UTF-8 that was.
size_t LengthBeforeWord(std::string_view text, size_t bytes,
                        const std::bitset<256>& not_behind = {});

}  // namespace adder
