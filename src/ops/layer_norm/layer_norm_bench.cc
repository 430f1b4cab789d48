// Benchmark of layer_norm: achieved bandwidth beside the machine's.
#include "adder/core/random.h"
#include "adder/ops/layer_norm/layer_norm.h"
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
    const LayerNormInputs inputs = {normal(shape, dtype), normal(shape, DType::kF32),
                                    normal({channels}, DType::kF32),
                                    normal({channels}, DType::kF32)};
    const LayerNormOutputs outputs = {Tensor::Zeros(shape, dtype), inputs.residual};
    const auto activations = static_cast<double>(inputs.x.bytes());
    const auto stream = static_cast<double>(inputs.residual.bytes());
    cases.push_back({"forward with residual " + name, 2 * activations + 2 * stream,
                     [=] { LayerNorm(inputs, outputs); }});
    cases.push_back({"forward without residual " + name, 2 * activations, [=] {
                       LayerNorm({inputs.x, {}, inputs.weight, {}}, {outputs.y, {}});
                     }});
    const LayerNormGradients gradients = {normal(shape, DType::kF32), Tensor::Zeros(shape, dtype),
                                          Tensor::Zeros({channels}, DType::kF32),
                                          Tensor::Zeros({channels}, DType::kF32)};
    // r and dy are read, dr read and written, dx written.
    cases.push_back({"backward with residual " + name, 3 * stream + 2 * activations, [=] {
                       LayerNormBackward(inputs.residual, inputs.weight, 1e-5f, outputs.y,
                                         gradients.dr, gradients);
                     }});
  };
  add(16384, 768, DType::kF32);
  add(16384, 768, DType::kBF16);
  add(4096, 2560, DType::kF32);
  add(256, 768, DType::kF32);
  add(1, 2560, DType::kF32);
  bench::RunStreamCases("layer_norm", cases);
}

}  // namespace
}  // namespace adder

int main() { adder::Run(); }
