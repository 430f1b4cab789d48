// safetensors: a JSON header and raw little-endian tensors. Files are hostile until checked: header
// length, every offset, dtype and shape is checked against the file before any element is touched;
// overlaps, holes, bytes that belong to no tensor and duplicate names are refused.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "adder/core/tensor.h"

namespace adder {

// What a file says of itself, checked against its size.
struct SafetensorsHeader {
  struct Entry {
    std::string name;
    DType dtype;
    Shape shape;
    size_t begin;  // byte offset in the file
  };

  std::vector<Entry> tensors;  // in the order of their bytes
  std::map<std::string, std::string> metadata;

  // Reads the header of a whole file in memory. `source` is what messages call it. Throws kCorrupt
  // for whatever the format forbids, kUnsupported for a dtype or rank that Adder does not have.
  static SafetensorsHeader Parse(std::span<const std::byte> file, std::string_view source);
};

// A mapped file. Its tensors are views of the mapping (private: writing to one does not reach the
// file) and keep it alive. A tensor that does not lie at a multiple of its element size is copied.
class SafetensorsFile {
 public:
  // Throws kNotFound, kIo or kCorrupt with the file and the tensor named; kUnsupported for a valid
  // dtype that Adder does not have.
  static SafetensorsFile Open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  // Name → tensor, sorted by name.
  const std::map<std::string, Tensor>& tensors() const { return tensors_; }
  bool Contains(const std::string& name) const { return tensors_.contains(name); }
  // Throws kNotFound naming file and tensor.
  const Tensor& Get(const std::string& name) const;
  // The "__metadata__" strings.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  std::filesystem::path path_;
  std::map<std::string, Tensor> tensors_;
  std::map<std::string, std::string> metadata_;
};

// Writes a file (to a temporary name, synced, renamed), tensor by tensor, without a second copy of
// a large one. The data begins at a multiple of 64 bytes, and the tensors follow by decreasing
// alignment of their sizes (in the given order where equal): so that, without the holes that other
// readers refuse, a tensor of a multiple of 64 bytes lies at one, and every tensor at a multiple of
// its element size. Throws kIo; kInvalidArgument for a duplicate or reserved name, a name that is
// not UTF-8 or an undefined tensor.
void WriteSafetensors(const std::filesystem::path& path,
                      std::span<const std::pair<std::string, Tensor>> tensors,
                      const std::map<std::string, std::string>& metadata = {});

}  // namespace adder
