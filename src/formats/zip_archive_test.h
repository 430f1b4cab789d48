// Zip archives and pickles made byte by byte, for tests of what reads them.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace adder::test {

template <class T>
std::string LittleEndian(T value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

struct ZipOptions {
  uint16_t method = 0;
  uint16_t flags = 0;
  bool zip64 = false;  // sizes and offsets in the zip64 records
  std::string comment = {};
};

// What an archive has of one entry, which begins at byte `begin`: header and bytes, these at a
// multiple of 64 as PyTorch aligns them, and the record in the directory.
struct ZipEntry {
  std::string local;
  std::string record;

  ZipEntry(const std::string& name, const std::string& bytes, uint32_t begin,
           const ZipOptions& options) {
    const auto size = static_cast<uint32_t>(bytes.size());
    const size_t padding = (64 - (begin + 30 + name.size() + 4) % 64) % 64;
    const std::string sizes =
        options.zip64 ? std::string(8, '\xff') : LittleEndian(size) + LittleEndian(size);
    const std::string common = LittleEndian<uint16_t>(0) + LittleEndian(options.flags) +
                               LittleEndian(options.method) + std::string(8, '\0') + sizes +
                               LittleEndian(static_cast<uint16_t>(name.size()));
    const std::string wide = LittleEndian<uint16_t>(1) + LittleEndian<uint16_t>(24) +
                             LittleEndian<uint64_t>(size) + LittleEndian<uint64_t>(size) +
                             LittleEndian<uint64_t>(begin);
    local = "PK\3\4" + common + LittleEndian(static_cast<uint16_t>(padding + 4)) + name + "FB" +
            LittleEndian(static_cast<uint16_t>(padding)) + std::string(padding, 'Z') + bytes;
    record = "PK\1\2" + LittleEndian<uint16_t>(0) + common +
             LittleEndian(static_cast<uint16_t>(options.zip64 ? wide.size() : 0)) +
             std::string(10, '\0') +
             (options.zip64 ? std::string(4, '\xff') : LittleEndian(begin)) + name +
             (options.zip64 ? wide : "");
  }
};

// Entries stored as they are.
inline std::string ZipOf(const std::vector<std::pair<std::string, std::string>>& entries,
                         const ZipOptions& options = {}) {
  std::string file;
  std::string directory;
  for (const auto& [name, bytes] : entries) {
    const ZipEntry entry(name, bytes, static_cast<uint32_t>(file.size()), options);
    file += entry.local;
    directory += entry.record;
  }
  const uint64_t begin = file.size();
  file += directory;
  if (options.zip64) {
    const uint64_t end = file.size();
    file += "PK\6\6" + LittleEndian<uint64_t>(44) + std::string(12, '\0') +
            LittleEndian<uint64_t>(entries.size()) + LittleEndian<uint64_t>(entries.size()) +
            LittleEndian<uint64_t>(directory.size()) + LittleEndian(begin);
    file += "PK\6\7" + LittleEndian<uint32_t>(0) + LittleEndian(end) + LittleEndian<uint32_t>(1);
  }
  const auto count = static_cast<uint16_t>(options.zip64 ? 0xffff : entries.size());
  file += std::string("PK\5\6") + std::string(4, '\0') + LittleEndian(count) + LittleEndian(count) +
          LittleEndian(static_cast<uint32_t>(options.zip64 ? 0xffffffff : directory.size())) +
          LittleEndian(static_cast<uint32_t>(options.zip64 ? 0xffffffff : begin)) +
          LittleEndian(static_cast<uint16_t>(options.comment.size())) + options.comment;
  return file;
}

// ---- Pickles ------------------------------------------------------------------------------------

inline std::string PickleOf(const std::string& opcodes) {
  return std::string("\x80\x02") + opcodes + ".";
}
inline std::string Text(const std::string& text) {
  return std::string("X") + LittleEndian(static_cast<uint32_t>(text.size())) + text;
}
inline std::string Int(int32_t value) { return std::string("J") + LittleEndian(value); }
inline std::string Long(int64_t value) { return std::string("\x8a\x08") + LittleEndian(value); }
inline std::string Global(const std::string& module, const std::string& name) {
  return std::string("c") + module + "\n" + name + "\n";
}
inline std::string Tuple(const std::vector<std::string>& items) {
  std::string text = "(";
  for (const std::string& item : items) text += item;
  return text + "t";
}
inline std::string Integers(const std::vector<int64_t>& values) {
  std::vector<std::string> items;
  for (const int64_t value : values) items.push_back(Long(value));
  return Tuple(items);
}
inline std::string Call(const std::string& function, const std::vector<std::string>& arguments) {
  return function + Tuple(arguments) + "R";
}
inline std::string Dict(const std::vector<std::pair<std::string, std::string>>& items) {
  std::string text = "}(";
  for (const auto& [key, value] : items) text += Text(key) + value;
  return text + "u";
}
inline std::string StorageId(const std::string& type, const std::string& key, int64_t elements) {
  return Tuple({Text("storage"), Global("torch", type), Text(key), Text("cpu"), Long(elements)}) +
         "Q";
}
// A tensor as torch.save writes it.
inline std::string TensorCall(const std::string& storage, int64_t offset,
                              const std::vector<int64_t>& sizes,
                              const std::vector<int64_t>& strides) {
  return Call(Global("torch._utils", "_rebuild_tensor_v2"),
              {storage, Long(offset), Integers(sizes), Integers(strides), "\x89",
               Global("collections", "OrderedDict") + ")R"});
}

}  // namespace adder::test
