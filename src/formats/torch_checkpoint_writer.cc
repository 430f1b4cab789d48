// What torch.save writes for a dict of tensors: a pickle (protocol 2) that torch.load reads with
// weights_only too, and an entry for each tensor's elements.
#include <fmt/format.h>

#include "adder/core/error.h"
#include "adder/formats/torch_checkpoint.h"
#include "adder/formats/zip_writer.h"

namespace adder {
namespace {

// The storage class of PyTorch that holds such elements.
std::string_view StorageClass(DType dtype, const std::string& name) {
  switch (dtype) {
    case DType::kF64:
      return "DoubleStorage";
    case DType::kF32:
      return "FloatStorage";
    case DType::kF16:
      return "HalfStorage";
    case DType::kBF16:
      return "BFloat16Storage";
    case DType::kI64:
      return "LongStorage";
    case DType::kI32:
      return "IntStorage";
    case DType::kI16:
      return "ShortStorage";
    case DType::kI8:
      return "CharStorage";
    case DType::kU8:
      return "ByteStorage";
    case DType::kBool:
      return "BoolStorage";
    default:
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("tensor {}: PyTorch has no {}", name, DTypeName(dtype)));
  }
}

// Opcodes of the pickle protocol, with their operands.
std::string Global(std::string_view module, std::string_view name) {
  return fmt::format("c{}\n{}\n", module, name);
}
std::string LittleEndian(uint64_t value, size_t bytes) {
  std::string text;
  for (size_t i = 0; i < bytes; ++i) text.push_back(static_cast<char>(value >> (8 * i)));
  return text;
}
std::string Text(std::string_view text) {  // BINUNICODE
  return fmt::format("X{}{}", LittleEndian(text.size(), 4), text);
}
std::string Integer(int64_t value) {  // BININT, or LONG1 of eight bytes
  const auto bits = static_cast<uint64_t>(value);
  if (value < int64_t{1} << 31) return fmt::format("J{}", LittleEndian(bits, 4));
  return fmt::format("\x8a\x08{}", LittleEndian(bits, 8));
}
std::string Tuple(std::string_view items) { return fmt::format("({}t", items); }
std::string EmptyOrderedDict() { return Global("collections", "OrderedDict") + ")R"; }

std::string PickledTensor(const std::string& name, const Tensor& tensor, size_t number) {
  std::string sizes;
  std::string strides;
  int64_t stride = tensor.elements();
  for (const int64_t size : tensor.shape().dims()) {
    sizes += Integer(size);
    stride = size == 0 ? 1 : stride / size;
    strides += Integer(stride);
  }
  const std::string storage =
      Tuple(Text("storage") + Global("torch", StorageClass(tensor.dtype(), name)) +
            Text(std::to_string(number)) + Text("cpu") + Integer(tensor.elements())) +
      "Q";  // a persistent id
  constexpr const char* kFalse = "\x89";
  return Global("torch._utils", "_rebuild_tensor_v2") +
         Tuple(storage + Integer(0) + Tuple(sizes) + Tuple(strides) + kFalse + EmptyOrderedDict()) +
         "R";
}

}  // namespace

void WriteTorchCheckpoint(const std::filesystem::path& path,
                          std::span<const std::pair<std::string, Tensor>> tensors) {
  std::string pickle = "\x80\x02" + EmptyOrderedDict() + "(";
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto& [name, tensor] = tensors[i];
    pickle += Text(name) + PickledTensor(name, tensor, i);
  }
  pickle += "u.";

  const std::string root = path.stem().string() + "/";
  ZipWriter zip(path);
  zip.Add(root + "data.pkl", pickle);
  zip.Add(root + "byteorder", "little");
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Tensor& tensor = tensors[i].second;
    const Tensor dense = tensor.contiguous() ? tensor : tensor.Clone();
    zip.Add(root + "data/" + std::to_string(i),
            {static_cast<const std::byte*>(dense.raw()), static_cast<size_t>(dense.bytes())});
  }
  zip.Add(root + "version", "3\n");
  zip.Commit();
}

}  // namespace adder
