// Files as values: mapped for reading, written whole or not at all.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace adder {

// A read-only (copy-on-write) mapping of a whole file. An empty file maps to an empty span.
class MappedFile {
 public:
  // Throws kNotFound or kIo with the path named (a directory, no permission, …).
  static std::shared_ptr<const MappedFile> Open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  // The bytes may be written; what is written stays in this process. Touching pages of a file that
  // another process cuts short meanwhile kills the process (SIGBUS), as with every mapping.
  std::span<std::byte> bytes() const { return bytes_; }
  std::string_view text() const {
    return {reinterpret_cast<const char*>(bytes_.data()), bytes_.size()};
  }
  // Asks the system to begin reading the whole file into memory.
  void ReadAhead() const;

 private:
  MappedFile() = default;

  std::span<std::byte> bytes_;
};

// The whole file (or pipe) as a string. Throws kNotFound, kIo; kInvalidArgument when it is larger
// than `limit` bytes.
std::string ReadFile(const std::filesystem::path& path, size_t limit = size_t{1} << 30);

// A file that appears under its name only when Commit() has written, synced and renamed it; until
// then, and when destroyed without Commit, the old file stays and no other remains. A process that
// is killed leaves its hidden temporary file, ".NAME.PID.COUNT.tmp", beside the old one: nothing
// reads it, no later write trips over it, and it may be deleted.
//
// A link is followed: what it points to is replaced. The new file has the old one's permissions.
// What is no regular file (a device, a pipe) is written to as it is, without any of the above.
class AtomicFile {
 public:
  // Creates the temporary file beside `path`. Throws kIo (no permission, a directory of that name),
  // kNotFound (no such folder) naming it.
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  // Throw kIo (a full disk, …) naming the path.
  void Write(std::span<const std::byte> bytes);
  void Write(std::string_view text) { Write(std::as_bytes(std::span(text))); }
  void Commit();

 private:
  std::filesystem::path path_;       // no link
  std::filesystem::path temporary_;  // empty: written straight to path_, opened when that begins
  int descriptor_ = -1;
};

// Throws what AtomicFile would, and leaves nothing: before work that takes long and writes its
// result at its end.
void CheckWritable(const std::filesystem::path& path);

// AtomicFile for content at hand.
void WriteFileAtomically(const std::filesystem::path& path, std::string_view content);

// A directory that appears under its name, complete and synced, or not at all: fill(temporary)
// writes the files, then the temporary directory is synced and renamed over `path` (an old
// directory of that name is replaced in one step where the filesystem can exchange names). A link
// is followed. When fill throws, nothing remains; when the process is killed, the temporary
// directory may, as above. Throws kIo (a file of that name, …) and kNotFound, before fill where it
// can, and what fill throws.
void WriteDirectoryAtomically(const std::filesystem::path& path,
                              const std::function<void(const std::filesystem::path&)>& fill);

// A name beside `path` that nothing uses, of the kind that CleanUpAfterKilledWriters removes.
std::filesystem::path TemporaryName(const std::filesystem::path& path);

// Removes the temporary files and directories that killed processes left in `folder`, and puts back
// a directory that was to be replaced where the new one never got its name. Only of names for which
// is_target(NAME) is true, and only while no process writes them. Other hidden files stay.
void CleanUpAfterKilledWriters(const std::filesystem::path& folder,
                               const std::function<bool(std::string_view)>& is_target);

}  // namespace adder
