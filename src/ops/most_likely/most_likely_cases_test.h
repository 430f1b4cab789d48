// Logits that the tests of most_likely share.
#pragma once

#include <limits>
#include <vector>

#include "adder/core/random.h"
#include "adder/core/tensor.h"

namespace adder::test {

inline std::vector<Tensor> MostLikelyCases() {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  Random random(1);
  std::vector<Tensor> cases;
  for (const int64_t vocab : {1, 15, 16, 31, 255, 256, 257, 1023, 1024, 1025, 50280}) {
    const Tensor wide = Tensor::Empty({9, vocab + 3}, DType::kF32);
    FillNormal(wide, random, 0, 3);
    const auto at = [&](int64_t row, int64_t column) -> float& {
      return wide.data<float>()[row * (vocab + 3) + column];
    };
    const int64_t last = vocab - 1;
    at(1, last) = at(1, 0) = 50;  // a tie
    at(2, last) = 50;
    at(3, last / 2) = std::numeric_limits<float>::quiet_NaN();
    at(4, last / 3) = kInfinity;
    at(5, last) = -kInfinity;
    for (int64_t t = 0; t < vocab; ++t) {
      at(6, t) = -kInfinity;
      at(7, t) = 2;
      at(8, t) = -std::numeric_limits<float>::max();
    }
    cases.push_back(wide.Columns(0, vocab));
  }
  cases.push_back(Tensor::Empty({0, 5}, DType::kF32));
  cases.push_back(Tensor::Empty({3, 0}, DType::kF32));
  return cases;
}

}  // namespace adder::test
