#include "adder/formats/byte_reader.h"

#include <fmt/format.h>

#include <bit>

#include "adder/core/error.h"

namespace adder {

static_assert(std::endian::native == std::endian::little, "files hold little-endian values");

void ByteReader::Seek(uint64_t position, std::string_view what) {
  if (position > bytes_.size()) {
    Fail(
        fmt::format("{} should be at byte {}, but the file has {}", what, position, bytes_.size()));
  }
  position_ = static_cast<size_t>(position);
}

std::span<const std::byte> ByteReader::Bytes(uint64_t count, std::string_view what) {
  if (count > remaining()) {
    Fail(fmt::format("ends in the middle of {} ({} bytes at byte {} of {})", what, count, position_,
                     bytes_.size()));
  }
  const auto bytes = bytes_.subspan(position_, static_cast<size_t>(count));
  position_ += static_cast<size_t>(count);
  return bytes;
}

void ByteReader::Fail(std::string_view problem) const {
  throw Error(ErrorCode::kCorrupt, fmt::format("{}: {}", source_, problem));
}

}  // namespace adder
