// Results on standard output.
#include "adder/cli/standard_output.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>

#include "adder/core/error.h"

namespace adder {

void WriteStandardOutput(std::string_view text) {
  if (text.empty()) return;
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    throw Error(ErrorCode::kIo,
                std::string("standard output: cannot be written: ") + std::strerror(errno));
  }
}

void EndTerminalLine() {
  if (isatty(STDOUT_FILENO)) WriteStandardOutput("\n");
}

}  // namespace adder
