// An unbalanced Feistel network with cycle walking (Black and Rogaway 2002).
#include "adder/core/permutation.h"

#include <bit>

#include "adder/core/random.h"

namespace adder {
namespace {

// Every bit of the result depends on every bit of the value (the finalizer of SplitMix64, Steele
// et al. 2014).
uint64_t Mix(uint64_t value) {
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
  value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
  return value ^ (value >> 31);
}

uint64_t LowBits(uint64_t value, int bits) { return value & ((uint64_t{1} << bits) - 1); }

}  // namespace

Permutation::Permutation(int64_t size, uint64_t seed, uint64_t stream)
    : size_(static_cast<uint64_t>(size)) {
  // At least one bit on each side.
  const int bits = size_ > 4 ? static_cast<int>(std::bit_width(size_ - 1)) : 2;
  low_bits_ = bits / 2;
  high_bits_ = bits - low_bits_;
  Random random(seed, stream);
  for (uint64_t& key : keys_) key = random.NextU64();
}

uint64_t Permutation::Shuffle(uint64_t value) const {
  // Each round replaces one side by its sum with a hash of the other, which can be undone.
  uint64_t low = LowBits(value, low_bits_);
  uint64_t high = value >> low_bits_;
  for (size_t round = 0; round < keys_.size(); round += 2) {
    high = LowBits(high + Mix(low + keys_[round]), high_bits_);
    low = LowBits(low + Mix(high + keys_[round + 1]), low_bits_);
  }
  return (high << low_bits_) | low;
}

int64_t Permutation::operator()(int64_t index) const {
  uint64_t value = Shuffle(static_cast<uint64_t>(index));
  while (value >= size_) value = Shuffle(value);
  return static_cast<int64_t>(value);
}

}  // namespace adder
