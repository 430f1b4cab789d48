// Benchmark of gated_rms_norm: achieved bandwidth beside the machine's.
#include "adder/core/random.h"
#include "adder/ops/gated_rms_norm/gated_rms_norm.h"
#include "adder/ops/stream_bench.h"

namespace adder {
namespace {

void Run() {
  Random random(1);
  const auto normal = [&](const Shape& shape, DType dtype) {
    const Tensor tensor = Tensor::Empty(shape, dtype);
    FillNormal(tensor, random, 0, 1);
    return tensor;
  };
  std::vector<bench::StreamCase> cases;
  const auto add = [&](int64_t rows, int64_t channels, DType dtype) {
    const Shape shape = {rows, channels};
    const std::string name = fmt::format("[{} x {}] {}", rows, channels, DTypeName(dtype));
    GatedRmsNormInputs inputs;
    inputs.x = normal(shape, dtype);
    inputs.z = normal(shape, dtype);
    inputs.weight = normal({channels}, DType::kF32);
    const Tensor y = Tensor::Zeros(shape, dtype);
    const auto bytes = static_cast<double>(y.bytes());
    cases.push_back({"forward " + name, 3 * bytes, [=] { GatedRmsNorm(inputs, y); }});
    const GatedRmsNormGradients gradients = {Tensor::Zeros(shape, dtype),
                                             Tensor::Zeros(shape, dtype),
                                             Tensor::Zeros({channels}, DType::kF32)};
    cases.push_back(
        {"backward " + name, 5 * bytes, [=] { GatedRmsNormBackward(inputs, y, gradients); }});
  };
  add(4096, 1536, DType::kF32);
  add(4096, 1536, DType::kBF16);
  add(256, 1536, DType::kF32);
  add(1, 5120, DType::kF32);
  bench::RunStreamCases("gated_rms_norm", cases);
}

}  // namespace
}  // namespace adder

int main() { adder::Run(); }
