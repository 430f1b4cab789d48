// Numbers for people, and from them.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <limits>
#include <string>

namespace adder {

// 129135360 → "129,135,360"
std::string Grouped(int64_t number);
// Decimal units, three significant digits: "999 B", "1.23 kB", "517 MB"
std::string HumanBytes(int64_t bytes);

// For option->transform(): takes decimal whole numbers from `least` to `most`. CLI11's own reading
// makes numbers that are too large the largest one, and takes 010 for 8.
CLI::Validator WholeNumber(int64_t least, int64_t most = std::numeric_limits<int64_t>::max());

}  // namespace adder
