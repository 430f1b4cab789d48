#include "adder/core/random.h"

#include <Random123/philox.h>

#include <cmath>
#include <numbers>

#include "adder/core/error.h"

namespace adder {
namespace {

template <class Draw>
void Fill(const Tensor& tensor, Draw&& draw) {
  ForEachRun(tensor, [&](int64_t offset, int64_t length) {
    for (int64_t i = offset; i < offset + length; ++i) {
      const double value = draw();
      switch (tensor.dtype()) {
        case DType::kF64:
          tensor.data<double>()[i] = value;
          break;
        case DType::kF32:
          tensor.data<float>()[i] = static_cast<float>(value);
          break;
        case DType::kF16:
          tensor.data<Half>()[i] = Half(static_cast<float>(value));
          break;
        case DType::kBF16:
          tensor.data<BFloat16>()[i] = BFloat16(static_cast<float>(value));
          break;
        default:
          throw Error(ErrorCode::kInvalidArgument,
                      "random values for " + tensor.ToString() + ", expected a floating dtype");
      }
    }
  });
}

}  // namespace

Random::Random(uint64_t seed, uint64_t stream, uint64_t offset)
    : seed_(seed), stream_(stream), offset_(offset) {}

void Random::Refill() {
  const uint64_t counter = offset_ / 4;
  const r123::Philox4x32::ctr_type ctr = {
      {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32),
       static_cast<uint32_t>(stream_), static_cast<uint32_t>(stream_ >> 32)}};
  const r123::Philox4x32::key_type key = {
      {static_cast<uint32_t>(seed_), static_cast<uint32_t>(seed_ >> 32)}};
  const auto block = r123::Philox4x32{}(ctr, key);
  for (size_t i = 0; i < 4; ++i) block_[i] = block[i];
  block_valid_ = true;
}

uint32_t Random::NextU32() {
  if (!block_valid_ || offset_ % 4 == 0) Refill();
  return block_[offset_++ % 4];
}

uint64_t Random::NextU64() {
  const uint64_t low = NextU32();
  return low | (uint64_t{NextU32()} << 32);
}

float Random::NextFloat() { return static_cast<float>(NextU32() >> 8) * 0x1p-24f; }

double Random::NextDouble() { return static_cast<double>(NextU64() >> 11) * 0x1p-53; }

uint64_t Random::NextBelow(uint64_t bound) {
  // Draws below `threshold` would favour small results (2^64 mod bound of them): draw again.
  const uint64_t threshold = -bound % bound;
  uint64_t draw = NextU64();
  while (draw < threshold) draw = NextU64();
  return draw % bound;
}

double Random::NextNormal() {
  const double radius = std::sqrt(-2.0 * std::log1p(-NextDouble()));
  return radius * std::cos(2.0 * std::numbers::pi * NextDouble());
}

void FillUniform(const Tensor& tensor, Random& random, double low, double high) {
  Fill(tensor, [&] { return low + (high - low) * random.NextDouble(); });
}

void FillNormal(const Tensor& tensor, Random& random, double mean, double stddev) {
  Fill(tensor, [&] { return mean + stddev * random.NextNormal(); });
}

}  // namespace adder
