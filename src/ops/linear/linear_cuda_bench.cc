// Prints linear's times on a CUDA device: of the projections of models beside the arithmetic that
// they are, and of few rows, in a recorded graph, beside the memory that they read.
#include <exception>

#include "adder/backend/cuda/cuda_bench.h"
#include "adder/ops/linear/linear.h"

namespace adder {
namespace {

using bench::kCuda;

struct Projection {
  const char* name;
  int64_t N, K;
};

// Several copies of W, so that the cache does not hold it.
std::vector<std::function<void()>> Calls(int64_t rows, const Projection& p, DType W_dtype) {
  std::vector<std::function<void()>> calls;
  const int64_t bytes = DTypeBytes(W_dtype, p.N * p.K);
  const auto copies = std::clamp<int64_t>((int64_t{150} << 20) / bytes, 2, rows > 1000 ? 3 : 512);
  Random random(1);
  const Tensor x = bench::RandomRows(random, rows, p.K, DType::kBF16);
  Tensor first = bench::RandomRows(random, p.N, p.K, DType::kBF16);
  if (IsQuantized(W_dtype)) first = first.To(Device{}).To(DType::kF32).To(W_dtype).To(kCuda);
  for (int64_t i = 0; i < copies; ++i) {
    const Tensor W = first.Clone();
    const Tensor y = Tensor::Empty({rows, p.N}, DType::kBF16, kCuda);
    calls.emplace_back([x, W, y] { Linear(x, W, {}, y); });
  }
  return calls;
}

// Seconds of one of many calls in a recorded graph, as decoding has them: asked for one at a time
// they would take longer to begin and to be measured than to run.
double SecondsInGraph(const std::vector<std::function<void()>>& calls) {
  const size_t count = std::max<size_t>(calls.size(), 64);
  for (const auto& call : calls) call();  // makes what is made when first needed
  const auto graph = cuda::GetModule().Record(0, [&] {
    for (size_t i = 0; i < count; ++i) calls[i % calls.size()]();
  });
  return bench::MedianSeconds({[&] { graph->Launch(); }}) / static_cast<double>(count);
}

void Run() {
  const double copy = bench::CopyBytesPerSecond();
  for (const Projection& p : {Projection{"130m in_proj", 3072, 768},
                              {"130m out_proj", 768, 1536},
                              {"130m x_proj", 80, 1536},
                              {"1.4b in_proj", 8192, 2048}}) {
    const int64_t rows = 32768;
    const double seconds = bench::MedianSeconds(Calls(rows, p, DType::kBF16));
    const double operations = 2.0 * static_cast<double>(rows * p.N * p.K);
    fmt::print("{:<16} {} rows: {:8.4f} ms, {:6.1f} TFLOP/s\n", p.name, rows, seconds * 1e3,
               operations / seconds / 1e12);
  }
  for (const Projection& p : {Projection{"1.4b in_proj", 8192, 2048},
                              {"1.4b out_proj", 2048, 4096},
                              {"1.4b x_proj", 160, 4096},
                              {"1.4b dt_proj", 4096, 128},
                              {"2.8b in_proj", 10240, 2560},
                              {"head", 50280, 2048}}) {
    for (const DType dtype : {DType::kBF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_K}) {
      for (const int64_t rows : {1, 8, 16, 64, 128, 256}) {
        if ((dtype != DType::kBF16 && rows > 1) || p.K % DTypeBlockElements(dtype) != 0) {
          continue;
        }
        if (dtype != DType::kBF16 && p.N > 20000) continue;  // quantizing takes the host long
        const double bytes = static_cast<double>(DTypeBytes(dtype, p.N * p.K));
        // A copy reads and writes as many bytes as it moves a second.
        bench::PrintLine(fmt::format("{} {}, {} rows", p.name, DTypeName(dtype), rows), 0,
                         bytes / copy, SecondsInGraph(Calls(rows, p, dtype)));
      }
    }
  }
}

}  // namespace
}  // namespace adder

int main() {
  try {
    adder::Run();
  } catch (const std::exception& error) {
    fmt::print(stderr, "linear_cuda_bench: {}\n", error.what());
    return 1;
  }
}
