// Fuzzes GGUF headers: whatever is accepted must lie in the file.
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>

#include "adder/core/error.h"
#include "adder/formats/gguf.h"

namespace {

void Parse(std::span<const std::byte> file) {
  try {
    const adder::GgufHeader header = adder::GgufHeader::Parse(file, "fuzz");
    for (const auto& entry : header.tensors) {
      const auto bytes =
          static_cast<size_t>(adder::DTypeBytes(entry.dtype, entry.shape.elements()));
      if (entry.begin > file.size() || bytes > file.size() - entry.begin) std::abort();
    }
    for (const auto& [key, value] : header.metadata) value.ToString();
  } catch (const adder::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  Parse(bytes);
  // The same bytes as metadata and descriptions after a header of one each, before some data.
  std::string file("GGUF\3\0\0\0\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0", 24);
  file.append(reinterpret_cast<const char*>(data), size);
  file.append(256, '\0');
  Parse(std::as_bytes(std::span(file)));
  return 0;
}
