// Results on standard output, with failures noticed.
#pragma once

#include <string_view>

namespace adder {

// Writes and flushes, so that streamed text is seen at once. Throws kIo.
void WriteStandardOutput(std::string_view text);

// Ends the line where standard output is a terminal. A file or pipe gets the text as it is.
void EndTerminalLine();

}  // namespace adder
