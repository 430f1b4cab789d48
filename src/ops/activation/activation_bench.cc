// Benchmark of activation: achieved bandwidth beside the machine's.
#include "adder/core/random.h"
#include "adder/ops/activation/activation.h"
#include "adder/ops/stream_bench.h"

namespace adder {
namespace {

void Run() {
  Random random(1);
  std::vector<bench::StreamCase> cases;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Shape shape = {2048, 3072};
    const Tensor x = Tensor::Empty(shape, dtype);
    FillNormal(x, random, 0, 1);
    const Tensor up = x.Clone();
    const Tensor y = Tensor::Zeros(shape, dtype);
    const Tensor dy = x.Clone();
    const auto bytes = static_cast<double>(x.bytes());
    const std::string name = fmt::format(" [2048 x 3072] {}", DTypeName(dtype));
    cases.push_back({"gelu" + name, 2 * bytes, [=] { Activate(Activation::kGelu, x, y); }});
    cases.push_back(
        {"gelu tanh" + name, 2 * bytes, [=] { Activate(Activation::kGeluTanh, x, y); }});
    cases.push_back({"gelu backward" + name, 3 * bytes,
                     [=] { ActivateBackward(Activation::kGelu, x, dy, y); }});
    cases.push_back({"swiglu" + name, 3 * bytes, [=] { SwiGlu(x, up, y); }});
    cases.push_back({"swiglu backward" + name, 5 * bytes, [=, dup = Tensor::Zeros(shape, dtype)] {
                       SwiGluBackward(x, up, dy, {y, dup});
                     }});
    cases.push_back({"add" + name, 3 * bytes, [=] { Add(x, up, y); }});
  }
  bench::RunStreamCases("activation", cases);
}

}  // namespace
}  // namespace adder

int main() { adder::Run(); }
