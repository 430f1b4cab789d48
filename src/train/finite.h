// Whether numbers are still numbers.
#pragma once

#include "adder/core/tensor.h"

namespace adder {

// Whether no element of a dense f32 tensor, on any device, is infinite or NaN.
bool AllFinite(const Tensor& values);

}  // namespace adder
