// rotary: argument checks, and the choice of the backend by the device.
#include "adder/ops/rotary/rotary.h"

#include <fmt/format.h>

#include <cmath>

#include "adder/ops/argument_check.h"
#include "adder/ops/rotary/rotary_backends.h"

namespace adder {
namespace {

constexpr const char* kOp = "rotary";
constexpr const char* kBackwardOp = "rotary backward";
// Products of a position and a frequency keep their fraction in double up to here.
constexpr int64_t kMostPosition = int64_t{1} << 40;

void Run(const char* op, const Tensor& x, const char* from, const RotaryEmbedding& embedding,
         const Tensor& y, const char* to, bool inverse) {
  CheckRotary(op, x, from, embedding, y, to, {DType::kF32, DType::kBF16, DType::kF16});
  if (x.device().type == DeviceType::kCuda) return cuda::Rotary(x, embedding, inverse, y);
  cpu::Rotary(x, embedding, inverse, y);
}

}  // namespace

void CheckRotary(const char* op, const Tensor& x, const char* from,
                 const RotaryEmbedding& embedding, const Tensor& y, const char* to,
                 std::initializer_list<DType> activations) {
  const ArgumentCheck check(op, x.device());
  check.Rank(x, from, 2);
  check.Rows(x, from, activations, x.shape());
  if (embedding.d_head < 1 || x.dim(1) % embedding.d_head != 0) {
    check.Fail(fmt::format("a head has {} channels, expected a divisor of the {} columns",
                           embedding.d_head, x.dim(1)));
  }
  if (embedding.rotary_dim < 0 || embedding.rotary_dim > embedding.d_head ||
      embedding.rotary_dim % 2 != 0) {
    check.Fail(fmt::format("rotary_dim is {}, expected an even number from 0 to {}",
                           embedding.rotary_dim, embedding.d_head));
  }
  if (!(embedding.theta > 0) || !std::isfinite(embedding.theta)) {
    check.Fail(fmt::format("theta is {}, expected a number > 0", embedding.theta));
  }
  check.Dense(embedding.positions, "positions", {DType::kI64}, {x.dim(0)});
  // Looking at positions on another device would wait for it.
  const int64_t readable = x.device().type == DeviceType::kCpu ? x.dim(0) : 0;
  for (int64_t t = 0; t < readable; ++t) {
    const int64_t position = embedding.positions.data<int64_t>()[t];
    if (position <= -kMostPosition || position >= kMostPosition) {
      check.Fail(fmt::format("row {} is at position {}, expected less than 2^40", t, position));
    }
  }
  check.Rows(y, to, {x.dtype()}, x.shape());
  check.ApartOrSame(y, to, x, from);
}

double RotaryFrequency(const RotaryEmbedding& embedding, int64_t pair) {
  return std::pow(embedding.theta,
                  -2 * static_cast<double>(pair) / static_cast<double>(embedding.rotary_dim));
}

void Rotary(const Tensor& x, const RotaryEmbedding& embedding, const Tensor& y) {
  Run(kOp, x, "x", embedding, y, "y", false);
}

void RotaryBackward(const RotaryEmbedding& embedding, const Tensor& dy, const Tensor& dx) {
  Run(kBackwardOp, dy, "dy", embedding, dx, "dx", true);
}

}  // namespace adder
