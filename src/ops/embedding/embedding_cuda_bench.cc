// Prints embedding's times on a CUDA device beside those of moving the bytes.
#include <exception>

#include "adder/backend/cuda/cuda_bench.h"
#include "adder/ops/embedding/embedding.h"

namespace adder {
namespace {

using bench::kCuda;

void Run() {
  const double copy = bench::CopyBytesPerSecond();
  for (const int64_t vocab : {256, 50280}) {
    const int64_t rows = 32768;
    const int64_t channels = 768;
    std::vector<std::function<void()>> forward;
    std::vector<std::function<void()>> backward;
    for (uint64_t i = 0; i < 3; ++i) {
      Random random(i);
      std::vector<int32_t> ids;
      for (int64_t t = 0; t < rows; ++t) {
        // Some tokens are frequent.
        const double u = random.NextDouble();
        ids.push_back(static_cast<int32_t>(u * u * static_cast<double>(vocab)));
      }
      const Tensor tokens = Tensor::From<int32_t>({rows}, ids).To(kCuda);
      const Tensor W = bench::RandomRows(random, vocab, channels, DType::kBF16);
      const Tensor y = Tensor::Empty({rows, channels}, DType::kF32, kCuda);
      const Tensor dy = bench::RandomRows(random, rows, channels, DType::kF32);
      const Tensor dW = Tensor::Zeros({vocab, channels}, DType::kF32, kCuda);
      forward.emplace_back([=] { Embedding(tokens, W, y); });
      backward.emplace_back([=] { EmbeddingBackward(tokens, dy, dW); });
    }
    const auto elements = static_cast<double>(rows * channels);
    const std::string shape = fmt::format("({}, {}) of {} tokens", rows, channels, vocab);
    bench::PrintLine("forward " + shape, 0, elements * 6 / copy, bench::MedianSeconds(forward));
    bench::PrintLine("backward " + shape, 0, elements * 4 / copy, bench::MedianSeconds(backward));
  }
}

}  // namespace
}  // namespace adder

int main() {
  try {
    adder::Run();
  } catch (const std::exception& error) {
    fmt::print(stderr, "embedding_cuda_bench: {}\n", error.what());
    return 1;
  }
}
