// Prints sample's times on a CUDA device beside those of reading the logits once.
#include <exception>
#include <utility>

#include "adder/backend/cuda/cuda_bench.h"
#include "adder/ops/sample/sample.h"

namespace adder {
namespace {

using bench::kCuda;

void Run() {
  constexpr int64_t kVocab = 50280;
  const double copy = bench::CopyBytesPerSecond();
  SamplingOptions greedy;
  greedy.temperature = 0.0;
  SamplingOptions softmax;
  softmax.top_p = 1.0;
  SamplingOptions top_k = softmax;
  top_k.top_k = 40;
  SamplingOptions all;
  all.top_k = 1000;
  all.min_p = 0.01;
  all.repetition_penalty = 1.1;
  const std::pair<const char*, SamplingOptions> kinds[] = {{"greedy", greedy},
                                                           {"temperature 0.8", softmax},
                                                           {"top-k 40", top_k},
                                                           {"top-p 0.95", SamplingOptions()},
                                                           {"all filters", all}};
  const std::vector<int32_t> recent(64, 7);
  for (const int64_t rows : {1, 16, 128}) {
    Random random(1);
    const Tensor logits = bench::RandomRows(random, rows, kVocab, DType::kF32);
    const Tensor tokens = Tensor::Empty({rows}, DType::kI32, kCuda);
    const double floor = static_cast<double>(logits.bytes()) / copy;
    for (const auto& [name, options] : kinds) {
      std::vector<RowSampling> sampling;
      for (int64_t r = 0; r < rows; ++r) sampling.push_back({options, recent, random.NextDouble()});
      const double ours = bench::MedianSeconds({[&] { Sample(logits, sampling, tokens); }});
      bench::PrintLine(fmt::format("({}, {}) {}", rows, kVocab, name), 0, floor, ours);
    }
  }
}

}  // namespace
}  // namespace adder

int main() {
  try {
    adder::Run();
  } catch (const std::exception& error) {
    fmt::print(stderr, "sample_cuda_bench: {}\n", error.what());
    return 1;
  }
}
