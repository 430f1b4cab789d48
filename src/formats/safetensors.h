// safetensors: a JSON header and raw little-endian tensors. Files are hostile until checked: header
// length, every offset, dtype and shape is checked against the file before any element is touched,
// overlapping or out-of-range tensors and duplicate names are refused.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "adder/core/tensor.h"

namespace adder {

// A mapped file. Its tensors are views of the mapping (private: writing to one does not reach the
// file) and keep it alive. Unaligned tensors are copied.
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

// Writes a file (to a temporary name, synced, renamed). Tensors keep their order; each begins at a
// multiple of 64 bytes. Throws kIo, kInvalidArgument for a duplicate name.
void WriteSafetensors(const std::filesystem::path& path,
                      std::span<const std::pair<std::string, Tensor>> tensors,
                      const std::map<std::string, std::string>& metadata = {});

}  // namespace adder
