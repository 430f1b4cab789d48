// Local headers, contents, then the directory (APPNOTE.TXT of PKWARE, version 6.3.9).
#include "adder/formats/zip_writer.h"

#include <boost/crc.hpp>
#include <limits>

namespace adder {
namespace {

constexpr uint64_t kMost32 = std::numeric_limits<uint32_t>::max();
constexpr uint16_t kZip64Version = 45;
constexpr uint16_t kZip64Field = 1;
constexpr uint16_t kPaddingField = 0x4246;  // "FB", as PyTorch's own writer pads
constexpr size_t kLocalHeaderBytes = 30;

// Appends a little-endian number.
template <class T>
void Put(std::string* to, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) {
    to->push_back(static_cast<char>(static_cast<uint64_t>(value) >> (8 * i)));
  }
}

uint32_t Clamp32(uint64_t value) { return static_cast<uint32_t>(std::min(value, kMost32)); }

// What local header and directory have in common, from the version to the checksum.
void PutCommon(std::string* to, uint32_t checksum) {
  Put<uint16_t>(to, kZip64Version);
  Put<uint16_t>(to, 0x0800);  // names are UTF-8
  Put<uint16_t>(to, 0);       // stored
  Put<uint16_t>(to, 0);       // time and date: 1980-01-01, the same for the same content
  Put<uint16_t>(to, 0x0021);
  Put<uint32_t>(to, checksum);
}

}  // namespace

void ZipWriter::Write(std::string_view bytes) {
  file_.Write(bytes);
  position_ += bytes.size();
}

void ZipWriter::Add(std::string_view name, std::span<const std::byte> content) {
  boost::crc_32_type checksum;
  checksum.process_bytes(content.data(), content.size());
  const bool large = content.size() >= kMost32;
  entries_.push_back({std::string(name), content.size(), position_, checksum.checksum()});

  std::string extra;
  if (large) {
    Put<uint16_t>(&extra, kZip64Field);
    Put<uint16_t>(&extra, 16);
    Put<uint64_t>(&extra, content.size());
    Put<uint64_t>(&extra, content.size());
  }
  // A field of padding, 4 bytes and more, so that the content is aligned.
  const uint64_t begin = position_ + kLocalHeaderBytes + name.size() + extra.size() + 4;
  const uint64_t padding = (kAlignment - begin % kAlignment) % kAlignment;
  Put<uint16_t>(&extra, kPaddingField);
  Put<uint16_t>(&extra, static_cast<uint16_t>(padding));
  extra.append(padding, 'Z');

  std::string header = "PK\x03\x04";
  PutCommon(&header, checksum.checksum());
  Put<uint32_t>(&header, large ? static_cast<uint32_t>(kMost32) : Clamp32(content.size()));
  Put<uint32_t>(&header, large ? static_cast<uint32_t>(kMost32) : Clamp32(content.size()));
  Put<uint16_t>(&header, static_cast<uint16_t>(name.size()));
  Put<uint16_t>(&header, static_cast<uint16_t>(extra.size()));
  header += name;
  header += extra;
  Write(header);
  file_.Write(content);
  position_ += content.size();
}

void ZipWriter::Commit() {
  const uint64_t directory_begin = position_;
  for (const Entry& entry : entries_) {
    std::string extra;
    const bool large = entry.size >= kMost32;
    const bool far = entry.offset >= kMost32;
    if (large || far) {
      Put<uint16_t>(&extra, kZip64Field);
      Put<uint16_t>(&extra, static_cast<uint16_t>((large ? 16 : 0) + (far ? 8 : 0)));
      if (large) Put<uint64_t>(&extra, entry.size);
      if (large) Put<uint64_t>(&extra, entry.size);
      if (far) Put<uint64_t>(&extra, entry.offset);
    }
    std::string header = "PK\x01\x02";
    Put<uint16_t>(&header, kZip64Version);  // made by
    PutCommon(&header, entry.checksum);
    Put<uint32_t>(&header, Clamp32(entry.size));
    Put<uint32_t>(&header, Clamp32(entry.size));
    Put<uint16_t>(&header, static_cast<uint16_t>(entry.name.size()));
    Put<uint16_t>(&header, static_cast<uint16_t>(extra.size()));
    Put<uint16_t>(&header, 0);  // comment
    Put<uint16_t>(&header, 0);  // disk
    Put<uint16_t>(&header, 0);  // attributes
    Put<uint32_t>(&header, 0);
    Put<uint32_t>(&header, Clamp32(entry.offset));
    Write(header + entry.name + extra);
  }
  const uint64_t directory_size = position_ - directory_begin;
  const uint64_t end = position_;
  std::string tail;
  if (entries_.size() >= 0xffff || directory_begin >= kMost32 || directory_size >= kMost32) {
    tail += "PK\x06\x06";
    Put<uint64_t>(&tail, 44);  // bytes of this record from here on
    Put<uint16_t>(&tail, kZip64Version);
    Put<uint16_t>(&tail, kZip64Version);
    Put<uint32_t>(&tail, 0);
    Put<uint32_t>(&tail, 0);
    Put<uint64_t>(&tail, entries_.size());
    Put<uint64_t>(&tail, entries_.size());
    Put<uint64_t>(&tail, directory_size);
    Put<uint64_t>(&tail, directory_begin);
    tail += "PK\x06\x07";
    Put<uint32_t>(&tail, 0);
    Put<uint64_t>(&tail, end);
    Put<uint32_t>(&tail, 1);
  }
  const auto count = static_cast<uint16_t>(std::min<size_t>(entries_.size(), 0xffff));
  tail += "PK\x05\x06";
  Put<uint16_t>(&tail, 0);
  Put<uint16_t>(&tail, 0);
  Put<uint16_t>(&tail, count);
  Put<uint16_t>(&tail, count);
  Put<uint32_t>(&tail, Clamp32(directory_size));
  Put<uint32_t>(&tail, Clamp32(directory_begin));
  Put<uint16_t>(&tail, 0);
  Write(tail);
  file_.Commit();
}

}  // namespace adder
