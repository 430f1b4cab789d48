// Prints gated_rms_norm's times on a CUDA device beside those of moving the bytes.
#include <exception>

#include "adder/backend/cuda/cuda_bench.h"
#include "adder/ops/gated_rms_norm/gated_rms_norm.h"

namespace adder {
namespace {

using bench::kCuda;

struct Case {
  const char* name;
  int64_t rows, channels, projected;  // z: columns of rows of `projected`
};

void Run() {
  const double copy = bench::CopyBytesPerSecond();
  for (const Case& c : {Case{"mamba2-130m, a step", 32768, 1536, 3352},
                        Case{"mamba2-370m, a step", 32768, 2048, 4384},
                        Case{"mamba2-2.7b, a prompt", 8192, 5120, 10576}}) {
    std::vector<std::function<void()>> forward;
    std::vector<std::function<void()>> backward;
    for (uint64_t i = 0; i < 3; ++i) {
      Random random(i);
      const auto rows = [&] { return bench::RandomRows(random, c.rows, c.channels, DType::kBF16); };
      const auto z_columns = [&] {
        return bench::RandomRows(random, c.rows, c.projected, DType::kBF16).Columns(0, c.channels);
      };
      GatedRmsNormInputs in;
      in.x = rows();
      in.z = z_columns();
      in.weight = bench::RandomRows(random, 1, c.channels, DType::kF32).Reshape({c.channels});
      in.eps = 1e-5f;
      const Tensor y = rows();
      const Tensor dy = rows();
      GatedRmsNormGradients gradients;
      gradients.dx = rows();
      gradients.dz = z_columns();
      gradients.dweight = Tensor::Zeros({c.channels}, DType::kF32, kCuda);
      forward.emplace_back([in, y] { GatedRmsNorm(in, y); });
      backward.emplace_back([in, dy, gradients] { GatedRmsNormBackward(in, dy, gradients); });
    }
    const auto bytes = static_cast<double>(c.rows * c.channels * 2);
    const std::string shape = fmt::format("{} ({}, {}) bf16", c.name, c.rows, c.channels);
    bench::PrintLine("forward " + shape, 0, 3 * bytes / copy, bench::MedianSeconds(forward));
    bench::PrintLine("backward " + shape, 0, 5 * bytes / copy, bench::MedianSeconds(backward));
  }
}

}  // namespace
}  // namespace adder

int main() {
  try {
    adder::Run();
  } catch (const std::exception& error) {
    fmt::print(stderr, "gated_rms_norm_cuda_bench: {}\n", error.what());
    return 1;
  }
}
