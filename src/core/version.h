// Which release of Adder this library is. The number's one place is project() in CMakeLists.txt.
#pragma once

#include <string_view>

namespace adder {

// "major.minor.patch"
std::string_view Version();

}  // namespace adder
