// The generator's first state, handed to the standard library's engine as a seed sequence.
#include "adder/eval/python_random.h"

#include <algorithm>
#include <array>
#include <cstddef>

namespace adder {
namespace {

constexpr size_t kWords = std::mt19937::state_size;

// init_by_array of Matsumoto and Nishimura's mt19937ar.c, for an array of one word.
class InitByArray {
 public:
  using result_type = uint32_t;

  explicit InitByArray(uint32_t key) {
    state_[0] = 19650218;
    for (uint32_t i = 1; i < kWords; ++i) state_[i] = Mixed(i, 1812433253) + i;
    size_t i = 1;
    for (size_t step = 0; step < kWords; ++step) {
      state_[i] = (state_[i] ^ Mixed(i, 1664525)) + key;
      i = Next(i);
    }
    for (size_t step = 1; step < kWords; ++step) {
      state_[i] = (state_[i] ^ Mixed(i, 1566083941)) - static_cast<uint32_t>(i);
      i = Next(i);
    }
    state_[0] = 0x80000000;
  }

  // What an engine asks of a seed sequence: its whole state.
  template <class Iterator>
  void generate(Iterator begin, Iterator end) {
    std::copy_n(state_.begin(), end - begin, begin);
  }

 private:
  uint32_t Mixed(size_t i, uint32_t factor) const {
    return (state_[i - 1] ^ (state_[i - 1] >> 30)) * factor;
  }
  // The word after i; past the last, the first one takes the last one's value.
  size_t Next(size_t i) {
    if (++i < kWords) return i;
    state_[0] = state_[kWords - 1];
    return 1;
  }

  std::array<uint32_t, kWords> state_ = {};
};

std::mt19937 Seeded(uint32_t seed) {
  InitByArray sequence(seed);
  return std::mt19937(sequence);
}

}  // namespace

PythonRandom::PythonRandom(uint32_t seed) : engine_(Seeded(seed)) {}

}  // namespace adder
