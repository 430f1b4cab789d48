// A file that grows by whole records: logs of a run, which a resumed run cuts back and goes on
// with.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

namespace adder {

class AppendFile {
 public:
  // Opens or creates the file and cuts off everything after its first `keep` bytes. Throws kIo
  // naming the path.
  AppendFile(std::filesystem::path path, uint64_t keep);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  // Hands the record to the system in one write: killing the process leaves it whole or absent (a
  // full disk or a power cut can leave a part). Throws kIo naming the path.
  void Append(std::string_view record);

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
};

}  // namespace adder
