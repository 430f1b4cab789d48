// Numbers for people.
#pragma once

#include <cstdint>
#include <string>

namespace adder {

// 129135360 → "129,135,360"
std::string Grouped(int64_t number);
// Decimal units, three significant digits: "999 B", "1.23 kB", "517 MB"
std::string HumanBytes(int64_t bytes);

}  // namespace adder
