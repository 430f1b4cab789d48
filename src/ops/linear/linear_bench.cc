// linear: few rows beside the memory's read bandwidth, many rows beside the machine's
// multiply-adds, and where the two ways to compute it meet.
#include <benchmark/benchmark.h>

#include <string>

#include "adder/backend/cpu/matmul.h"
#include "adder/backend/cpu/parallel.h"
#include "adder/backend/cpu/roofs.h"
#include "adder/ops/linear/linear.h"
#include "adder/ops/linear/linear_kernel.h"

namespace adder {
namespace {

using benchmark::Counter;

// Arguments: rows, K, N, dtype of W, dtype of x and y (absent: W's).
struct Problem {
  Tensor x, W, y;

  explicit Problem(const benchmark::State& state, bool mixed = false)
      : W(Tensor::Zeros({state.range(2), state.range(1)}, static_cast<DType>(state.range(3)))) {
    const DType dtype = mixed ? static_cast<DType>(state.range(4)) : W.dtype();
    x = Tensor::Zeros({state.range(0), state.range(1)}, dtype);
    y = Tensor::Zeros({state.range(0), state.range(2)}, dtype);
  }
};

// The roofs are measured once a process: compare within a run.
double RoofRate(cpu::Roof roof) {
  static double rates[static_cast<size_t>(cpu::Roof::kBF16MatMul) + 1] = {};
  double& rate = rates[static_cast<size_t>(roof)];
  if (rate == 0) rate = cpu::MeasureRoof(roof, cpu::ThreadCount());
  return rate;
}

void Report(benchmark::State& state, const Problem& p, double products) {
  const double flops =
      2.0 * products * static_cast<double>(p.x.dim(0)) * static_cast<double>(p.W.elements());
  const auto per_iteration = Counter::kIsIterationInvariantRate;
  const cpu::Roof fma = p.x.dtype() == DType::kBF16 ? cpu::Roof::kBF16Dot : cpu::Roof::kF32Fma;
  state.SetLabel(std::string(DTypeName(p.x.dtype())) + " x " + std::string(DTypeName(p.W.dtype())));
  state.counters["FLOP/s"] = Counter(flops, per_iteration);
  state.counters["of_fma"] = Counter(flops / RoofRate(fma), per_iteration);
  state.counters["B/s"] = Counter(static_cast<double>(p.W.bytes()), per_iteration);
  state.counters["of_read"] =
      Counter(static_cast<double>(p.W.bytes()) / RoofRate(cpu::Roof::kRead), per_iteration);
}

void BM_Linear(benchmark::State& state) {
  const Problem p(state);
  for (auto _ : state) Linear(p.x, p.W, Tensor(), p.y);
  Report(state, p, 1);
}

// Every dtype of weights with f32 and bf16 activations.
void BM_Weights(benchmark::State& state) {
  const Problem p(state, true);
  for (auto _ : state) Linear(p.x, p.W, Tensor(), p.y);
  Report(state, p, 1);
}

void BM_LinearBackward(benchmark::State& state) {
  const Problem p(state);
  const LinearGradients gradients = {.dx = Tensor::Zeros(p.x.shape(), p.x.dtype()),
                                     .dW = Tensor::Zeros(p.W.shape(), DType::kF32)};
  for (auto _ : state) LinearBackward(p.x, p.W, p.y, gradients);
  Report(state, p, 2);
}

// The two ways, whatever Linear would choose.
void BM_Kernel(benchmark::State& state) {
  const Problem p(state);
  for (auto _ : state) {
    cpu::ParallelFor(p.W.dim(0), 1, [&](int64_t begin, int64_t end, int) {
      cpu::LinearKernel({.x = p.x.raw(),
                         .x_dtype = p.x.dtype(),
                         .x_stride = p.x.stride(0),
                         .W = p.W.raw(),
                         .W_dtype = p.W.dtype(),
                         .W_row_bytes = DTypeBytes(p.W.dtype(), p.W.stride(0)),
                         .y = p.y.raw(),
                         .y_dtype = p.y.dtype(),
                         .y_stride = p.y.stride(0),
                         .rows = p.x.dim(0),
                         .K = p.x.dim(1),
                         .begin = begin,
                         .end = end});
    });
  }
  Report(state, p, 1);
}
void BM_MatMul(benchmark::State& state) {
  const Problem p(state);
  for (auto _ : state) cpu::MatMul(p.x, p.W, Tensor(), p.y, {.transpose_B = true});
  Report(state, p, 1);
}

constexpr int64_t kF32 = static_cast<int64_t>(DType::kF32);
constexpr int64_t kBF16 = static_cast<int64_t>(DType::kBF16);
constexpr int64_t kF16 = static_cast<int64_t>(DType::kF16);

// mamba-130m: in_proj, x_proj, dt_proj, out_proj of a prompt; the head of one token and of eight.
void Shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"rows", "K", "N", "dtype"})->UseRealTime();
  for (const int64_t dtype : {kF32, kBF16}) {
    b->Args({512, 768, 3072, dtype})->Args({512, 1536, 80, dtype})->Args({512, 48, 1536, dtype});
    b->Args({512, 1536, 768, dtype});
  }
}
void DecodeShapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"rows", "K", "N", "dtype"})->UseRealTime();
  for (const int64_t dtype : {kF32, kBF16, kF16}) {
    for (const int64_t rows : {1, 8}) b->Args({rows, 768, 50280, dtype});
  }
}
// mamba-370m's in_proj: larger than the second-level cache in every dtype.
void WeightShapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"rows", "K", "N", "W", "x"})->UseRealTime();
  for (const DType W : {DType::kF32, DType::kBF16, DType::kF16, DType::kQ8_0, DType::kQ4_0,
                        DType::kQ4_K, DType::kQ6_K}) {
    for (const int64_t x : {kF32, kBF16}) {
      for (const int64_t rows : {1, 16, 512}) {
        b->Args({rows, 1024, rows == 512 ? 4096 : 50280, static_cast<int64_t>(W), x});
      }
    }
  }
}
void CrossOver(benchmark::internal::Benchmark* b) {
  b->ArgNames({"rows", "K", "N", "dtype"})->UseRealTime();
  for (const int64_t dtype : {kF32, kBF16}) {
    for (const int64_t rows : {4, 8, 16, 32, 64}) b->Args({rows, 1536, 20000, dtype});
  }
}

BENCHMARK(BM_Linear)->Apply(Shapes)->Apply(DecodeShapes);
BENCHMARK(BM_Weights)->Apply(WeightShapes);
BENCHMARK(BM_LinearBackward)->Apply(Shapes);
BENCHMARK(BM_Kernel)->Apply(CrossOver);
BENCHMARK(BM_MatMul)->Apply(CrossOver);

}  // namespace
}  // namespace adder

BENCHMARK_MAIN();
