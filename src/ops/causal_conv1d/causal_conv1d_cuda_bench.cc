// Prints causal_conv1d's times on a CUDA device beside those of the official kernels and of moving
// the bytes. The peer's are causal-conv1d's on an NVIDIA H100 80GB HBM3.
#include <algorithm>
#include <exception>

#include "adder/backend/cuda/cuda_bench.h"
#include "adder/ops/causal_conv1d/causal_conv1d.h"

namespace adder {
namespace {

using bench::kCuda;

struct Case {
  int64_t sequences, channels, length;
  double peer_forward, peer_both;  // seconds; 0: none
  int64_t projected = 0;           // x: columns of rows of so many; 0: rows of its own
};

void Run() {
  const double copy = bench::CopyBytesPerSecond();
  constexpr double kMs = 1e-3;
  for (const Case& c : {Case{8, 2048, 2048, 0.0535 * kMs, 0.498 * kMs},
                        Case{8, 5120, 2048, 0.121 * kMs, 0.364 * kMs},
                        Case{1, 1024, 65536, 0.112 * kMs, 0.491 * kMs},
                        // A training step of mamba-130m, of mamba2-130m.
                        Case{16, 1536, 2048, 0, 0, 3072}, Case{16, 1792, 2048, 0, 0, 3352}}) {
    std::vector<std::function<void()>> forward;
    std::vector<std::function<void()>> both;
    const int64_t rows = c.sequences * c.length;
    for (uint64_t i = 0; i < 3; ++i) {
      Random random(i);
      CausalConv1dInputs in;
      const auto columns = [&] {
        const int64_t width = std::max(c.channels, c.projected);
        return bench::RandomRows(random, rows, width, DType::kBF16).Columns(0, c.channels);
      };
      in.x = columns();
      in.weight = bench::RandomRows(random, c.channels, 4, DType::kF32);
      in.bias = bench::RandomRows(random, 1, c.channels, DType::kF32).Reshape({c.channels});
      in.layout = SequenceLayout::Uniform(c.sequences, c.length);
      const Tensor y = Tensor::Empty(in.x.shape(), DType::kBF16, kCuda);
      const Tensor dy = bench::RandomRows(random, rows, c.channels, DType::kBF16);
      const CausalConv1dGradients g = {
          .dx = columns(),
          .dweight = Tensor::Zeros(in.weight.shape(), DType::kF32, kCuda),
          .dbias = Tensor::Zeros({c.channels}, DType::kF32, kCuda),
          .d_initial_window = {}};
      forward.emplace_back([in, y] { CausalConv1d(in, {.y = y, .final_window = {}}); });
      both.emplace_back([in, y, dy, g] {
        CausalConv1d(in, {.y = y, .final_window = {}});
        CausalConv1dBackward(in, dy, Tensor(), g);
      });
    }
    const auto bytes = static_cast<double>(rows * c.channels * 2);
    const std::string shape = fmt::format("({}, {}, {}) bf16", c.sequences, c.channels, c.length);
    bench::PrintLine("forward " + shape, c.peer_forward, 2 * bytes / copy,
                     bench::MedianSeconds(forward));
    bench::PrintLine("forward + backward " + shape, c.peer_both, 5 * bytes / copy,
                     bench::MedianSeconds(both));
  }
}

}  // namespace
}  // namespace adder

int main() {
  try {
    adder::Run();
  } catch (const std::exception& error) {
    fmt::print(stderr, "causal_conv1d_cuda_bench: {}\n", error.what());
    return 1;
  }
}
