// The layout is that of ggml's docs/gguf.md: magic, version, counts, metadata, tensor descriptions,
// padding, the tensors' bytes, each at a multiple of general.alignment.
#include "adder/formats/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <set>

#include "adder/core/error.h"
#include "adder/formats/byte_reader.h"
#include "adder/formats/file.h"
#include "adder/formats/json.h"

namespace adder {
namespace {

using Type = GgufValue::Type;

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr uint32_t kNewestVersion = 3;
constexpr std::string_view kAlignmentKey = "general.alignment";
constexpr uint64_t kDefaultAlignment = 32;
// The least bytes that a metadata entry (key length, type, a byte) and a tensor's description (name
// length, dimensions, type, offset) take.
constexpr uint64_t kLeastEntryBytes = 8 + 4 + 1;
constexpr uint64_t kLeastTensorBytes = 8 + 4 + 4 + 8;
// What llama.cpp reads and what gguf.md allows.
constexpr uint64_t kMostKeyBytes = 65535;
constexpr size_t kMostNameBytes = 63;
constexpr uint32_t kMostDimensions = 4;

struct TensorType {
  uint32_t id;
  std::string_view name;
  DType dtype;
};
constexpr std::array<TensorType, 12> kTensorTypes = {{{0, "F32", DType::kF32},
                                                      {1, "F16", DType::kF16},
                                                      {2, "Q4_0", DType::kQ4_0},
                                                      {8, "Q8_0", DType::kQ8_0},
                                                      {12, "Q4_K", DType::kQ4_K},
                                                      {14, "Q6_K", DType::kQ6_K},
                                                      {24, "I8", DType::kI8},
                                                      {25, "I16", DType::kI16},
                                                      {26, "I32", DType::kI32},
                                                      {27, "I64", DType::kI64},
                                                      {28, "F64", DType::kF64},
                                                      {30, "BF16", DType::kBF16}}};

// Types that are known, but not read.
struct UnreadType {
  uint32_t id;
  std::string_view name;
};
constexpr std::array<UnreadType, 20> kUnreadTypes = {
    {{3, "Q4_1"},     {6, "Q5_0"},   {7, "Q5_1"},    {9, "Q8_1"},     {10, "Q2_K"},
     {11, "Q3_K"},    {13, "Q5_K"},  {15, "Q8_K"},   {16, "IQ2_XXS"}, {17, "IQ2_XS"},
     {18, "IQ3_XXS"}, {19, "IQ1_S"}, {20, "IQ4_NL"}, {21, "IQ3_S"},   {22, "IQ2_S"},
     {23, "IQ4_XS"},  {29, "IQ1_M"}, {34, "TQ1_0"},  {35, "TQ2_0"},   {39, "MXFP4"}}};

std::string_view TypeName(Type type) {
  constexpr std::array<std::string_view, 13> kNames = {"u8",  "i8",  "u16",  "i16",    "u32",
                                                       "i32", "f32", "bool", "string", "array",
                                                       "u64", "i64", "f64"};
  return kNames.at(static_cast<size_t>(type));
}

bool IsInteger(Type type) {
  return type != Type::kF32 && type != Type::kF64 && type != Type::kString && type != Type::kArray;
}

struct Range {
  int64_t low;
  int64_t high;
};
Range RangeOf(Type type) {
  const auto range = [](auto value) {
    using Limits = std::numeric_limits<decltype(value)>;
    return Range{static_cast<int64_t>(Limits::min()), static_cast<int64_t>(Limits::max())};
  };
  switch (type) {
    case Type::kU8:
      return range(uint8_t{});
    case Type::kI8:
      return range(int8_t{});
    case Type::kU16:
      return range(uint16_t{});
    case Type::kI16:
      return range(int16_t{});
    case Type::kU32:
      return range(uint32_t{});
    case Type::kI32:
      return range(int32_t{});
    case Type::kBool:
      return {0, 1};
    case Type::kU64:
      return {0, std::numeric_limits<int64_t>::max()};
    default:
      return range(int64_t{});
  }
}

void CheckFits(Type type, int64_t value) {
  if (!IsInteger(type) || value < RangeOf(type).low || value > RangeOf(type).high) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("a GGUF value of type {} cannot be {}", TypeName(type), value));
  }
}
void CheckFloating(Type type) {
  if (type != Type::kF32 && type != Type::kF64) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("a GGUF value of type {} cannot be a double", TypeName(type)));
  }
}

// ---- Reading ------------------------------------------------------------------------------------

// Takes metadata and descriptions off the front of the file.
class HeaderReader {
 public:
  HeaderReader(std::span<const std::byte> file, std::string_view source) : reader_(file, source) {}

  ByteReader& bytes() { return reader_; }
  template <class T>
  T Value() {
    return reader_.Value<T>("its header");
  }
  std::string String(uint64_t most_bytes = std::numeric_limits<uint64_t>::max()) {
    const auto length = Value<uint64_t>();
    if (length > most_bytes) {
      reader_.Fail(fmt::format("has a name of {} bytes, expected at most {}", length, most_bytes));
    }
    return std::string(reader_.Text(length, "a text"));
  }
  Type ValueType(const std::string& key) {
    const auto type = Value<uint32_t>();
    if (type > static_cast<uint32_t>(Type::kF64)) {
      FailKey(key, fmt::format("is of the unknown type {}", type));
    }
    return static_cast<Type>(type);
  }
  GgufValue Metadata(const std::string& key) {
    const Type type = ValueType(key);
    if (type == Type::kArray) return Array(key);
    if (type == Type::kString) return GgufValue(String());
    if (type == Type::kF32 || type == Type::kF64) return GgufValue::Double(type, Floating(type));
    const int64_t integer = Integer(key, type);
    if (type == Type::kBool) return GgufValue(integer != 0);
    return GgufValue::Integer(type, integer);
  }

 private:
  [[noreturn]] void FailKey(const std::string& key, std::string_view problem,
                            ErrorCode code = ErrorCode::kCorrupt) const {
    throw Error(code,
                fmt::format("{}: metadata {} {}", reader_.source(), JsonQuote(key, 200), problem));
  }
  double Floating(Type type) {
    return type == Type::kF32 ? static_cast<double>(Value<float>()) : Value<double>();
  }
  int64_t Integer(const std::string& key, Type type) {
    switch (type) {
      case Type::kU8:
        return Value<uint8_t>();
      case Type::kI8:
        return Value<int8_t>();
      case Type::kU16:
        return Value<uint16_t>();
      case Type::kI16:
        return Value<int16_t>();
      case Type::kU32:
        return Value<uint32_t>();
      case Type::kI32:
        return Value<int32_t>();
      case Type::kBool: {
        const auto value = Value<uint8_t>();
        if (value > 1) FailKey(key, fmt::format("is a bool of {}, expected 0 or 1", value));
        return value;
      }
      case Type::kU64: {
        const auto value = Value<uint64_t>();
        constexpr auto kMost = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
        return static_cast<int64_t>(std::min(value, kMost));
      }
      default:
        return Value<int64_t>();
    }
  }
  static uint64_t LeastBytes(Type type) {
    switch (type) {
      case Type::kU8:
      case Type::kI8:
      case Type::kBool:
        return 1;
      case Type::kU16:
      case Type::kI16:
        return 2;
      case Type::kU32:
      case Type::kI32:
      case Type::kF32:
        return 4;
      default:  // a string's length, too
        return 8;
    }
  }
  GgufValue Array(const std::string& key) {
    const Type type = ValueType(key);
    if (type == Type::kArray) {
      FailKey(key, "is an array of arrays, which is not read", ErrorCode::kUnsupported);
    }
    const auto count = Value<uint64_t>();
    if (count > reader_.remaining() / LeastBytes(type)) {
      FailKey(key, fmt::format("is an array of {} {}, but only {} bytes follow", count,
                               TypeName(type), reader_.remaining()));
    }
    if (type == Type::kString) {
      GgufValue::Strings values;
      values.reserve(static_cast<size_t>(count));
      for (uint64_t i = 0; i < count; ++i) values.push_back(String());
      return GgufValue(std::move(values));
    }
    if (type == Type::kF32 || type == Type::kF64) {
      GgufValue::Doubles values(static_cast<size_t>(count));
      for (double& value : values) value = Floating(type);
      return GgufValue::Array(type, std::move(values));
    }
    GgufValue::Integers values(static_cast<size_t>(count));
    for (int64_t& value : values) value = Integer(key, type);
    return GgufValue::Array(type, std::move(values));
  }

  ByteReader reader_;
};

// "FILE: tensor NAME: ..."
[[noreturn]] void FailTensor(std::string_view source, std::string_view name,
                             std::string_view problem, ErrorCode code = ErrorCode::kCorrupt) {
  throw Error(code, fmt::format("{}: tensor {}: {}", source, JsonQuote(name, 200), problem));
}

DType ReadTensorType(uint32_t id, std::string_view source, std::string_view name) {
  for (const TensorType& type : kTensorTypes) {
    if (type.id == id) return type.dtype;
  }
  std::string described = fmt::format("the unknown type {}", id);
  for (const UnreadType& type : kUnreadTypes) {
    if (type.id == id) described = fmt::format("type {}", type.name);
  }
  std::string known;
  for (const TensorType& type : kTensorTypes) {
    known += (known.empty() ? "" : ", ") + std::string(type.name);
  }
  FailTensor(source, name, fmt::format("has {}, expected one of {}", described, known),
             ErrorCode::kUnsupported);
}

// A description: name, dimensions from the one that varies fastest on, type, offset.
GgufHeader::Entry ReadDescription(HeaderReader& header, std::string_view source) {
  GgufHeader::Entry entry;
  entry.name = header.String(kMostKeyBytes);
  const auto rank = header.Value<uint32_t>();
  if (rank > static_cast<uint32_t>(kMaxRank)) {
    FailTensor(source, entry.name,
               fmt::format("has {} dimensions, expected at most {}", rank, kMaxRank));
  }
  std::vector<int64_t> dims(rank);
  for (uint32_t i = 0; i < rank; ++i) {
    const auto size = header.Value<uint64_t>();
    if (size > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      FailTensor(source, entry.name, fmt::format("has a dimension of {}", size));
    }
    dims[rank - 1 - i] = static_cast<int64_t>(size);
  }
  entry.dtype = ReadTensorType(header.Value<uint32_t>(), source, entry.name);
  entry.begin = static_cast<size_t>(header.Value<uint64_t>());
  try {
    entry.shape = Shape(dims);
  } catch (const Error& error) {
    FailTensor(source, entry.name, error.what());
  }
  const int64_t block = DTypeBlockElements(entry.dtype);
  if (block > 1 && (rank == 0 || dims[rank - 1] % block != 0)) {
    FailTensor(source, entry.name,
               fmt::format("is {} {}, whose rows are no multiple of the blocks of {}",
                           DTypeName(entry.dtype), entry.shape.ToString(), block));
  }
  return entry;
}

uint64_t Alignment(const std::map<std::string, GgufValue>& metadata, std::string_view source) {
  const auto found = metadata.find(std::string(kAlignmentKey));
  if (found == metadata.end()) return kDefaultAlignment;
  const int64_t* value = found->second.AsInt();
  if (value == nullptr || *value < 1 || *value > (1 << 20) || (*value & (*value - 1)) != 0) {
    throw Error(ErrorCode::kCorrupt, fmt::format("{}: metadata {} is {}, expected a power of two",
                                                 source, kAlignmentKey, found->second.ToString()));
  }
  return static_cast<uint64_t>(*value);
}

}  // namespace

// ---- Values -------------------------------------------------------------------------------------

GgufValue GgufValue::Integer(Type type, int64_t value) {
  CheckFits(type, value);
  if (type == Type::kBool) return GgufValue(value != 0);
  return {type, false, value};
}

GgufValue GgufValue::Double(Type type, double value) {
  CheckFloating(type);
  return {type, false, value};
}

GgufValue GgufValue::Array(Type type, Integers values) {
  if (!IsInteger(type)) CheckFits(type, 0);
  for (const int64_t value : values) CheckFits(type, value);
  return {type, true, std::move(values)};
}

GgufValue GgufValue::Array(Type type, Doubles values) {
  CheckFloating(type);
  return {type, true, std::move(values)};
}

size_t GgufValue::size() const {
  if (const Strings* strings = AsStrings()) return strings->size();
  if (const Integers* integers = AsInts()) return integers->size();
  if (const Doubles* doubles = AsDoubles()) return doubles->size();
  return 1;
}

std::string GgufValue::ToString() const {
  if (is_array_) return fmt::format("[{} {}]", size(), TypeName(type_));
  if (const std::string* text = AsString()) return JsonQuote(*text, 200);
  if (const bool* value = AsBool()) return *value ? "true" : "false";
  if (const int64_t* value = AsInt()) return fmt::format("{} {}", TypeName(type_), *value);
  return fmt::format("{} {}", TypeName(type_), *AsDouble());
}

// ---- Header -------------------------------------------------------------------------------------

GgufHeader GgufHeader::Parse(std::span<const std::byte> file, std::string_view source) {
  HeaderReader header(file, source);
  ByteReader& bytes = header.bytes();
  if (file.size() < 8 || header.Value<uint32_t>() != kMagic) {
    bytes.Fail("does not begin with \"GGUF\": not a GGUF file?");
  }
  GgufHeader parsed;
  parsed.version = header.Value<uint32_t>();
  if (parsed.version != 2 && parsed.version != kNewestVersion) {
    const bool swapped = __builtin_bswap32(parsed.version) <= kNewestVersion;
    throw Error(ErrorCode::kUnsupported,
                swapped ? fmt::format("{}: is a big-endian GGUF file, which is not read", source)
                        : fmt::format("{}: is of GGUF version {}, expected 2 or 3", source,
                                      parsed.version));
  }
  const auto tensor_count = header.Value<uint64_t>();
  const auto metadata_count = header.Value<uint64_t>();
  if (metadata_count > bytes.remaining() / kLeastEntryBytes ||
      tensor_count > bytes.remaining() / kLeastTensorBytes) {
    bytes.Fail(fmt::format("says that it holds {} tensors and {} metadata values, but has {} bytes",
                           tensor_count, metadata_count, file.size()));
  }
  for (uint64_t i = 0; i < metadata_count; ++i) {
    std::string key = header.String(kMostKeyBytes);
    GgufValue value = header.Metadata(key);
    if (!parsed.metadata.emplace(key, std::move(value)).second) {
      bytes.Fail(fmt::format("metadata {} occurs twice", JsonQuote(key, 200)));
    }
  }
  std::set<std::string_view> names;
  parsed.tensors.reserve(static_cast<size_t>(tensor_count));
  for (uint64_t i = 0; i < tensor_count; ++i) {
    parsed.tensors.push_back(ReadDescription(header, source));
    if (!names.insert(parsed.tensors.back().name).second) {
      FailTensor(source, parsed.tensors.back().name, "occurs twice");
    }
  }

  // Offsets count from the first multiple of the alignment after the header; a file of empty
  // tensors may end before it.
  const uint64_t alignment = Alignment(parsed.metadata, source);
  const uint64_t data_begin =
      std::min<uint64_t>((bytes.position() + alignment - 1) / alignment * alignment, file.size());
  const uint64_t data_bytes = file.size() - data_begin;
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  for (Entry& entry : parsed.tensors) {
    const auto size = static_cast<uint64_t>(DTypeBytes(entry.dtype, entry.shape.elements()));
    if (entry.begin % alignment != 0) {
      FailTensor(
          source, entry.name,
          fmt::format("begins at byte {}, expected a multiple of {}", entry.begin, alignment));
    }
    if (entry.begin > data_bytes || size > data_bytes - entry.begin) {
      FailTensor(
          source, entry.name,
          fmt::format("has {} bytes from byte {} on, but the file's data end at byte {}: the "
                      "file is cut short or its header wrong",
                      size, entry.begin, data_bytes));
    }
    if (size > 0) ranges.emplace_back(entry.begin, entry.begin + size);
    entry.begin += static_cast<size_t>(data_begin);
  }
  std::sort(ranges.begin(), ranges.end());
  for (size_t i = 1; i < ranges.size(); ++i) {
    if (ranges[i].first < ranges[i - 1].second) bytes.Fail("has tensors that overlap");
  }
  return parsed;
}

// ---- File ---------------------------------------------------------------------------------------

GgufFile GgufFile::Open(const std::filesystem::path& path) {
  const std::shared_ptr<const MappedFile> mapped = MappedFile::Open(path);
  GgufHeader header = GgufHeader::Parse(mapped->bytes(), path.string());
  mapped->ReadAhead();
  GgufFile file;
  file.path_ = path;
  file.metadata_ = std::move(header.metadata);
  for (GgufHeader::Entry& entry : header.tensors) {
    std::byte* data = mapped->bytes().data() + entry.begin;
    // Blocks may lie anywhere.
    const size_t size = IsQuantized(entry.dtype) ? 1 : static_cast<size_t>(DTypeSize(entry.dtype));
    Tensor tensor;
    if (entry.begin % size == 0) {  // the mapping begins at a page
      tensor = Tensor::Wrap(data, entry.shape, entry.dtype, mapped);
    } else {
      tensor = Tensor::Empty(entry.shape, entry.dtype);
      if (tensor.bytes() > 0) std::memcpy(tensor.raw(), data, static_cast<size_t>(tensor.bytes()));
    }
    file.tensors_.emplace(std::move(entry.name), std::move(tensor));
  }
  return file;
}

const Tensor& GgufFile::Get(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    throw Error(ErrorCode::kNotFound,
                fmt::format("{}: has no tensor {}", path_.string(), JsonQuote(name, 200)));
  }
  return found->second;
}

const GgufValue* GgufFile::Find(const std::string& key) const {
  const auto found = metadata_.find(key);
  return found == metadata_.end() ? nullptr : &found->second;
}

void GgufFile::Fail(const std::string& key, std::string_view expected) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) {
    throw Error(ErrorCode::kNotFound, fmt::format("{}: has no metadata {}, expected {}",
                                                  path_.string(), JsonQuote(key, 200), expected));
  }
  throw Error(ErrorCode::kCorrupt, fmt::format("{}: metadata {} is {}, expected {}", path_.string(),
                                               JsonQuote(key, 200), value->ToString(), expected));
}

int64_t GgufFile::Int(const std::string& key, int64_t min, int64_t max) const {
  const GgufValue* value = Find(key);
  const int64_t* integer = value == nullptr ? nullptr : value->AsInt();
  if (integer == nullptr || *integer < min || *integer > max) {
    Fail(key, fmt::format("an integer from {} to {}", min, max));
  }
  return *integer;
}

double GgufFile::Double(const std::string& key) const {
  const GgufValue* value = Find(key);
  if (value != nullptr && value->AsDouble() != nullptr) return *value->AsDouble();
  if (value == nullptr || value->AsInt() == nullptr) Fail(key, "a number");
  return static_cast<double>(*value->AsInt());
}

bool GgufFile::Bool(const std::string& key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr || value->AsBool() == nullptr) Fail(key, "true or false");
  return *value->AsBool();
}

const std::string& GgufFile::String(const std::string& key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr || value->AsString() == nullptr) Fail(key, "a text");
  return *value->AsString();
}

const GgufValue::Strings& GgufFile::Strings(const std::string& key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr || value->AsStrings() == nullptr) Fail(key, "a list of texts");
  return *value->AsStrings();
}

// ---- Writing ------------------------------------------------------------------------------------

namespace {

template <class T>
void Append(std::string* text, T value) {
  text->append(reinterpret_cast<const char*>(&value), sizeof value);
}
void AppendString(std::string* text, std::string_view value) {
  Append(text, static_cast<uint64_t>(value.size()));
  text->append(value);
}
void AppendInteger(std::string* text, Type type, int64_t value) {
  switch (type) {
    case Type::kU8:
    case Type::kI8:
    case Type::kBool:
      return Append(text, static_cast<uint8_t>(value));
    case Type::kU16:
    case Type::kI16:
      return Append(text, static_cast<uint16_t>(value));
    case Type::kU32:
    case Type::kI32:
      return Append(text, static_cast<uint32_t>(value));
    default:
      return Append(text, value);
  }
}
void AppendDouble(std::string* text, Type type, double value) {
  type == Type::kF32 ? Append(text, static_cast<float>(value)) : Append(text, value);
}

void AppendValue(std::string* text, const GgufValue& value) {
  const Type type = value.type();
  if (value.is_array()) {
    Append(text, static_cast<uint32_t>(Type::kArray));
    Append(text, static_cast<uint32_t>(type));
    Append(text, static_cast<uint64_t>(value.size()));
    if (const GgufValue::Strings* strings = value.AsStrings()) {
      for (const std::string& string : *strings) AppendString(text, string);
    } else if (const GgufValue::Integers* integers = value.AsInts()) {
      for (const int64_t integer : *integers) AppendInteger(text, type, integer);
    } else {
      for (const double number : *value.AsDoubles()) AppendDouble(text, type, number);
    }
    return;
  }
  Append(text, static_cast<uint32_t>(type));
  if (const std::string* string = value.AsString()) {
    AppendString(text, *string);
  } else if (const bool* boolean = value.AsBool()) {
    AppendInteger(text, type, *boolean ? 1 : 0);
  } else if (const int64_t* integer = value.AsInt()) {
    AppendInteger(text, type, *integer);
  } else {
    AppendDouble(text, type, *value.AsDouble());
  }
}

uint64_t Aligned(uint64_t size) {
  return (size + kDefaultAlignment - 1) / kDefaultAlignment * kDefaultAlignment;
}

void AppendDescription(std::string* text, const std::filesystem::path& path,
                       const std::string& name, const Tensor& tensor, uint64_t offset) {
  const auto fail = [&](const std::string& problem) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: tensor {} {}", path.string(), JsonQuote(name, 200), problem));
  };
  if (!tensor.defined()) fail("is undefined");
  if (tensor.device().type != DeviceType::kCpu) fail("is not in host memory");
  if (name.empty() || name.size() > kMostNameBytes) {
    fail(fmt::format("has a name of {} bytes, expected 1 to {}", name.size(), kMostNameBytes));
  }
  if (tensor.rank() < 1 || tensor.rank() > static_cast<int>(kMostDimensions)) {
    fail(fmt::format("has {} dimensions, expected 1 to {}", tensor.rank(), kMostDimensions));
  }
  const auto* const type =
      std::find_if(kTensorTypes.begin(), kTensorTypes.end(),
                   [&](const TensorType& entry) { return entry.dtype == tensor.dtype(); });
  if (type == kTensorTypes.end()) {
    fail(fmt::format("has dtype {}, which GGUF does not have", DTypeName(tensor.dtype())));
  }
  AppendString(text, name);
  Append(text, static_cast<uint32_t>(tensor.rank()));
  for (int i = tensor.rank() - 1; i >= 0; --i) Append(text, static_cast<uint64_t>(tensor.dim(i)));
  Append(text, type->id);
  Append(text, offset);
}

}  // namespace

void WriteGguf(const std::filesystem::path& path,
               std::span<const std::pair<std::string, GgufValue>> metadata,
               std::span<const std::pair<std::string, Tensor>> tensors) {
  const auto fail = [&](const std::string& problem) {
    throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: {}", path.string(), problem));
  };
  std::string header;
  Append(&header, kMagic);
  Append(&header, kNewestVersion);
  Append(&header, static_cast<uint64_t>(tensors.size()));
  Append(&header, static_cast<uint64_t>(metadata.size()));
  std::set<std::string_view> seen = {kAlignmentKey};
  for (const auto& [key, value] : metadata) {
    if (key.empty() || key.size() > kMostKeyBytes || !seen.insert(key).second) {
      fail(fmt::format("the metadata key {} is empty, too long, given twice or reserved",
                       JsonQuote(key, 200)));
    }
    AppendString(&header, key);
    AppendValue(&header, value);
  }
  seen.clear();
  uint64_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    AppendDescription(&header, path, name, tensor, offset);
    if (!seen.insert(name).second) {
      fail(fmt::format("tensor {} is given twice", JsonQuote(name, 200)));
    }
    offset += Aligned(static_cast<uint64_t>(tensor.bytes()));
  }
  header.resize(Aligned(header.size()), '\0');

  AtomicFile file(path);
  file.Write(header);
  for (const auto& [name, tensor] : tensors) {
    const Tensor dense = tensor.contiguous() ? tensor : tensor.Clone();
    const auto bytes = static_cast<size_t>(dense.bytes());
    file.Write({static_cast<const std::byte*>(dense.raw()), bytes});
    constexpr std::byte kZeros[kDefaultAlignment] = {};
    file.Write(std::span(kZeros).first(Aligned(bytes) - bytes));
  }
  file.Commit();
}

}  // namespace adder
