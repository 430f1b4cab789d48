// Fuzzes UTF-8 streaming: wherever the bytes are cut, the text is the same and valid.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "adder/text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  adder::Utf8Stream whole;
  std::string expected = whole.Push(bytes);
  expected += whole.Finish();
  adder::Utf8Stream single;
  std::string text;
  for (const char byte : bytes) text += single.Push({&byte, 1});
  text += single.Finish();
  if (text != expected) std::abort();
  // Valid text passes unchanged, and this is valid.
  adder::Utf8Stream again;
  if (again.Push(expected) != expected || !again.Finish().empty()) std::abort();
  return 0;
}
