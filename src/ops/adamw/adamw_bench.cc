// Benchmark of adamw and the gradients' norm: achieved bandwidth beside the machine's.
#include "adder/core/random.h"
#include "adder/ops/adamw/adamw.h"
#include "adder/ops/stream_bench.h"

namespace adder {
namespace {

void Run() {
  Random random(1);
  std::vector<bench::StreamCase> cases;
  const auto add = [&](int64_t elements) {
    const Shape shape = {elements};
    const std::string name = fmt::format("{} parameters", elements);
    const Tensor gradient = Tensor::Empty(shape, DType::kF32);
    FillNormal(gradient, random, 0, 1);
    const Tensor weight = gradient.Clone();
    const Tensor m = Tensor::Zeros(shape, DType::kF32);
    const Tensor v = Tensor::Zeros(shape, DType::kF32);
    const Tensor copy = Tensor::Zeros(shape, DType::kBF16);
    const auto bytes = static_cast<double>(gradient.bytes());
    cases.push_back({"step, " + name, 7 * bytes, [=] { AdamW({}, gradient, weight, m, v, {}); }});
    cases.push_back({"step with a bf16 copy, " + name, 7.5 * bytes,
                     [=] { AdamW({}, gradient, weight, m, v, copy); }});
    cases.push_back({"norm, " + name, bytes,
                     [=] { static_cast<void>(GradientNorm(std::vector<Tensor>{gradient})); }});
  };
  add(16'000'000);
  add(50'000);
  bench::RunStreamCases("adamw", cases);
}

}  // namespace
}  // namespace adder

int main() { adder::Run(); }
