// What a row of tokens is to predict.
#pragma once

#include <cstdint>

namespace adder {

// Target of a row that predicts nothing: its loss and gradient are zero.
inline constexpr int32_t kIgnoreTarget = -100;

}  // namespace adder
