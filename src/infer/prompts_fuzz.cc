// Fuzzes files of prompts: every prompt of lines is a part of the file.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "adder/core/error.h"
#include "adder/infer/prompts.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  for (const bool json : {false, true}) {
    try {
      for (const auto& prompt : adder::ParsePrompts(text, json, "fuzz")) {
        if (!json && text.find(prompt) == std::string_view::npos) std::abort();
      }
    } catch (const adder::Error&) {
    }
  }
  return 0;
}
