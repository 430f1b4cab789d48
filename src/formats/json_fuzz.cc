// Fuzzes JSON: what is accepted, written and read again is the same value.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "adder/core/error.h"
#include "adder/formats/json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  adder::JsonValue value;
  try {
    value = adder::JsonValue::Parse({reinterpret_cast<const char*>(data), size}, "fuzz");
  } catch (const adder::Error&) {
    return 0;
  }
  for (const int indent : {0, 2}) {
    if (adder::JsonValue::Parse(value.ToText(indent), "again") != value) std::abort();
  }
  return 0;
}
