// Python's random.Random(seed) for a seed of 32 bits: MT19937 seeded as its authors' init_by_array
// does, and doubles of 53 bits from two outputs.
#pragma once

#include <cstdint>
#include <random>

namespace adder {

class PythonRandom {
 public:
  explicit PythonRandom(uint32_t seed);

  // Random.random(): uniform in [0, 1).
  double Next() {
    const auto high = static_cast<uint32_t>(engine_()) >> 5;  // 27 bits
    const auto low = static_cast<uint32_t>(engine_()) >> 6;   // 26 bits
    return (high * 67108864.0 + low) / 9007199254740992.0;    // (high · 2^26 + low) / 2^53
  }
  // An index as Random.choices draws it: uniform in [0, count).
  int64_t NextIndex(int64_t count) {
    return static_cast<int64_t>(Next() * static_cast<double>(count));
  }

 private:
  std::mt19937 engine_;
};

}  // namespace adder
