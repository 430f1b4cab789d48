// CRC-32C (Castagnoli), the checksum of TFRecord files.
#pragma once

#include <cstdint>
#include <string_view>

namespace adder {

// Of the bytes; Crc32c("123456789") is 0xe3069283.
uint32_t Crc32c(std::string_view bytes);

}  // namespace adder
