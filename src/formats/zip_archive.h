// The directory of a zip archive in memory, as checkpoints use it: entries are stored as they are,
// so that each is a range of the archive's bytes.
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string_view>

namespace adder {

class ZipArchive {
 public:
  struct Entry {
    size_t begin;  // byte offset in the archive
    size_t size;
  };

  // Reads the directory of an archive (zip64 too) and checks every offset against the archive's
  // size. `source` is what messages call it. Throws kCorrupt for what is no archive or contradicts
  // itself, kUnsupported for compressed or encrypted entries and archives in several parts.
  // Checksums are not compared: PyTorch can be told to leave them out.
  static ZipArchive Parse(std::span<const std::byte> archive, std::string_view source);

  // Name → where its bytes are. Names are views of the archive.
  const std::map<std::string_view, Entry>& entries() const { return entries_; }

 private:
  std::map<std::string_view, Entry> entries_;
};

}  // namespace adder
