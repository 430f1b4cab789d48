// Benchmark of embedding: achieved bandwidth beside the machine's.
#include "adder/core/random.h"
#include "adder/ops/embedding/embedding.h"
#include "adder/ops/stream_bench.h"

namespace adder {
namespace {

void Run() {
  Random random(1);
  std::vector<bench::StreamCase> cases;
  const auto add = [&](int64_t rows, int64_t vocab, int64_t channels, DType dtype) {
    const std::string name =
        fmt::format("{} rows of {} x {} {}", rows, vocab, channels, DTypeName(dtype));
    const Tensor tokens = Tensor::Empty({rows}, DType::kI32);
    for (int64_t t = 0; t < rows; ++t) {
      tokens.data<int32_t>()[t] =
          static_cast<int32_t>(random.NextBelow(static_cast<uint64_t>(vocab)));
    }
    const Tensor W = Tensor::Zeros({vocab, channels}, dtype);
    const Tensor y = Tensor::Zeros({rows, channels}, DType::kF32);
    const Tensor dW = Tensor::Zeros({vocab, channels}, DType::kF32);
    const auto y_bytes = static_cast<double>(y.bytes());
    const auto read = static_cast<double>(rows * channels * DTypeSize(dtype));
    cases.push_back({"forward " + name, read + y_bytes, [=] { Embedding(tokens, W, y); }});
    // dy is read; dW is read and written a row at a time.
    cases.push_back({"backward " + name, 3 * y_bytes, [=] { EmbeddingBackward(tokens, y, dW); }});
  };
  add(16384, 50280, 768, DType::kF32);
  add(16384, 50280, 768, DType::kBF16);
  add(16384, 256, 512, DType::kF32);
  bench::RunStreamCases("embedding", cases);
}

}  // namespace
}  // namespace adder

int main() { adder::Run(); }
