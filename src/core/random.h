// Philox4x32-10 counter-based random numbers (Salmon et al. 2011): the same stream on every
// backend, and any position of a stream reached in O(1), so that a resumed run draws what the
// uninterrupted one would have.
#pragma once

#include <cstdint>

#include "adder/core/tensor.h"

namespace adder {

class Random {
 public:
  // Streams of one seed are independent of each other; `offset` skips that many 32-bit draws.
  explicit Random(uint64_t seed, uint64_t stream = 0, uint64_t offset = 0);

  uint32_t NextU32();
  uint64_t NextU64();
  // Uniform in [0, 1), 24 random bits / 53 random bits.
  float NextFloat();
  double NextDouble();
  // Uniform in [0, bound), without modulo bias. bound ≥ 1.
  uint64_t NextBelow(uint64_t bound);
  // Standard normal (Box-Muller; two uniforms a draw, so that streams can be skipped).
  double NextNormal();

  // 32-bit draws so far: what to pass as `offset` to go on from here.
  uint64_t offset() const { return offset_; }

 private:
  void Refill();

  uint64_t seed_;
  uint64_t stream_;
  uint64_t offset_;
  uint32_t block_[4] = {};
  bool block_valid_ = false;
};

// Fill every element of a floating tensor, in row-major order.
void FillUniform(const Tensor& tensor, Random& random, double low, double high);
void FillNormal(const Tensor& tensor, Random& random, double mean, double stddev);

}  // namespace adder
