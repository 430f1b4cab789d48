// Benchmark of rotary: achieved bandwidth beside the machine's.
#include "adder/core/random.h"
#include "adder/ops/rotary/rotary.h"
#include "adder/ops/stream_bench.h"

namespace adder {
namespace {

void Run() {
  Random random(1);
  std::vector<bench::StreamCase> cases;
  const auto add = [&](int64_t rows, int64_t heads, DType dtype, bool interleaved) {
    const Tensor x = Tensor::Empty({rows, heads * 64}, dtype);
    FillNormal(x, random, 0, 1);
    const RotaryEmbedding embedding = {.positions = Tensor::Zeros({rows}, DType::kI64),
                                       .d_head = 64,
                                       .rotary_dim = 64,
                                       .interleaved = interleaved};
    for (int64_t t = 0; t < rows; ++t) embedding.positions.data<int64_t>()[t] = t;
    cases.push_back({fmt::format("[{} x {} x 64] {}{}", rows, heads, DTypeName(dtype),
                                 interleaved ? " interleaved" : ""),
                     2 * static_cast<double>(x.bytes()), [=] { Rotary(x, embedding, x); }});
  };
  add(4096, 12, DType::kF32, false);
  add(4096, 12, DType::kF32, true);
  add(4096, 12, DType::kBF16, false);
  add(1, 12, DType::kF32, false);
  bench::RunStreamCases("rotary", cases);
}

}  // namespace
}  // namespace adder

int main() { adder::Run(); }
