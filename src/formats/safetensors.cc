#include "adder/formats/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>

#include "adder/core/error.h"
#include "adder/formats/file.h"
#include "adder/formats/json.h"

namespace adder {
namespace {

static_assert(std::endian::native == std::endian::little, "files hold little-endian elements");

constexpr size_t kLengthBytes = 8;
// The reference implementation's limit.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr std::string_view kMetadataKey = "__metadata__";

struct FormatDType {
  std::string_view name;
  DType dtype;
};

constexpr std::array<FormatDType, 10> kFormatDTypes = {{{"F64", DType::kF64},
                                                        {"F32", DType::kF32},
                                                        {"F16", DType::kF16},
                                                        {"BF16", DType::kBF16},
                                                        {"I64", DType::kI64},
                                                        {"I32", DType::kI32},
                                                        {"I16", DType::kI16},
                                                        {"I8", DType::kI8},
                                                        {"U8", DType::kU8},
                                                        {"BOOL", DType::kBool}}};

std::string_view FormatName(DType dtype) {
  return std::find_if(kFormatDTypes.begin(), kFormatDTypes.end(),
                      [&](const FormatDType& entry) { return entry.dtype == dtype; })
      ->name;
}

// Names come from the file: quoted only where they could harm a terminal.
std::string Printable(std::string_view name) {
  const std::string quoted = JsonQuote(name, 200);
  return quoted.size() == name.size() + 2 && !name.empty() ? std::string(name) : quoted;
}

// "FILE: tensor NAME: ..."
class TensorContext {
 public:
  TensorContext(std::string_view source, std::string_view name) : source_(source), name_(name) {}

  [[noreturn]] void Fail(std::string_view problem, ErrorCode code = ErrorCode::kCorrupt) const {
    throw Error(code, fmt::format("{}: tensor {}: {}", source_, Printable(name_), problem));
  }

 private:
  std::string_view source_;
  std::string_view name_;
};

DType ReadDType(const JsonValue& info, const TensorContext& context) {
  const JsonValue* field = info.Find("dtype");
  const std::string* name = field == nullptr ? nullptr : field->AsString();
  if (name == nullptr) context.Fail("has no dtype");
  for (const FormatDType& entry : kFormatDTypes) {
    if (entry.name == *name) return entry.dtype;
  }
  context.Fail("has dtype " + JsonQuote(*name, 40) +
                   ", expected F64, F32, F16, BF16, I64, I32, I16, I8, U8 or BOOL",
               ErrorCode::kUnsupported);
}

Shape ReadShape(const JsonValue& info, const TensorContext& context) {
  const JsonValue* field = info.Find("shape");
  const JsonValue::Array* sizes = field == nullptr ? nullptr : field->AsArray();
  if (sizes == nullptr) context.Fail("has no shape");
  if (sizes->size() > kMaxRank) {
    context.Fail(
        fmt::format("has {} dimensions, at most {} are supported", sizes->size(), kMaxRank),
        ErrorCode::kUnsupported);
  }
  std::vector<int64_t> dims;
  for (const JsonValue& size : *sizes) {
    if (size.AsInt() == nullptr || *size.AsInt() < 0) {
      context.Fail("has shape " + field->ToText() + ", expected sizes of at least 0");
    }
    dims.push_back(*size.AsInt());
  }
  try {
    return Shape(dims);
  } catch (const Error& error) {
    context.Fail(error.what());
  }
}

// Offsets from the end of the header, [begin, end).
std::pair<uint64_t, uint64_t> ReadOffsets(const JsonValue& info, const TensorContext& context) {
  const JsonValue* field = info.Find("data_offsets");
  const JsonValue::Array* offsets = field == nullptr ? nullptr : field->AsArray();
  const auto valid = [](const JsonValue& value) {
    return value.AsInt() != nullptr && *value.AsInt() >= 0;
  };
  if (offsets == nullptr || offsets->size() != 2 || !valid((*offsets)[0]) ||
      !valid((*offsets)[1]) || *(*offsets)[0].AsInt() > *(*offsets)[1].AsInt()) {
    context.Fail("has no valid data_offsets, expected [begin, end]");
  }
  return {static_cast<uint64_t>(*(*offsets)[0].AsInt()),
          static_cast<uint64_t>(*(*offsets)[1].AsInt())};
}

std::map<std::string, std::string> ReadMetadata(const JsonValue& value, std::string_view source) {
  std::map<std::string, std::string> metadata;
  if (value.AsObject() == nullptr) {
    throw Error(ErrorCode::kCorrupt, fmt::format("{}: __metadata__ is not an object", source));
  }
  for (const JsonValue::Member& member : *value.AsObject()) {
    if (member.value.AsString() == nullptr) {
      throw Error(ErrorCode::kCorrupt, fmt::format("{}: __metadata__ {} is not a string", source,
                                                   JsonQuote(member.key, 80)));
    }
    metadata.emplace(member.key, *member.value.AsString());
  }
  return metadata;
}

// The header's JSON text, without its length and its place in the file being anything but checked.
std::string_view HeaderText(std::span<const std::byte> file, std::string_view source) {
  const auto fail = [&](const std::string& problem) {
    throw Error(ErrorCode::kCorrupt, fmt::format("{}: {}", source, problem));
  };
  if (file.size() < kLengthBytes) {
    fail(fmt::format("{} bytes are too few for a safetensors file", file.size()));
  }
  uint64_t length = 0;
  std::memcpy(&length, file.data(), kLengthBytes);
  if (length > kMaxHeaderBytes) {
    fail(fmt::format("the header's length is {}, expected at most {}: not a safetensors file?",
                     length, kMaxHeaderBytes));
  }
  if (length > file.size() - kLengthBytes) {
    fail(fmt::format("the header is {} bytes long, but only {} follow: the file is cut short",
                     length, file.size() - kLengthBytes));
  }
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + kLengthBytes, length);
  if (!text.starts_with('{')) fail("the header is not a JSON object");
  return text;
}

}  // namespace

SafetensorsHeader SafetensorsHeader::Parse(std::span<const std::byte> file,
                                           std::string_view source) {
  const std::string_view text = HeaderText(file, source);
  const JsonValue root = JsonValue::Parse(text, fmt::format("{} (header)", source));
  const size_t data_begin = kLengthBytes + text.size();
  const uint64_t data_bytes = file.size() - data_begin;

  SafetensorsHeader header;
  std::vector<std::pair<uint64_t, uint64_t>> ranges;  // as header.tensors
  for (const JsonValue::Member& member : *root.AsObject()) {
    if (member.key == kMetadataKey) {
      header.metadata = ReadMetadata(member.value, source);
      continue;
    }
    const TensorContext context(source, member.key);
    if (member.value.AsObject() == nullptr) context.Fail("its description is not an object");
    const DType dtype = ReadDType(member.value, context);
    const Shape shape = ReadShape(member.value, context);
    const auto [begin, end] = ReadOffsets(member.value, context);
    if (end > data_bytes) {
      context.Fail(fmt::format("ends at byte {} of {}: the file is cut short or its header wrong",
                               end, data_bytes));
    }
    int64_t expected = 0;
    if (__builtin_mul_overflow(shape.elements(), DTypeSize(dtype), &expected) ||
        end - begin != static_cast<uint64_t>(expected)) {
      context.Fail(fmt::format("has {} bytes, which is not the size of {} {}", end - begin,
                               DTypeName(dtype), shape.ToString()));
    }
    header.tensors.push_back({member.key, dtype, shape, static_cast<size_t>(begin)});
    ranges.emplace_back(begin, end);
  }

  // The tensors must follow each other without hole or overlap to the last byte. Empty ones come
  // before the one that begins at the same byte.
  std::vector<size_t> order(ranges.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return ranges[a] < ranges[b]; });
  std::vector<Entry> sorted;
  sorted.reserve(order.size());
  uint64_t covered = 0;
  for (const size_t i : order) {
    if (ranges[i].first != covered) {
      TensorContext(source, header.tensors[i].name)
          .Fail(fmt::format("begins at byte {}, expected {}: tensors must neither overlap nor "
                            "leave holes",
                            ranges[i].first, covered));
    }
    covered = ranges[i].second;
    sorted.push_back(std::move(header.tensors[i]));
    sorted.back().begin += data_begin;
  }
  if (covered != data_bytes) {
    throw Error(ErrorCode::kCorrupt,
                fmt::format("{}: {} bytes after the header belong to no tensor", source,
                            data_bytes - covered));
  }
  header.tensors = std::move(sorted);
  return header;
}

SafetensorsFile SafetensorsFile::Open(const std::filesystem::path& path) {
  const std::shared_ptr<const MappedFile> mapped = MappedFile::Open(path);
  SafetensorsHeader header = SafetensorsHeader::Parse(mapped->bytes(), path.string());
  mapped->ReadAhead();
  SafetensorsFile file;
  file.path_ = path;
  file.metadata_ = std::move(header.metadata);
  for (const SafetensorsHeader::Entry& entry : header.tensors) {
    std::byte* data = mapped->bytes().data() + entry.begin;
    const auto size = static_cast<size_t>(DTypeSize(entry.dtype));
    Tensor tensor;
    if (entry.begin % size == 0) {  // the mapping begins at a page
      tensor = Tensor::Wrap(data, entry.shape, entry.dtype, mapped);
    } else {
      tensor = Tensor::Empty(entry.shape, entry.dtype);
      if (tensor.bytes() > 0) std::memcpy(tensor.raw(), data, static_cast<size_t>(tensor.bytes()));
    }
    if (entry.dtype == DType::kBool) {
      // Any other byte is no value of a C++ bool.
      const auto* bytes = reinterpret_cast<const unsigned char*>(data);
      for (int64_t i = 0; i < tensor.elements(); ++i) {
        if (bytes[i] > 1) {
          TensorContext(path.string(), entry.name)
              .Fail(fmt::format("element {} is {}, expected 0 or 1", i, bytes[i]));
        }
      }
    }
    file.tensors_.emplace(entry.name, std::move(tensor));
  }
  return file;
}

const Tensor& SafetensorsFile::Get(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    throw Error(ErrorCode::kNotFound,
                fmt::format("{}: has no tensor {}", path_.string(), Printable(name)));
  }
  return found->second;
}

namespace {

// The largest power of two, up to 64, that divides a size.
int64_t SizeAlignment(const Tensor& tensor) {
  const int64_t bytes = tensor.bytes();
  return std::min<int64_t>(bytes & -bytes, 64);
}

// Indices of the tensors in the order in which they are stored.
std::vector<size_t> StorageOrder(std::span<const std::pair<std::string, Tensor>> tensors) {
  std::vector<size_t> order(tensors.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    // An empty tensor fits anywhere.
    const bool a_empty = tensors[a].second.elements() == 0;
    const bool b_empty = tensors[b].second.elements() == 0;
    if (a_empty || b_empty) return a_empty && !b_empty;
    return SizeAlignment(tensors[a].second) > SizeAlignment(tensors[b].second);
  });
  return order;
}

std::string BuildHeader(const std::filesystem::path& path,
                        std::span<const std::pair<std::string, Tensor>> tensors,
                        std::span<const size_t> order,
                        const std::map<std::string, std::string>& metadata) {
  JsonValue::Object members;
  if (!metadata.empty()) {
    JsonValue::Object strings;
    for (const auto& [key, value] : metadata) strings.push_back({key, value});
    members.push_back({std::string(kMetadataKey), std::move(strings)});
  }
  int64_t offset = 0;
  for (const size_t i : order) {
    const std::string& name = tensors[i].first;
    const Tensor& tensor = tensors[i].second;
    const auto fail = [&](const char* problem) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("{}: tensor {} {}", path.string(), Printable(name), problem));
    };
    if (name == kMetadataKey) fail("has the name of the metadata");
    if (!tensor.defined()) fail("is undefined");
    if (tensor.device().type != DeviceType::kCpu) fail("is not in host memory");
    if (IsQuantized(tensor.dtype())) fail("is quantized, which the format cannot hold");
    JsonValue::Array shape;
    for (const int64_t size : tensor.shape().dims()) shape.emplace_back(size);
    members.push_back(
        {name,
         JsonValue::Object{{"dtype", FormatName(tensor.dtype())},
                           {"shape", std::move(shape)},
                           {"data_offsets", JsonValue::Array{offset, offset + tensor.bytes()}}}});
    offset += tensor.bytes();
  }
  std::string header;
  try {
    header = JsonValue(std::move(members)).ToText();
    JsonValue::Parse(header, "header");  // a name that is not UTF-8 would make it unreadable
  } catch (const Error& error) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: the tensors' names make no valid header: {}", path.string(),
                            error.what()));
  }
  const size_t unpadded = kLengthBytes + header.size();
  header.append(
      (unpadded + kStorageAlignment - 1) / kStorageAlignment * kStorageAlignment - unpadded, ' ');
  if (header.size() > kMaxHeaderBytes) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: a header of {} bytes, expected at most {}", path.string(),
                            header.size(), kMaxHeaderBytes));
  }
  return header;
}

// Gathers a strided tensor's runs into pieces worth a system call.
void WriteElements(AtomicFile& file, const Tensor& tensor) {
  constexpr size_t kPieceBytes = size_t{1} << 20;
  const auto size = static_cast<size_t>(DTypeSize(tensor.dtype()));
  const auto* base = static_cast<const std::byte*>(tensor.raw());
  std::vector<std::byte> piece;
  ForEachRun(tensor, [&](int64_t offset, int64_t length) {
    const std::span run(base + offset * static_cast<int64_t>(size),
                        static_cast<size_t>(length) * size);
    if (piece.size() + run.size() > kPieceBytes) {
      file.Write(piece);
      piece.clear();
    }
    if (run.size() >= kPieceBytes) {
      file.Write(run);
    } else {
      piece.insert(piece.end(), run.begin(), run.end());
    }
  });
  file.Write(piece);
}

}  // namespace

void WriteSafetensors(const std::filesystem::path& path,
                      std::span<const std::pair<std::string, Tensor>> tensors,
                      const std::map<std::string, std::string>& metadata) {
  const std::vector<size_t> order = StorageOrder(tensors);
  const std::string header = BuildHeader(path, tensors, order, metadata);
  const uint64_t length = header.size();
  AtomicFile file(path);
  file.Write(std::as_bytes(std::span(&length, 1)));
  file.Write(header);
  for (const size_t i : order) WriteElements(file, tensors[i].second);
  file.Commit();
}

}  // namespace adder
