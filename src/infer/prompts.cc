// Line by line.
#include "adder/infer/prompts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>

#include "adder/core/error.h"
#include "adder/formats/json.h"

namespace adder {

std::vector<std::string> ParsePrompts(std::string_view text, bool json, const std::string& source) {
  std::vector<std::string> prompts;
  int64_t number = 0;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    ++number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    if (!json) {
      prompts.emplace_back(line);
      continue;
    }
    const std::string place = fmt::format("{}, line {}", source, number);
    const JsonValue value = JsonValue::Parse(line, place);
    const JsonValue* prompt = value.AsObject() != nullptr ? value.Find("prompt") : &value;
    if (prompt == nullptr || prompt->AsString() == nullptr) {
      throw Error(ErrorCode::kCorrupt,
                  place + ": expected a JSON string or an object with a string \"prompt\"");
    }
    prompts.push_back(*prompt->AsString());
  }
  if (prompts.empty()) {
    throw Error(ErrorCode::kInvalidArgument, source + ": no prompt in the file");
  }
  return prompts;
}

}  // namespace adder
