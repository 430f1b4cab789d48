#include "adder/text/byte_level.h"

#include <array>

#include "adder/text/utf8.h"

namespace adder {
namespace {

struct Alphabet {
  std::array<std::string, 256> characters;
  std::array<int, 0x200> bytes;  // by code; -1: no byte's

  Alphabet() {
    // GPT-2: printable Latin-1 stands for itself, the other bytes in order for U+0100, U+0101, ...
    const auto printable = [](char32_t b) {
      return (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
    };
    bytes.fill(-1);
    char32_t next = 0x100;
    for (char32_t byte = 0; byte < 256; ++byte) {
      const char32_t code = printable(byte) ? byte : next++;
      AppendUtf8(code, &characters[byte]);
      bytes[code] = static_cast<int>(byte);
    }
  }
};

const Alphabet& GetAlphabet() {
  static const Alphabet kAlphabet;
  return kAlphabet;
}

}  // namespace

const std::string& ByteLevelCharacter(unsigned char byte) { return GetAlphabet().characters[byte]; }

bool ByteLevelDecode(std::string_view text, std::string* bytes) {
  const Alphabet& alphabet = GetAlphabet();
  const size_t size = bytes->size();
  while (!text.empty()) {
    const Utf8Character character = ReadUtf8(text.data());
    const int byte = character.code < alphabet.bytes.size() ? alphabet.bytes[character.code] : -1;
    if (byte < 0) {
      bytes->resize(size);
      return false;
    }
    *bytes += static_cast<char>(byte);
    text.remove_prefix(character.length);
  }
  return true;
}

}  // namespace adder
