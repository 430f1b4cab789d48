// The alphabet of byte-level BPE: one printable character for every byte (GPT-2).
#pragma once

#include <string>

namespace adder {

// The UTF-8 character that stands for a byte in the vocabularies of byte-level tokenizers.
std::string ByteLevelCharacter(unsigned char byte);

}  // namespace adder
