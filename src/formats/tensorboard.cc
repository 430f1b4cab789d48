// Writing and reading of TensorBoard event files.
#include "adder/formats/tensorboard.h"

#include <fmt/format.h>

#include <bit>
#include <chrono>
#include <cstring>
#include <optional>
#include <utility>

#include "adder/core/error.h"
#include "adder/formats/crc32c.h"
#include "adder/formats/file.h"

namespace adder {
namespace {

static_assert(std::endian::native == std::endian::little, "event files are little-endian");

constexpr std::string_view kPrefix = "events.out.tfevents.";
// Field numbers of event.proto and summary.proto.
constexpr uint32_t kEventWallTime = 1;
constexpr uint32_t kEventStep = 2;
constexpr uint32_t kEventFileVersion = 3;
constexpr uint32_t kEventSummary = 5;
constexpr uint32_t kSummaryValue = 1;
constexpr uint32_t kValueTag = 1;
constexpr uint32_t kValueSimpleValue = 2;
// Wire types of protocol buffers.
constexpr uint32_t kVarint = 0;
constexpr uint32_t kFixed64 = 1;
constexpr uint32_t kBytes = 2;
constexpr uint32_t kFixed32 = 5;

template <class T>
void PutRaw(std::string& out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}

template <class T>
T GetRaw(std::string_view bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof(T));
  return value;
}

void PutVarint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
}

void PutKey(std::string& out, uint32_t field, uint32_t wire_type) {
  PutVarint(out, (field << 3) | wire_type);
}

void PutBytes(std::string& out, uint32_t field, std::string_view bytes) {
  PutKey(out, field, kBytes);
  PutVarint(out, bytes.size());
  out += bytes;
}

// TFRecord stores checksums rotated and offset, so that a checksum of checksums stays meaningful.
uint32_t MaskedCrc(std::string_view bytes) { return std::rotr(Crc32c(bytes), 15) + 0xa282ead8u; }

std::string Frame(std::string_view record) {
  std::string framed;
  PutRaw<uint64_t>(framed, record.size());
  PutRaw(framed, MaskedCrc(framed));
  framed += record;
  PutRaw(framed, MaskedCrc(record));
  return framed;
}

std::string Encode(const TensorBoardEvent& event) {
  std::string summary;
  for (const TensorBoardScalar& scalar : event.scalars) {
    std::string value;
    PutBytes(value, kValueTag, scalar.tag);
    PutKey(value, kValueSimpleValue, kFixed32);
    PutRaw(value, scalar.value);
    PutBytes(summary, kSummaryValue, value);
  }
  std::string record;
  PutKey(record, kEventWallTime, kFixed64);
  PutRaw(record, event.wall_time);
  PutKey(record, kEventStep, kVarint);
  PutVarint(record, static_cast<uint64_t>(event.step));
  PutBytes(record, kEventSummary, summary);
  return record;
}

// One field of a message; `bytes` is the content of a bytes or fixed field.
struct Field {
  uint32_t number = 0;
  uint32_t wire_type = 0;
  uint64_t varint = 0;
  std::string_view bytes;
};

class MessageReader {
 public:
  explicit MessageReader(std::string_view message) : rest_(message) {}

  // The next field, or nothing at the end.
  std::optional<Field> Next() {
    if (rest_.empty()) return std::nullopt;
    const uint64_t key = Varint();
    Field field;
    field.number = static_cast<uint32_t>(key >> 3);
    field.wire_type = static_cast<uint32_t>(key & 7);
    switch (field.wire_type) {
      case kVarint:
        field.varint = Varint();
        break;
      case kFixed64:
        field.bytes = Take(8);
        break;
      case kBytes:
        field.bytes = Take(Varint());
        break;
      case kFixed32:
        field.bytes = Take(4);
        break;
      default:
        throw Error(ErrorCode::kCorrupt,
                    fmt::format("an event record has a field of wire type {}", field.wire_type));
    }
    return field;
  }

 private:
  uint64_t Varint() {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<uint8_t>(Take(1)[0]);
      value |= uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) return value;
    }
    throw Error(ErrorCode::kCorrupt, "an event record has a number of more than 64 bits");
  }

  std::string_view Take(uint64_t count) {
    if (count > rest_.size()) {
      throw Error(ErrorCode::kCorrupt, "an event record ends within a field");
    }
    const std::string_view taken = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return taken;
  }

  std::string_view rest_;
};

TensorBoardScalar DecodeValue(std::string_view message) {
  TensorBoardScalar scalar;
  MessageReader reader(message);
  while (const auto field = reader.Next()) {
    if (field->number == kValueTag && field->wire_type == kBytes) scalar.tag = field->bytes;
    if (field->number == kValueSimpleValue && field->wire_type == kFixed32) {
      scalar.value = GetRaw<float>(field->bytes);
    }
  }
  return scalar;
}

TensorBoardEvent Decode(std::string_view record) {
  TensorBoardEvent event;
  MessageReader reader(record);
  while (const auto field = reader.Next()) {
    if (field->number == kEventWallTime && field->wire_type == kFixed64) {
      event.wall_time = GetRaw<double>(field->bytes);
    } else if (field->number == kEventStep && field->wire_type == kVarint) {
      event.step = static_cast<int64_t>(field->varint);
    } else if (field->number == kEventSummary && field->wire_type == kBytes) {
      MessageReader summary(field->bytes);
      while (const auto value = summary.Next()) {
        if (value->number == kSummaryValue && value->wire_type == kBytes) {
          event.scalars.push_back(DecodeValue(value->bytes));
        }
      }
    }
  }
  return event;
}

// The record at the beginning of `bytes` and the length of its frame; nothing when cut or damaged.
std::optional<std::pair<std::string_view, size_t>> Unframe(std::string_view bytes) {
  constexpr size_t kHead = 12;
  constexpr size_t kTail = 4;
  if (bytes.size() < kHead + kTail) return std::nullopt;
  const auto length = GetRaw<uint64_t>(bytes);
  if (GetRaw<uint32_t>(bytes.substr(8)) != MaskedCrc(bytes.substr(0, 8))) return std::nullopt;
  if (length > bytes.size() - kHead - kTail) return std::nullopt;
  const std::string_view record = bytes.substr(kHead, length);
  if (GetRaw<uint32_t>(bytes.substr(kHead + length)) != MaskedCrc(record)) return std::nullopt;
  return std::pair(record, kHead + length + kTail);
}

std::filesystem::path NewestEventFile(const std::filesystem::path& folder) {
  std::filesystem::path newest;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    // Names carry the time in seconds, with as many digits until the year 2286.
    if (name.starts_with(kPrefix) && entry.path() > newest) newest = entry.path();
  }
  return newest;
}

}  // namespace

std::vector<TensorBoardEvent> ParseTensorBoardEvents(std::string_view bytes, size_t* whole_bytes) {
  std::vector<TensorBoardEvent> events;
  size_t offset = 0;
  while (const auto framed = Unframe(bytes.substr(offset))) {
    TensorBoardEvent event = Decode(framed->first);
    if (!event.scalars.empty()) events.push_back(std::move(event));
    offset += framed->second;
  }
  if (whole_bytes != nullptr) *whole_bytes = offset;
  return events;
}

TensorBoardWriter::TensorBoardWriter(const std::filesystem::path& folder,
                                     const std::function<bool(const TensorBoardEvent&)>& keep) {
  std::filesystem::path path = NewestEventFile(folder);
  size_t kept = 0;
  if (!path.empty()) {
    const auto file = MappedFile::Open(path);
    while (const auto framed = Unframe(file->text().substr(kept))) {
      if (!keep(Decode(framed->first))) break;
      kept += framed->second;
    }
  }
  const double now =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  if (path.empty()) path = folder / fmt::format("{}{:010.0f}.adder", kPrefix, now);
  file_ = std::make_unique<AppendFile>(path, kept);
  if (kept == 0) {
    std::string version;
    PutKey(version, kEventWallTime, kFixed64);
    PutRaw(version, now);
    PutBytes(version, kEventFileVersion, "brain.Event:2");
    file_->Append(Frame(version));
  }
}

void TensorBoardWriter::Write(const TensorBoardEvent& event) {
  file_->Append(Frame(Encode(event)));
}

}  // namespace adder
