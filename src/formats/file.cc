#include "adder/formats/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <system_error>
#include <utility>
#include <vector>

#include "adder/core/error.h"

namespace adder {
namespace {

// Throws what errno says about `path`.
[[noreturn]] void Fail(const std::filesystem::path& path, const char* action) {
  const int code = errno;
  throw Error(code == ENOENT ? ErrorCode::kNotFound : ErrorCode::kIo,
              fmt::format("{}: cannot {}: {}", path.string(), action,
                          std::generic_category().message(code)));
}

class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int value() const { return value_; }

 private:
  int value_;
};

// Repeats a system call that a signal interrupted.
template <class Call>
auto Retry(Call&& call) {
  while (true) {
    const auto result = call();
    if (result != -1 || errno != EINTR) return result;
  }
}

std::filesystem::path FolderOf(const std::filesystem::path& path) {
  const std::filesystem::path folder = path.parent_path();
  return folder.empty() ? "." : folder;
}

// Makes what has been written to a file, or renamed in a directory, survive a power cut.
void Sync(const std::filesystem::path& path) {
  const Descriptor file(Retry([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC); }));
  if (file.value() < 0) Fail(path, "open");
  // Some filesystems cannot sync a directory; there is nothing more to do then.
  if (Retry([&] { return ::fsync(file.value()); }) != 0 && errno != EINVAL) Fail(path, "sync");
}

void SyncTree(const std::filesystem::path& folder) {
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.is_symlink()) continue;
    if (entry.is_regular_file() || entry.is_directory()) Sync(entry.path());
  }
  Sync(folder);
}

// Temporary names are ".NAME.PID.COUNT.tmp"; what a directory is to replace is kept under the same
// with ".old" where it cannot be exchanged in one step.
constexpr std::string_view kTemporary = ".tmp";
constexpr std::string_view kOld = ".old";

// The NAME of a temporary name without ".old", or nothing.
std::string_view TargetOf(std::string_view temporary) {
  const auto drop_number = [&] {
    const size_t dot = temporary.rfind('.');
    if (dot == std::string_view::npos || dot + 1 == temporary.size()) return false;
    const std::string_view digits = temporary.substr(dot + 1);
    temporary = temporary.substr(0, dot);
    return std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; });
  };
  if (!temporary.starts_with('.') || !temporary.ends_with(kTemporary)) return {};
  temporary.remove_suffix(kTemporary.size());
  for (int numbers = 0; numbers < 2; ++numbers) {
    if (!drop_number()) return {};
  }
  if (temporary.empty()) return {};
  return temporary.substr(1);
}

// Finds a hidden name beside `path` that nobody uses. create(name) returns false when the name was
// taken (errno EEXIST: another file of this process, or the remains of a dead one) and true when it
// is ours.
template <class Create>
std::filesystem::path CreateTemporary(const std::filesystem::path& path, Create&& create) {
  // A path that ends in a slash has no filename, one that ends in dots none that could be given to
  // another file; one that is too long must stay a legal name.
  const std::string name = path.filename().string().substr(0, 200);
  if (name.empty() || name == "." || name == "..") {
    throw Error(ErrorCode::kInvalidArgument, "\"" + path.string() + "\" does not end in a name");
  }
  for (int count = 0;; ++count) {
    std::filesystem::path candidate =
        FolderOf(path) / fmt::format(".{}.{}.{}{}", name, ::getpid(), count, kTemporary);
    if (create(candidate)) return candidate;
    if (errno != EEXIST) Fail(path, "create");
  }
}

// What `path` stands for after all links at its end.
std::filesystem::path FollowLinks(std::filesystem::path path) {
  constexpr int kMostLinks = 40;  // as many as the system follows
  for (int links = 0; links <= kMostLinks; ++links) {
    std::error_code no_link;
    const std::filesystem::path target = std::filesystem::read_symlink(path, no_link);
    if (no_link) return path;
    path = path.parent_path() / target;  // the target alone where it is absolute
  }
  errno = ELOOP;
  Fail(path, "follow");
}

std::filesystem::path WithoutTrailingSlash(const std::filesystem::path& path) {
  return path.has_filename() ? path : path.parent_path();
}

// Deletes a directory tree when it goes out of scope.
struct TreeRemover {
  const std::filesystem::path& path;

  ~TreeRemover() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
};

}  // namespace

std::shared_ptr<const MappedFile> MappedFile::Open(const std::filesystem::path& path) {
  // O_NONBLOCK: opening a pipe must not wait for its writer.
  const Descriptor file(
      Retry([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK); }));
  if (file.value() < 0) Fail(path, "open");
  struct stat status = {};
  if (::fstat(file.value(), &status) != 0) Fail(path, "examine");
  if (!S_ISREG(status.st_mode)) {
    throw Error(ErrorCode::kIo,
                fmt::format("{}: {}, expected a file", path.string(),
                            S_ISDIR(status.st_mode) ? "is a directory" : "is not a regular file"));
  }
  std::shared_ptr<MappedFile> mapped(new MappedFile);
  const auto size = static_cast<size_t>(status.st_size);
  if (size == 0) return mapped;
  // MAP_NORESERVE: pages are copied only when written, which next to none are, so a file larger
  // than memory must not be refused.
  void* data =
      ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file.value(), 0);
  if (data == MAP_FAILED) Fail(path, "map");
  mapped->bytes_ = {static_cast<std::byte*>(data), size};
  return mapped;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(bytes_.data(), bytes_.size());
}

void MappedFile::ReadAhead() const {
  // Advice: where the system does not take it, pages are read when they are touched.
  if (!bytes_.empty()) ::madvise(bytes_.data(), bytes_.size(), MADV_WILLNEED);
}

std::string ReadFile(const std::filesystem::path& path, size_t limit) {
  const Descriptor file(Retry([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC); }));
  if (file.value() < 0) Fail(path, "open");
  struct stat status = {};
  if (::fstat(file.value(), &status) != 0) Fail(path, "examine");
  // The size is a hint only: a pipe has none, and a file may grow while it is read.
  std::string content;
  size_t used = 0;
  size_t room = status.st_size > 0 ? static_cast<size_t>(status.st_size) + 1 : size_t{1} << 16;
  while (true) {
    content.resize(std::min(room, limit + 1));
    const ssize_t count =
        Retry([&] { return ::read(file.value(), content.data() + used, content.size() - used); });
    if (count < 0) Fail(path, "read");
    used += static_cast<size_t>(count);
    if (used > limit) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("{}: larger than {} bytes, the most that is read at once",
                              path.string(), limit));
    }
    if (count == 0) break;
    if (used == content.size()) room = 2 * content.size();
  }
  content.resize(used);
  return content;
}

AtomicFile::AtomicFile(std::filesystem::path path) : path_(std::move(path)) {
  struct stat old = {};
  const bool exists = ::stat(path_.c_str(), &old) == 0;
  if (exists && !S_ISREG(old.st_mode) && !S_ISDIR(old.st_mode)) {
    // Not opened yet: a pipe's reader would take the end of a probe for the end of the content.
    if (::access(path_.c_str(), W_OK) != 0) Fail(path_, "write");
    return;
  }
  if (exists && S_ISDIR(old.st_mode)) {
    throw Error(ErrorCode::kIo, fmt::format("{}: is a directory, expected a file", path_.string()));
  }
  path_ = FollowLinks(path_);
  temporary_ = CreateTemporary(path_, [&](const std::filesystem::path& name) {
    descriptor_ =
        Retry([&] { return ::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666); });
    return descriptor_ >= 0;
  });
  if (!exists) return;
  constexpr mode_t kPermissions = 0777;
  struct stat made = {};
  // Filesystems without permissions give every file the same: then there is nothing to change.
  if (::fstat(descriptor_, &made) != 0 || ((made.st_mode ^ old.st_mode) & kPermissions) == 0 ||
      ::fchmod(descriptor_, old.st_mode & kPermissions) == 0) {
    return;
  }
  const int code = errno;
  ::close(descriptor_);
  ::unlink(temporary_.c_str());
  errno = code;
  Fail(path_, "set the permissions of");
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::Write(std::span<const std::byte> bytes) {
  if (temporary_.empty() && descriptor_ < 0) {
    descriptor_ = Retry([&] { return ::open(path_.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY); });
    if (descriptor_ < 0) Fail(path_, "open");
  }
  while (!bytes.empty()) {
    const ssize_t count = Retry([&] { return ::write(descriptor_, bytes.data(), bytes.size()); });
    if (count < 0) Fail(path_, "write");
    bytes = bytes.subspan(static_cast<size_t>(count));
  }
}

void AtomicFile::Commit() {
  if (temporary_.empty()) Write(std::string_view());  // nothing was written: opened nevertheless
  // Devices and pipes have nothing to sync and say so.
  if (Retry([&] { return ::fsync(descriptor_); }) != 0 &&
      !(temporary_.empty() && (errno == EINVAL || errno == EROFS || errno == ENOTSUP))) {
    Fail(path_, "write");
  }
  // The descriptor is gone whatever close says; a late write error must still be reported.
  if (::close(std::exchange(descriptor_, -1)) != 0) Fail(path_, "write");
  if (temporary_.empty()) return;
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) Fail(path_, "replace");
  temporary_.clear();
  Sync(FolderOf(path_));
}

void CheckWritable(const std::filesystem::path& path) { const AtomicFile probe(path); }

void WriteFileAtomically(const std::filesystem::path& path, std::string_view content) {
  AtomicFile file(path);
  file.Write(content);
  file.Commit();
}

void WriteDirectoryAtomically(const std::filesystem::path& path,
                              const std::function<void(const std::filesystem::path&)>& fill) {
  const std::filesystem::path target = FollowLinks(WithoutTrailingSlash(path));
  const std::filesystem::file_status status = std::filesystem::symlink_status(target);
  if (std::filesystem::exists(status) && !std::filesystem::is_directory(status)) {
    throw Error(ErrorCode::kIo,
                fmt::format("{}: is no directory, expected one or nothing there", path.string()));
  }
  if (!std::filesystem::exists(status)) {
    const std::string name = target.filename().string();
    CleanUpAfterKilledWriters(FolderOf(target),
                              [&](std::string_view other) { return other == name; });
  }
  const std::filesystem::path temporary = CreateTemporary(
      target, [](const std::filesystem::path& name) { return ::mkdir(name.c_str(), 0777) == 0; });
  // At the end the temporary name holds nothing, what was half-written, or the directory replaced.
  const TreeRemover remover{temporary};
  fill(temporary);
  SyncTree(temporary);
  if (::rename(temporary.c_str(), target.c_str()) != 0) {
    if (errno != EEXIST && errno != ENOTEMPTY) Fail(target, "replace");
    // A directory with content cannot be renamed over. Both names are exchanged in one step; where
    // the filesystem cannot do that, a crash between the two renames leaves the old directory
    // under its hidden name, from which it is put back.
    if (::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) != 0) {
      if (errno != EINVAL && errno != ENOSYS) Fail(target, "replace");
      const std::filesystem::path old = temporary.string() + std::string(kOld);
      if (::rename(target.c_str(), old.c_str()) != 0) Fail(target, "replace");
      if (::rename(temporary.c_str(), target.c_str()) != 0) {
        const int code = errno;
        ::rename(old.c_str(), target.c_str());
        errno = code;
        Fail(target, "replace");
      }
      const TreeRemover old_remover{old};
    }
  }
  Sync(FolderOf(target));
}

std::filesystem::path TemporaryName(const std::filesystem::path& path) {
  return CreateTemporary(path, [](const std::filesystem::path& name) {
    const bool taken = std::filesystem::exists(std::filesystem::symlink_status(name));
    if (taken) errno = EEXIST;
    return !taken;
  });
}

void CleanUpAfterKilledWriters(const std::filesystem::path& folder,
                               const std::function<bool(std::string_view)>& is_target) {
  std::error_code error;
  std::vector<std::filesystem::path> remains;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    remains.push_back(entry.path());
  }
  for (const std::filesystem::path& path : remains) {
    const std::string name = path.filename().string();
    std::string_view temporary = name;
    const bool old = temporary.ends_with(kOld);
    if (old) temporary.remove_suffix(kOld.size());
    const std::string_view target = TargetOf(temporary);
    if (target.empty() || !is_target(target)) continue;
    if (old && !std::filesystem::exists(std::filesystem::symlink_status(folder / target))) {
      if (::rename(path.c_str(), (folder / target).c_str()) != 0) Fail(path, "put back");
    } else {
      std::filesystem::remove_all(path, error);
    }
  }
}

}  // namespace adder
