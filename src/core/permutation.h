// A shuffled order that is computed, not stored.
#pragma once

#include <array>
#include <cstdint>

namespace adder {

// A pseudorandom permutation of 0 … size - 1: a Feistel network over the bits of the index, whose
// round function is a hash under keys drawn from a Philox stream. What leads out of the range is
// sent through again until it lies inside (at most twice on average).
class Permutation {
 public:
  Permutation() = default;
  // Streams as for Random (core/random.h). size ≥ 0, below 2^62.
  Permutation(int64_t size, uint64_t seed, uint64_t stream);

  // Where `index`, in [0, size), goes.
  int64_t operator()(int64_t index) const;

 private:
  uint64_t Shuffle(uint64_t value) const;

  uint64_t size_ = 0;
  int low_bits_ = 0;   // of an index
  int high_bits_ = 0;  // those above
  std::array<uint64_t, 6> keys_ = {};
};

}  // namespace adder
