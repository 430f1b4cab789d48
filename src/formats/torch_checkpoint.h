// PyTorch checkpoints (torch.save since PyTorch 1.6): a zip archive of a pickle that describes the
// tensors and of one entry for each storage. The pickle is read as data by a fixed list of what a
// checkpoint needs; nothing is executed, anything else in it is refused by name.
#pragma once

#include <cstddef>
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

// A mapped file. Its tensors are views of the mapping (private: writing to one does not reach the
// file, but reaches the tensors that share its storage) and keep it alive. A tensor whose elements
// do not lie in row-major order or not at a multiple of their size is copied.
//
// The tensors are those of a dict, by their keys. In dicts, lists and tuples inside it names are
// joined by dots ("state_dict.backbone.norm_f.weight", "moments.0"); numbers, texts and the like
// beside tensors are passed over.
class TorchCheckpoint {
 public:
  // Throws kNotFound, kIo or kCorrupt with the file and the tensor named; kUnsupported for the
  // format of PyTorch before 1.6, for big-endian or compressed files, for whatever the pickle asks
  // for beyond dicts of dense tensors of the dtypes f64, f32, f16, bf16, i64, i32, i16, i8, u8 and
  // bool, and for tensors of more than six dimensions or whose elements overlap.
  static TorchCheckpoint Open(const std::filesystem::path& path);
  // The same for a whole file in memory, which `owner` keeps alive. `path` is what messages call
  // it.
  static TorchCheckpoint Parse(std::span<std::byte> file, std::shared_ptr<const void> owner,
                               const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  // Name → tensor, sorted by name.
  const std::map<std::string, Tensor>& tensors() const { return tensors_; }
  bool Contains(const std::string& name) const { return tensors_.contains(name); }
  // Throws kNotFound naming file and tensor.
  const Tensor& Get(const std::string& name) const;

 private:
  std::filesystem::path path_;
  std::map<std::string, Tensor> tensors_;
};

// Writes a dict of tensors as torch.save does, atomically. Throws kIo, kUnsupported for a quantized
// tensor.
void WriteTorchCheckpoint(const std::filesystem::path& path,
                          std::span<const std::pair<std::string, Tensor>> tensors);

}  // namespace adder
