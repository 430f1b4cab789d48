// softmax_cross_entropy beside its matrix products alone at the rate of a large one: the softmax
// should cost little more.
#include <benchmark/benchmark.h>

#include "adder/backend/cpu/parallel.h"
#include "adder/backend/cpu/roofs.h"
#include "adder/ops/softmax_cross_entropy/softmax_cross_entropy.h"

namespace adder {
namespace {

using benchmark::Counter;

// Arguments: rows, K, vocab, dtype.
struct Problem {
  SoftmaxCrossEntropyInputs inputs;
  Tensor loss;
  SoftmaxCrossEntropyGradients gradients;

  explicit Problem(const benchmark::State& state) {
    const int64_t rows = state.range(0);
    const int64_t K = state.range(1);
    const int64_t vocab = state.range(2);
    const auto dtype = static_cast<DType>(state.range(3));
    inputs = {.hidden = Tensor::Zeros({rows, K}, dtype),
              .W = Tensor::Zeros({vocab, K}, dtype),
              .targets = Tensor::Zeros({rows}, DType::kI32)};
    loss = Tensor::Zeros({rows}, DType::kF32);
    gradients = {.d_hidden = Tensor::Zeros({rows, K}, dtype),
                 .dW = Tensor::Zeros({vocab, K}, DType::kF32)};
  }
};

void Report(benchmark::State& state, const Problem& p, double products) {
  const bool bf16 = p.inputs.hidden.dtype() == DType::kBF16;
  const double flops = 2.0 * products * static_cast<double>(p.inputs.hidden.dim(0)) *
                       static_cast<double>(p.inputs.W.elements());
  // Once a process: compare within a run.
  static const double f32_roof = cpu::MeasureRoof(cpu::Roof::kF32MatMul, cpu::ThreadCount());
  static const double bf16_roof = cpu::MeasureRoof(cpu::Roof::kBF16MatMul, cpu::ThreadCount());
  state.SetLabel(std::string(DTypeName(p.inputs.hidden.dtype())));
  state.counters["FLOP/s"] = Counter(flops, Counter::kIsIterationInvariantRate);
  state.counters["of_matmul"] =
      Counter(flops / (bf16 ? bf16_roof : f32_roof), Counter::kIsIterationInvariantRate);
}

void BM_SoftmaxCrossEntropy(benchmark::State& state) {
  const Problem p(state);
  for (auto _ : state) SoftmaxCrossEntropy(p.inputs, p.loss);
  Report(state, p, 1);
}

void BM_SoftmaxCrossEntropyBackward(benchmark::State& state) {
  const Problem p(state);
  for (auto _ : state) SoftmaxCrossEntropyBackward(p.inputs, p.loss, p.gradients);
  Report(state, p, 3);
}

void Shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"rows", "K", "vocab", "dtype"})->UseRealTime();
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    b->Args({4096, 256, 256, static_cast<int64_t>(dtype)});
    b->Args({256, 768, 50280, static_cast<int64_t>(dtype)});
  }
}

BENCHMARK(BM_SoftmaxCrossEntropy)->Apply(Shapes);
BENCHMARK(BM_SoftmaxCrossEntropyBackward)->Apply(Shapes);

}  // namespace
}  // namespace adder

BENCHMARK_MAIN();
