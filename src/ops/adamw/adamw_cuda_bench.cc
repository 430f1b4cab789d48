// Prints the times of the optimizer's step over a 130M model on a CUDA device beside those of
// moving the bytes.
#include <exception>

#include "adder/backend/cuda/cuda_bench.h"
#include "adder/ops/adamw/adamw.h"

namespace adder {
namespace {

using bench::kCuda;

// The shapes of mamba-130m.
std::vector<Shape> Shapes() {
  std::vector<Shape> shapes = {{50280, 768}, {768}};
  for (int layer = 0; layer < 24; ++layer) {
    for (const Shape& shape :
         {Shape{3072, 768}, Shape{1536, 4}, Shape{1536}, Shape{80, 1536}, Shape{1536, 48},
          Shape{1536}, Shape{1536, 16}, Shape{1536}, Shape{768, 1536}, Shape{768}}) {
      shapes.push_back(shape);
    }
  }
  return shapes;
}

void Run() {
  const double copy = bench::CopyBytesPerSecond();
  std::vector<AdamWTensors> tensors;
  std::vector<AdamWTensors> without_copies;
  std::vector<Tensor> gradients;
  Random random(1);
  double elements = 0;
  for (const Shape& shape : Shapes()) {
    const auto random_tensor = [&] {
      return bench::RandomRows(random, shape.elements() / shape[-1], shape[-1], DType::kF32)
          .Reshape(shape);
    };
    AdamWTensors t;
    t.gradient = random_tensor();
    t.weight = random_tensor();
    t.m = Tensor::Zeros(shape, DType::kF32, kCuda);
    t.v = Tensor::Zeros(shape, DType::kF32, kCuda);
    t.weight_decay = 0.1;
    without_copies.push_back(t);
    t.compute_weight = Tensor::Empty(shape, DType::kBF16, kCuda);
    tensors.push_back(t);
    gradients.push_back(t.gradient);
    elements += static_cast<double>(shape.elements());
  }
  const std::string name =
      fmt::format("{} tensors, {:.0f}M elements", tensors.size(), elements * 1e-6);
  bench::PrintLine("adamw, bf16 copies, " + name, 0, elements * 30 / copy,
                   bench::MedianSeconds({[&] { AdamWAll({}, tensors); }}));
  bench::PrintLine("adamw, " + name, 0, elements * 28 / copy,
                   bench::MedianSeconds({[&] { AdamWAll({}, without_copies); }}));
  bench::PrintLine("gradient norm, " + name, 0, elements * 4 / copy,
                   bench::MedianSeconds({[&] { GradientNorm(gradients); }}));
  bench::PrintLine("set zero, " + name, 0, elements * 4 / copy,
                   bench::MedianSeconds({[&] { SetZeroAll(gradients); }}));
}

}  // namespace
}  // namespace adder

int main() {
  try {
    adder::Run();
  } catch (const std::exception& error) {
    fmt::print(stderr, "adamw_cuda_bench: {}\n", error.what());
    return 1;
  }
}
