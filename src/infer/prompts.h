// Files of many prompts.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace adder {

// One prompt per line, empty lines skipped; with `json` each line is a JSON string or an object
// with the string "prompt". `source` is what messages call the text. Throws kCorrupt, naming the
// line; kInvalidArgument when there is no prompt.
std::vector<std::string> ParsePrompts(std::string_view text, bool json, const std::string& source);

}  // namespace adder
