#include "adder/core/version.h"

namespace adder {

std::string_view Version() { return ADDER_VERSION; }

}  // namespace adder
