// The alphabet of byte-level BPE: one printable character for every byte (GPT-2).
#pragma once

#include <string>
#include <string_view>

namespace adder {

// The UTF-8 character that stands for a byte in the vocabularies of byte-level tokenizers.
const std::string& ByteLevelCharacter(unsigned char byte);

// Appends the bytes that a text in this alphabet (valid UTF-8) stands for. False, with nothing
// appended, for a text with other characters.
bool ByteLevelDecode(std::string_view text, std::string* bytes);

}  // namespace adder
