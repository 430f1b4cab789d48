// Zip's layout is PKWARE's APPNOTE 6.3: local headers with data, then the directory, then the end
// record, which is found from the back.
#include "adder/formats/zip_archive.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>

#include "adder/core/error.h"
#include "adder/formats/byte_reader.h"
#include "adder/formats/json.h"

namespace adder {
namespace {

constexpr uint32_t kLocalSignature = 0x04034b50;
constexpr uint32_t kDirectorySignature = 0x02014b50;
constexpr uint32_t kEndSignature = 0x06054b50;
constexpr uint32_t kEnd64Signature = 0x06064b50;
constexpr uint32_t kEnd64LocatorSignature = 0x07064b50;
constexpr size_t kLocalBytes = 30;
constexpr size_t kDirectoryBytes = 46;
constexpr size_t kEndBytes = 22;
constexpr size_t kEnd64Bytes = 56;
constexpr size_t kEnd64LocatorBytes = 20;
constexpr size_t kMostCommentBytes = 0xffff;
constexpr uint16_t kZip64ExtraId = 1;
// What a narrow field holds when the zip64 record has the value.
constexpr uint16_t kElsewhere16 = 0xffff;
constexpr uint32_t kElsewhere32 = 0xffffffff;

uint16_t U16At(std::span<const std::byte> record, size_t offset) {
  uint16_t value;
  std::memcpy(&value, record.data() + offset, sizeof value);
  return value;
}
uint32_t U32At(std::span<const std::byte> record, size_t offset) {
  uint32_t value;
  std::memcpy(&value, record.data() + offset, sizeof value);
  return value;
}
uint64_t U64At(std::span<const std::byte> record, size_t offset) {
  uint64_t value;
  std::memcpy(&value, record.data() + offset, sizeof value);
  return value;
}

struct Directory {
  uint64_t begin;
  uint64_t bytes;
  uint64_t entries;
};

// Where the end record begins: the last one whose comment reaches exactly to the archive's end.
size_t FindEnd(std::span<const std::byte> archive, const ByteReader& reader) {
  if (archive.size() >= kEndBytes) {
    const size_t last = archive.size() - kEndBytes;
    const size_t first = last - std::min(last, kMostCommentBytes);
    for (size_t at = last + 1; at-- > first;) {
      const auto record = archive.subspan(at);
      if (U32At(record, 0) == kEndSignature && U16At(record, 20) == last - at) return at;
    }
  }
  reader.Fail("is no zip archive, or one that is cut short");
}

Directory FindDirectory(std::span<const std::byte> archive, ByteReader& reader) {
  const size_t end = FindEnd(archive, reader);
  const auto record = archive.subspan(end, kEndBytes);
  Directory directory = {U32At(record, 16), U32At(record, 12), U16At(record, 10)};
  uint32_t disk = U16At(record, 4);
  uint64_t limit = end;
  const bool wide = directory.begin == kElsewhere32 || directory.bytes == kElsewhere32 ||
                    directory.entries == kElsewhere16;
  if (end >= kEnd64LocatorBytes &&
      U32At(archive, end - kEnd64LocatorBytes) == kEnd64LocatorSignature) {
    const uint64_t at = U64At(archive, end - kEnd64LocatorBytes + 8);
    reader.Seek(at, "the zip64 end record");
    const auto wide_record = reader.Bytes(kEnd64Bytes, "the zip64 end record");
    if (U32At(wide_record, 0) != kEnd64Signature) reader.Fail("has no zip64 end record");
    disk = U32At(wide_record, 16);
    directory = {U64At(wide_record, 48), U64At(wide_record, 40), U64At(wide_record, 32)};
    limit = at;
  } else if (wide) {
    reader.Fail("has no zip64 end record");
  }
  if (disk != 0) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: is one part of an archive of several", reader.source()));
  }
  if (directory.begin > limit || directory.bytes > limit - directory.begin) {
    reader.Fail(fmt::format("its directory ([{}, +{})) reaches past byte {}", directory.begin,
                            directory.bytes, limit));
  }
  if (directory.entries > directory.bytes / kDirectoryBytes) {
    reader.Fail(fmt::format("its directory of {} bytes cannot hold {} entries", directory.bytes,
                            directory.entries));
  }
  return directory;
}

// One record of the directory.
struct Record {
  std::string_view name;
  uint16_t flags;
  uint16_t method;
  uint64_t compressed;
  uint64_t size;
  uint64_t local_header;
};

Record ReadRecord(ByteReader& reader) {
  constexpr std::string_view kWhat = "its directory";
  const auto fixed = reader.Bytes(kDirectoryBytes, kWhat);
  if (U32At(fixed, 0) != kDirectorySignature) {
    reader.Fail("its directory has something else where an entry should begin");
  }
  Record record = {.name = reader.Text(U16At(fixed, 28), kWhat),
                   .flags = U16At(fixed, 8),
                   .method = U16At(fixed, 10),
                   .compressed = U32At(fixed, 20),
                   .size = U32At(fixed, 24),
                   .local_header = U32At(fixed, 42)};
  auto extra = reader.Bytes(U16At(fixed, 30), kWhat);
  reader.Bytes(U16At(fixed, 32), kWhat);
  // Those of the three that do not fit, in this order, lie in the zip64 extra field.
  std::optional<std::span<const std::byte>> wide;
  while (extra.size() >= 4 && !wide) {
    const size_t size = U16At(extra, 2);
    if (size > extra.size() - 4) break;
    if (U16At(extra, 0) == kZip64ExtraId) wide = extra.subspan(4, size);
    extra = extra.subspan(4 + size);
  }
  for (uint64_t* value : {&record.size, &record.compressed, &record.local_header}) {
    if (*value != kElsewhere32) continue;
    if (!wide || wide->size() < sizeof(uint64_t)) {
      reader.Fail(fmt::format("entry {}: has no zip64 sizes", JsonQuote(record.name, 200)));
    }
    *value = U64At(*wide, 0);
    wide = wide->subspan(sizeof(uint64_t));
  }
  return record;
}

}  // namespace

ZipArchive ZipArchive::Parse(std::span<const std::byte> archive, std::string_view source) {
  ByteReader reader(archive, source);
  const Directory directory = FindDirectory(archive, reader);
  // Data lies before the directory; the directory ends where its records must.
  const auto data = archive.first(static_cast<size_t>(directory.begin));
  ByteReader records(archive.first(static_cast<size_t>(directory.begin + directory.bytes)), source);
  records.Seek(directory.begin, "its directory");
  ZipArchive parsed;
  for (uint64_t i = 0; i < directory.entries; ++i) {
    const Record record = ReadRecord(records);
    const auto fail = [&](const std::string& problem, ErrorCode code = ErrorCode::kCorrupt) {
      throw Error(code,
                  fmt::format("{}: entry {}: {}", source, JsonQuote(record.name, 200), problem));
    };
    if ((record.flags & 1) != 0) fail("is encrypted", ErrorCode::kUnsupported);
    if (record.method != 0) {
      fail("is compressed, expected stored as it is", ErrorCode::kUnsupported);
    }
    if (record.compressed != record.size) {
      fail(fmt::format("is stored in {} bytes, but has {}", record.compressed, record.size));
    }
    if (record.local_header > data.size() || data.size() - record.local_header < kLocalBytes) {
      fail(fmt::format("begins at byte {}, the data ends at {}", record.local_header, data.size()));
    }
    const auto local = data.subspan(static_cast<size_t>(record.local_header));
    if (U32At(local, 0) != kLocalSignature) fail("does not begin where the directory says");
    const size_t name_bytes = U16At(local, 26);
    const size_t begin = kLocalBytes + name_bytes + U16At(local, 28);
    if (begin > local.size() || record.size > local.size() - begin) {
      fail(fmt::format("has {} bytes, which reach past the data's end at {}", record.size,
                       data.size()));
    }
    if (std::string_view(reinterpret_cast<const char*>(local.data()) + kLocalBytes, name_bytes) !=
        record.name) {
      fail("has another name in its own header");
    }
    const Entry entry = {static_cast<size_t>(record.local_header) + begin,
                         static_cast<size_t>(record.size)};
    if (!parsed.entries_.emplace(record.name, entry).second) fail("occurs twice");
  }
  return parsed;
}

}  // namespace adder
