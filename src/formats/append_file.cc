// Appending by plain system calls: no buffer that a kill could lose.
#include "adder/formats/append_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "adder/core/error.h"

namespace adder {

AppendFile::AppendFile(std::filesystem::path path, uint64_t keep) : path_(std::move(path)) {
  descriptor_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (descriptor_ < 0 || ftruncate(descriptor_, static_cast<off_t>(keep)) != 0) {
    const int reason = errno;
    if (descriptor_ >= 0) close(descriptor_);
    throw Error(ErrorCode::kIo, fmt::format("{}: cannot be opened for writing: {}", path_.string(),
                                            strerror(reason)));
  }
}

AppendFile::~AppendFile() { close(descriptor_); }

void AppendFile::Append(std::string_view record) {
  while (!record.empty()) {
    const ssize_t written = write(descriptor_, record.data(), record.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) {
      throw Error(ErrorCode::kIo,
                  fmt::format("{}: cannot be written: {}", path_.string(), strerror(errno)));
    }
    record.remove_prefix(static_cast<size_t>(written));
  }
}

}  // namespace adder
