// Numbers for people, and from them.
#include "adder/cli/numbers.h"

#include <fmt/core.h>

#include <charconv>
#include <system_error>

namespace adder {

std::string Grouped(int64_t number) {
  std::string digits = std::to_string(number);
  const size_t first = digits.front() == '-' ? 1 : 0;
  for (size_t i = digits.size(); i > first + 3;) {
    i -= 3;
    digits.insert(i, 1, ',');
  }
  return digits;
}

std::string HumanBytes(int64_t bytes) {
  if (bytes < 1000) return fmt::format("{} B", bytes);
  auto size = static_cast<double>(bytes);
  const char* unit = "";
  for (const char* next : {"kB", "MB", "GB", "TB"}) {
    size /= 1000.0;
    unit = next;
    if (size < 999.5) break;
  }
  return fmt::format("{:.{}f} {}", size, size < 9.995 ? 2 : size < 99.95 ? 1 : 0, unit);
}

CLI::Validator WholeNumber(int64_t least, int64_t most) {
  const auto read = [least, most](std::string& text) -> std::string {
    int64_t number = 0;
    const char* const end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, number);
    if (error != std::errc() || stop != end || number < least || number > most) {
      const bool bounded = most != std::numeric_limits<int64_t>::max();
      return fmt::format("{} is no whole number {}", text,
                         bounded ? fmt::format("from {} to {}", least, most)
                                 : fmt::format("from {} on that fits 64 bits", least));
    }
    text = std::to_string(number);
    return {};
  };
  return {read, "", ""};
}

}  // namespace adder
