// The one exception type of the library: a message that says what, where and what was expected,
// with a code that programs, bindings and servers can map to their own.
#pragma once

#include <stdexcept>
#include <string>

namespace adder {

enum class ErrorCode {
  kInvalidArgument,  // a flag, shape, dtype or value that the callee does not accept
  kNotFound,         // a file, tensor or key that should exist does not
  kIo,               // the operating system refused a read, write, map or rename
  kCorrupt,          // a file's content contradicts its format, its checksum or its config
  kUnsupported,      // valid, but outside what this build, backend or version does
  kOutOfMemory,      // an allocation failed
  kNumeric,          // a NaN or infinity where training or evaluation needs a number
  kCancelled,        // the user asked to stop
};

// The name programs print and servers return: "invalid_argument", "not_found", ...
const char* ErrorCodeName(ErrorCode code);

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}

  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace adder
