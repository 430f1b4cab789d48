// On the CPU by the exponent's bits, which are all set in infinities and NaNs alone.
#include "adder/train/finite.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <span>

#include "adder/ops/adamw/adamw.h"

namespace adder {

bool AllFinite(const Tensor& values) {
  if (values.device().type != DeviceType::kCpu) {
    // In double the squares of finite numbers do not overflow, nor does their sum.
    return std::isfinite(GradientNorm({&values, 1}));
  }
  constexpr uint32_t kExponent = 0x7f800000;
  bool finite = true;
  // Without an early end: the loop becomes vector code.
  for (const float value :
       std::span(values.data<float>(), static_cast<size_t>(values.elements()))) {
    finite &= (std::bit_cast<uint32_t>(value) & kExponent) != kExponent;
  }
  return finite;
}

}  // namespace adder
