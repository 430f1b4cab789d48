// Fuzzes tokenizer.json: what is accepted encodes every byte and gives it back.
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>

#include "adder/core/error.h"
#include "adder/text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    const std::unique_ptr<adder::Tokenizer> tokenizer = adder::Tokenizer::Parse(text, "fuzz");
    std::string back;
    for (const int32_t token : tokenizer->Encode(text)) back += tokenizer->Bytes(token);
    if (back != text) std::abort();
  } catch (const adder::Error&) {
  }
  return 0;
}
