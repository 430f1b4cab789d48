// Prints rms_norm's times on a CUDA device beside those of moving the bytes.
#include <exception>

#include "adder/backend/cuda/cuda_bench.h"
#include "adder/ops/rms_norm/rms_norm.h"

namespace adder {
namespace {

using bench::kCuda;

void Run() {
  const double copy = bench::CopyBytesPerSecond();
  // The first two are those of a training step of mamba-130m and of mamba-370m.
  struct Case {
    int64_t rows, channels;
  };
  for (const Case& c : {Case{32768, 768}, Case{32768, 1024}, Case{16384, 768}, Case{16384, 2048},
                        Case{16384, 2560}}) {
    const int64_t rows = c.rows;
    const int64_t channels = c.channels;
    std::vector<std::function<void()>> forward;
    std::vector<std::function<void()>> backward;
    for (uint64_t i = 0; i < 3; ++i) {
      Random random(i);
      const auto matrix = [&](DType dtype) {
        return bench::RandomRows(random, rows, channels, dtype);
      };
      RmsNormInputs in;
      in.x = matrix(DType::kBF16);
      in.residual = matrix(DType::kF32);
      in.weight = bench::RandomRows(random, 1, channels, DType::kF32).Reshape({channels});
      const RmsNormOutputs out = {.y = Tensor::Empty(in.x.shape(), DType::kBF16, kCuda),
                                  .residual_out = matrix(DType::kF32)};
      forward.emplace_back([in, out] { RmsNorm(in, out); });
      const Tensor dy = matrix(DType::kBF16);
      const Tensor through = matrix(DType::kF32);
      const RmsNormGradients g = {.dr = through,
                                  .dx = Tensor::Empty(in.x.shape(), DType::kBF16, kCuda),
                                  .dweight = Tensor::Zeros({channels}, DType::kF32, kCuda)};
      backward.emplace_back([in, out, dy, through, g] {
        RmsNormBackward(out.residual_out, in.weight, in.eps, dy, through, g);
      });
    }
    const auto elements = static_cast<double>(rows * channels);
    const std::string shape = fmt::format("({}, {}) bf16 + f32", rows, channels);
    bench::PrintLine("forward " + shape, 0, elements * 12 / copy, bench::MedianSeconds(forward));
    bench::PrintLine("backward " + shape, 0, elements * 16 / copy, bench::MedianSeconds(backward));
  }
}

}  // namespace
}  // namespace adder

int main() {
  try {
    adder::Run();
  } catch (const std::exception& error) {
    fmt::print(stderr, "rms_norm_cuda_bench: {}\n", error.what());
    return 1;
  }
}
