// Reads a binary file's little-endian values from memory, never past its end.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>

namespace adder {

// Source and bytes must outlive the reader and the views it gives.
class ByteReader {
 public:
  // `source` begins each message.
  ByteReader(std::span<const std::byte> bytes, std::string_view source)
      : bytes_(bytes), source_(source) {}

  size_t position() const { return position_; }
  size_t remaining() const { return bytes_.size() - position_; }
  std::string_view source() const { return source_; }
  // Throws kCorrupt when the position is past the end, naming `what` was looked for there.
  void Seek(uint64_t position, std::string_view what);

  // The next `count` bytes. Throws kCorrupt "source: ends in the middle of WHAT (…)".
  std::span<const std::byte> Bytes(uint64_t count, std::string_view what);
  std::string_view Text(uint64_t count, std::string_view what) {
    const auto bytes = Bytes(count, what);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  template <class T>
  requires std::integral<T> || std::floating_point<T> T Value(std::string_view what) {
    T value;
    std::memcpy(&value, Bytes(sizeof(T), what).data(), sizeof(T));
    return value;
  }

  // Throws kCorrupt "source: PROBLEM".
  [[noreturn]] void Fail(std::string_view problem) const;

 private:
  std::span<const std::byte> bytes_;
  std::string_view source_;
  size_t position_ = 0;
};

}  // namespace adder
