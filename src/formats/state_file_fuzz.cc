// Fuzzes state files, as they are and behind a right checksum: what is accepted holds no more than
// the file does.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>

#include "adder/core/error.h"
#include "adder/formats/state_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto parse = [](std::span<const std::byte> file) {
    try {
      const adder::State state = adder::ParseState(file, "fuzz");
      if (state != adder::State(state)) std::abort();
      if (static_cast<size_t>(state.bytes()) > file.size()) std::abort();
    } catch (const adder::Error&) {
    }
  };
  parse(std::as_bytes(std::span(data, size)));
  if (size >= 8) {
    std::string sealed(reinterpret_cast<const char*>(data), size);
    const uint64_t checksum = XXH64(data, size - 8, 0);
    std::memcpy(sealed.data() + size - 8, &checksum, 8);
    parse(std::as_bytes(std::span(sealed)));
  }
  return 0;
}
