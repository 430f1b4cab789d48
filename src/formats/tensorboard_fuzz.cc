// Fuzzes event files, as they are and as a record behind right checksums: what is read lies in the
// file, and reads the same again.
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include "adder/core/error.h"
#include "adder/formats/crc32c.h"
#include "adder/formats/tensorboard.h"

namespace {

void Parse(std::string_view file) {
  try {
    size_t whole = 0;
    const auto events = adder::ParseTensorBoardEvents(file, &whole);
    if (whole > file.size()) std::abort();
    size_t again = 0;
    if (adder::ParseTensorBoardEvents(file.substr(0, whole), &again).size() != events.size() ||
        again != whole) {
      std::abort();
    }
  } catch (const adder::Error&) {
  }
}

void AppendCrc(std::string& file, std::string_view of) {
  const uint32_t crc = std::rotr(adder::Crc32c(of), 15) + 0xa282ead8u;
  file.append(reinterpret_cast<const char*>(&crc), sizeof crc);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string record(reinterpret_cast<const char*>(data), size);
  Parse(record);
  const uint64_t length = size;
  std::string framed(reinterpret_cast<const char*>(&length), sizeof length);
  AppendCrc(framed, framed);
  framed += record;
  AppendCrc(framed, record);
  Parse(framed);
  return 0;
}
