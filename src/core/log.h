// Log lines on standard error: "12:03:07 warning: ...". Results go to standard output, never here.
#pragma once

#include <string_view>

namespace adder {

enum class LogLevel { kDebug, kInfo, kWarning, kError, kOff };

// Lines below the level are dropped. The default is kInfo; ADDER_LOG=debug|info|warning|error|off
// sets it at start; any other value changes nothing but for a warning.
void SetLogLevel(LogLevel level);
void Log(LogLevel level, std::string_view message);

}  // namespace adder
