// Writes a zip archive whose entries are stored as they are, each beginning at a multiple of 64
// bytes, so that tensors in it can be mapped. Zip64 where sizes need it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "adder/formats/file.h"

namespace adder {

class ZipWriter {
 public:
  static constexpr uint64_t kAlignment = 64;

  // An AtomicFile: nothing is seen before Commit(). Throws kIo, kNotFound.
  explicit ZipWriter(const std::filesystem::path& path) : file_(path) {}

  // Throw kIo. `name` has at most 65535 bytes.
  void Add(std::string_view name, std::span<const std::byte> content);
  void Add(std::string_view name, std::string_view content) {
    Add(name, std::as_bytes(std::span(content)));
  }
  void Commit();

 private:
  struct Entry {
    std::string name;
    uint64_t size;
    uint64_t offset;  // of its local header
    uint32_t checksum;
  };

  void Write(std::string_view bytes);

  AtomicFile file_;
  uint64_t position_ = 0;
  std::vector<Entry> entries_;
};

}  // namespace adder
