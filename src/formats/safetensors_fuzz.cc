// Fuzzes the safetensors header: whatever is accepted must lie in the file, without hole or
// overlap.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>

#include "adder/core/error.h"
#include "adder/formats/safetensors.h"

namespace {

void Parse(std::span<const std::byte> file) {
  try {
    const adder::SafetensorsHeader header = adder::SafetensorsHeader::Parse(file, "fuzz");
    size_t end = header.tensors.empty() ? file.size() : header.tensors.front().begin;
    for (const auto& entry : header.tensors) {
      if (entry.begin != end) std::abort();
      end += static_cast<size_t>(entry.shape.elements() * adder::DTypeSize(entry.dtype));
    }
    if (end != file.size()) std::abort();
  } catch (const adder::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  Parse(bytes);
  // The same bytes as a header of the right length, before the bytes of some small tensors.
  const uint64_t length = size;
  std::string file(reinterpret_cast<const char*>(&length), sizeof length);
  file.append(reinterpret_cast<const char*>(data), size);
  for (const size_t data_bytes : {0, 8, 24}) {
    std::string whole = file;
    whole.append(data_bytes, '\0');
    Parse(std::as_bytes(std::span(whole)));
  }
  return 0;
}
