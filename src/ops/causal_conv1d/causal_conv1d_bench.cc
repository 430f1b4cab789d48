// Benchmark of causal_conv1d: achieved bandwidth beside the machine's.
#include "adder/core/random.h"
#include "adder/ops/causal_conv1d/causal_conv1d.h"
#include "adder/ops/stream_bench.h"

namespace adder {
namespace {

struct Problem {
  CausalConv1dInputs inputs;
  CausalConv1dOutputs outputs;
  Tensor dy;
  CausalConv1dGradients gradients;
};

Problem MakeProblem(const SequenceLayout& layout, int64_t channels, DType dtype) {
  constexpr int64_t kWidth = 4;
  Random random(1);
  const auto normal = [&](const Shape& shape, DType type) {
    const Tensor tensor = Tensor::Empty(shape, type);
    FillNormal(tensor, random, 0, 1);
    return tensor;
  };
  const Shape shape = {layout.rows(), channels};
  const Shape window = {layout.sequences(), kWidth - 1, channels};
  Problem p;
  p.inputs.x = normal(shape, dtype);
  p.inputs.weight = normal({channels, kWidth}, DType::kF32);
  p.inputs.bias = normal({channels}, DType::kF32);
  p.inputs.initial_window = normal(window, DType::kF32);
  p.inputs.layout = layout;
  p.outputs = {Tensor::Zeros(shape, dtype), p.inputs.initial_window};
  p.dy = normal(shape, dtype);
  p.gradients = {Tensor::Zeros(shape, dtype), Tensor::Zeros({channels, kWidth}, DType::kF32),
                 Tensor::Zeros({channels}, DType::kF32), Tensor::Zeros(window, DType::kF32)};
  return p;
}

void Run() {
  std::vector<bench::StreamCase> cases;
  const auto add = [&](const std::string& name, const SequenceLayout& layout, int64_t channels,
                       DType dtype) {
    const Problem p = MakeProblem(layout, channels, dtype);
    const auto x_bytes = static_cast<double>(p.inputs.x.bytes());
    const auto window_bytes = static_cast<double>(p.inputs.initial_window.bytes());
    const auto weight_bytes = static_cast<double>(p.inputs.weight.bytes());
    cases.push_back({"forward " + name, 2 * x_bytes + 2 * window_bytes + weight_bytes,
                     [p] { CausalConv1d(p.inputs, p.outputs); }});
    if (layout.rows() == layout.sequences()) return;  // decoding has no backward
    cases.push_back({"backward " + name, 3 * x_bytes + 2 * window_bytes + 3 * weight_bytes,
                     [p] { CausalConv1dBackward(p.inputs, p.dy, {}, p.gradients); }});
  };
  add("[16384 x 1536] f32, width 4, silu", SequenceLayout::Single(16384), 1536, DType::kF32);
  add("[16384 x 1536] bf16, width 4, silu", SequenceLayout::Single(16384), 1536, DType::kBF16);
  add("[1024 x 512] f32 (cached)", SequenceLayout::Uniform(4, 256), 512, DType::kF32);
  add("1 sequence x 1 row x 1536 f32 (decoding)", SequenceLayout::Single(1), 1536, DType::kF32);
  add("64 sequences x 1 row x 1536 f32 (decoding)", SequenceLayout::Uniform(64, 1), 1536,
      DType::kF32);
  add("1024 sequences x 1 row x 5120 f32 (decoding)", SequenceLayout::Uniform(1024, 1), 5120,
      DType::kF32);
  bench::RunStreamCases("causal_conv1d", cases);
}

}  // namespace
}  // namespace adder

int main() { adder::Run(); }
