// rotary on the CPU: rows are shared between threads.
#include <numbers>
#include <vector>

#include "adder/backend/cpu/parallel.h"
#include "adder/ops/rotary/rotary_backends.h"
#include "adder/ops/rotary/rotary_kernel.h"

namespace adder::cpu {
void Rotary(const Tensor& x, const RotaryEmbedding& embedding, bool inverse, const Tensor& y) {
  if (x.elements() == 0) return;
  std::vector<double> frequencies;
  for (int64_t i = 0; i < embedding.rotary_dim / 2; ++i) {
    frequencies.push_back(RotaryFrequency(embedding, i) * 2 / std::numbers::pi);
  }
  ParallelFor(x.dim(0), kElementsPerThread / x.dim(1), [&](int64_t begin, int64_t end, int) {
    std::vector<float> table(static_cast<size_t>(3 * embedding.rotary_dim));
    RotaryArguments arguments;
    arguments.x = x.row(begin);
    arguments.x_stride = x.stride(0);
    arguments.y = y.row(begin);
    arguments.y_stride = y.stride(0);
    arguments.dtype = x.dtype();
    arguments.positions = embedding.positions.data<int64_t>() + begin;
    arguments.frequencies = frequencies.data();
    arguments.interleaved = embedding.interleaved;
    arguments.direction = inverse ? -1.0f : 1.0f;
    arguments.rows = end - begin;
    arguments.heads = x.dim(1) / embedding.d_head;
    arguments.d_head = embedding.d_head;
    arguments.rotary_dim = embedding.rotary_dim;
    arguments.table = table.data();
    RotaryKernel(arguments);
  });
}

}  // namespace adder::cpu
