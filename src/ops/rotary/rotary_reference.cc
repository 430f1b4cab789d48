// rotary: its definition, in double.
#include <cmath>

#include "adder/ops/rotary/rotary_backends.h"

namespace adder::reference {
namespace {

void Rotate(const Tensor& x, const RotaryEmbedding& embedding, double direction, const Tensor& y) {
  const int64_t half = embedding.rotary_dim / 2;
  for (int64_t t = 0; t < x.dim(0); ++t) {
    const auto position = static_cast<double>(embedding.positions.data<int64_t>()[t]);
    for (int64_t head = 0; head < x.dim(1); head += embedding.d_head) {
      const double* from = x.data<double>() + t * x.stride(0) + head;
      double* to = y.data<double>() + t * y.stride(0) + head;
      for (int64_t i = 0; i < half; ++i) {
        const double angle = direction * position * RotaryFrequency(embedding, i);
        const int64_t first = embedding.interleaved ? 2 * i : i;
        const int64_t second = embedding.interleaved ? 2 * i + 1 : i + half;
        const double a = from[first];
        const double b = from[second];
        to[first] = a * std::cos(angle) - b * std::sin(angle);
        to[second] = a * std::sin(angle) + b * std::cos(angle);
      }
      for (int64_t d = embedding.rotary_dim; d < embedding.d_head; ++d) to[d] = from[d];
    }
  }
}

}  // namespace

void Rotary(const Tensor& x, const RotaryEmbedding& embedding, const Tensor& y) {
  CheckRotary("rotary", x, "x", embedding, y, "y", {DType::kF64});
  Rotate(x, embedding, 1, y);
}

void RotaryBackward(const RotaryEmbedding& embedding, const Tensor& dy, const Tensor& dx) {
  CheckRotary("rotary backward", dy, "dy", embedding, dx, "dx", {DType::kF64});
  Rotate(dy, embedding, -1, dx);
}

}  // namespace adder::reference
