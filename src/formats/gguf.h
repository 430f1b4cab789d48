// GGUF, llama.cpp's file format: metadata, a description of each tensor, and their bytes. Files are
// hostile until checked: counts, lengths, types, shapes and offsets against the file's size, before
// anything is allocated for them or any element is touched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "adder/core/tensor.h"

namespace adder {

// A metadata value: one of GGUF's scalar types, or an array of one of them.
class GgufValue {
 public:
  // In the order of GGUF's type numbers; kArray is 9.
  enum class Type : uint32_t {
    kU8,
    kI8,
    kU16,
    kI16,
    kU32,
    kI32,
    kF32,
    kBool,
    kString,
    kArray,
    kU64,
    kI64,
    kF64,
  };
  using Strings = std::vector<std::string>;
  using Integers = std::vector<int64_t>;
  using Doubles = std::vector<double>;

  // NOLINTBEGIN(google-explicit-constructor): a value is a GgufValue without a word.
  GgufValue(bool value) : type_(Type::kBool), value_(value) {}
  GgufValue(uint32_t value) : type_(Type::kU32), value_(static_cast<int64_t>(value)) {}
  GgufValue(int32_t value) : type_(Type::kI32), value_(static_cast<int64_t>(value)) {}
  GgufValue(float value) : type_(Type::kF32), value_(static_cast<double>(value)) {}
  GgufValue(std::string value) : type_(Type::kString), value_(std::move(value)) {}
  GgufValue(const char* value) : GgufValue(std::string(value)) {}
  GgufValue(Strings values) : type_(Type::kString), is_array_(true), value_(std::move(values)) {}
  // NOLINTEND(google-explicit-constructor)

  // Of any type: integers of every width, bools (0 or 1 in arrays), floats. Throw kInvalidArgument
  // for values that the type cannot hold.
  static GgufValue Integer(Type type, int64_t value);
  static GgufValue Double(Type type, double value);
  static GgufValue Array(Type type, Integers values);
  static GgufValue Array(Type type, Doubles values);

  // The scalar's type, or that of an array's elements.
  Type type() const { return type_; }
  bool is_array() const { return is_array_; }
  // Elements of an array; 1 for a scalar.
  size_t size() const;

  // The value when it has that type, else null. Integers of every width are int64_t; a u64 past its
  // range is clamped to it.
  const bool* AsBool() const { return std::get_if<bool>(&value_); }
  const int64_t* AsInt() const { return std::get_if<int64_t>(&value_); }
  const double* AsDouble() const { return std::get_if<double>(&value_); }
  const std::string* AsString() const { return std::get_if<std::string>(&value_); }
  const Strings* AsStrings() const { return std::get_if<Strings>(&value_); }
  const Integers* AsInts() const { return std::get_if<Integers>(&value_); }  // bools too
  const Doubles* AsDoubles() const { return std::get_if<Doubles>(&value_); }

  // "u32 5", "[4 string]": for messages.
  std::string ToString() const;

  friend bool operator==(const GgufValue&, const GgufValue&) = default;

 private:
  GgufValue(Type type, bool is_array,
            std::variant<bool, int64_t, double, std::string, Strings, Integers, Doubles> value)
      : type_(type), is_array_(is_array), value_(std::move(value)) {}

  Type type_;
  bool is_array_ = false;
  std::variant<bool, int64_t, double, std::string, Strings, Integers, Doubles> value_;
};

// What a file says of itself, checked against its size.
struct GgufHeader {
  struct Entry {
    std::string name;
    DType dtype;
    Shape shape;   // row-major, as everywhere in Adder: the reverse of what the file says
    size_t begin;  // byte offset in the file
  };

  uint32_t version = 0;
  std::map<std::string, GgufValue> metadata;
  std::vector<Entry> tensors;  // in the file's order

  // Reads the header of a whole file in memory. `source` is what messages call it. Throws kCorrupt
  // for what the format forbids; kUnsupported for versions but 2 and 3, big-endian files, tensors
  // of types but f64, f32, f16, bf16, i64, i32, i16, i8, q8_0, q4_0, q4_k and q6_k, named as
  // llama.cpp names them, and arrays of arrays.
  static GgufHeader Parse(std::span<const std::byte> file, std::string_view source);
};

// A mapped file. Its tensors are views of the mapping (private: writing to one does not reach the
// file) and keep it alive. A tensor that does not lie at a multiple of its element size is copied.
class GgufFile {
 public:
  // Throws kNotFound, kIo, and what GgufHeader::Parse throws.
  static GgufFile Open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  const std::map<std::string, GgufValue>& metadata() const { return metadata_; }
  // Name → tensor, sorted by name.
  const std::map<std::string, Tensor>& tensors() const { return tensors_; }
  bool Contains(const std::string& name) const { return tensors_.contains(name); }
  // Throws kNotFound naming file and tensor.
  const Tensor& Get(const std::string& name) const;

  // A metadata value, or null when the key is absent.
  const GgufValue* Find(const std::string& key) const;
  // Typed access: throw kNotFound for an absent key, kCorrupt for a value of another type or out of
  // range, naming file and key. Int accepts integers of every width.
  int64_t Int(const std::string& key, int64_t min, int64_t max) const;
  double Double(const std::string& key) const;  // integers too
  bool Bool(const std::string& key) const;
  const std::string& String(const std::string& key) const;
  const GgufValue::Strings& Strings(const std::string& key) const;
  // Throws kCorrupt "FILE: metadata KEY is VALUE, expected EXPECTED".
  [[noreturn]] void Fail(const std::string& key, std::string_view expected) const;

 private:
  std::filesystem::path path_;
  std::map<std::string, GgufValue> metadata_;
  std::map<std::string, Tensor> tensors_;
};

// Writes a GGUF file, version 3 (to a temporary name, synced, renamed), tensor by tensor in the
// given order, each at a multiple of 32 bytes; metadata in the given order, too. The key
// "general.alignment" is not to be given. Throws kIo; kInvalidArgument for a duplicate key or name,
// a name of more than 63 bytes (llama.cpp's limit), an undefined tensor, one without a dimension or
// with more than four, and dtypes that GGUF does not have (u8, bool).
void WriteGguf(const std::filesystem::path& path,
               std::span<const std::pair<std::string, GgufValue>> metadata,
               std::span<const std::pair<std::string, Tensor>> tensors);

}  // namespace adder
