// Locking, checkpoints by number, and the link to the newest.
#include "adder/train/run_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include "adder/core/error.h"
#include "adder/formats/file.h"

namespace adder {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kCheckpoints = "checkpoints";
constexpr std::string_view kPrefix = "step-";
constexpr std::string_view kLatest = "latest";

[[noreturn]] void ThrowIo(const fs::path& path, std::string_view what, const std::string& reason) {
  throw Error(ErrorCode::kIo, fmt::format("{}: {}: {}", path.string(), what, reason));
}

// The step of "step-00001000", or -1 for any other name.
int64_t StepOf(std::string_view name) {
  if (!name.starts_with(kPrefix)) return -1;
  name.remove_prefix(kPrefix.size());
  int64_t step = -1;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), step);
  return error == std::errc() && end == name.data() + name.size() ? step : -1;
}

// Lets the link point to `target`, in one step.
void ReplaceLink(const fs::path& link, const fs::path& target) {
  const fs::path temporary = TemporaryName(link);
  std::error_code error;
  fs::create_directory_symlink(target, temporary, error);
  if (!error) fs::rename(temporary, link, error);
  if (error) ThrowIo(link, "cannot be written", error.message());
}

}  // namespace

RunFolder::RunFolder(fs::path path) : path_(std::move(path)) {
  std::error_code error;
  fs::create_directories(path_ / kCheckpoints, error);
  if (error) ThrowIo(path_, "the run's folder cannot be created", error.message());
  const fs::path lock = path_ / "lock";
  lock_ = open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (lock_ < 0) ThrowIo(lock, "cannot be opened for writing", strerror(errno));
  if (flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    const int reason = errno;
    close(lock_);
    if (reason != EWOULDBLOCK) ThrowIo(lock, "cannot be locked", strerror(reason));
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: another process trains in this folder", path_.string()));
  }
  CleanUpAfterKilledWriters(path_, [&](std::string_view name) {
    return name == kLatest || name == config().filename() || name == pace().filename() ||
           name == loss_curve().filename() || name == model().filename();
  });
  CleanUpAfterKilledWriters(path_ / kCheckpoints,
                            [](std::string_view name) { return StepOf(name) >= 0; });
}

RunFolder::~RunFolder() { close(lock_); }

std::map<int64_t, fs::path> RunFolder::Checkpoints() const {
  std::map<int64_t, fs::path> checkpoints;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(path_ / kCheckpoints, error)) {
    const int64_t step = StepOf(entry.path().filename().string());
    if (step >= 0 && entry.is_directory(error)) checkpoints[step] = entry.path();
  }
  return checkpoints;
}

fs::path RunFolder::LatestCheckpoint() const {
  const auto checkpoints = Checkpoints();
  return checkpoints.empty() ? fs::path() : checkpoints.rbegin()->second;
}

fs::path RunFolder::WriteCheckpoint(int64_t step, int64_t keep,
                                    const std::function<void(const fs::path&)>& fill) {
  const fs::path relative = fs::path(kCheckpoints) / fmt::format("{}{:08}", kPrefix, step);
  WriteDirectoryAtomically(path_ / relative, fill);
  ReplaceLink(path_ / kLatest, relative);
  auto checkpoints = Checkpoints();
  while (static_cast<int64_t>(checkpoints.size()) > keep) {
    const auto oldest = checkpoints.begin();
    // Under a temporary name first: a half-removed checkpoint must not look like one.
    const fs::path doomed = TemporaryName(oldest->second);
    std::error_code error;
    fs::rename(oldest->second, doomed, error);
    if (!error) fs::remove_all(doomed, error);
    if (error) ThrowIo(oldest->second, "cannot be removed", error.message());
    checkpoints.erase(oldest);
  }
  return path_ / relative;
}

}  // namespace adder
