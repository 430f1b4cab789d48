// most_likely, as it is defined.
#include <cmath>
#include <limits>

#include "adder/ops/most_likely/most_likely.h"

namespace adder::reference {

void MostLikely(const Tensor& logits, const Tensor& tokens) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (int64_t r = 0; r < logits.dim(0); ++r) {
    const auto* row = static_cast<const float*>(logits.row(r));
    float best = -kInfinity;
    int32_t token = -1;
    bool valid = true;
    for (int64_t t = 0; t < logits.dim(1); ++t) {
      valid = valid && !std::isnan(row[t]) && row[t] != kInfinity;
      if (row[t] > best) {
        best = row[t];
        token = static_cast<int32_t>(t);
      }
    }
    tokens.data<int32_t>()[r] = valid ? token : -1;
  }
}

}  // namespace adder::reference
