// adder bench ops: the operators at the shapes of mamba-130m, beside the roof that bounds each. The
// scan, bound by exponentials, has a benchmark of its own.
#include <fmt/core.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "adder/backend/cpu/parallel.h"
#include "adder/backend/cpu/roofs.h"
#include "adder/cli/bench.h"
#include "adder/cli/numbers.h"
#include "adder/core/random.h"
#include "adder/core/sequence_layout.h"
#include "adder/ops/adamw/adamw.h"
#include "adder/ops/causal_conv1d/causal_conv1d.h"
#include "adder/ops/embedding/embedding.h"
#include "adder/ops/linear/linear.h"
#include "adder/ops/rms_norm/rms_norm.h"
#include "adder/ops/softmax_cross_entropy/softmax_cross_entropy.h"

namespace adder {
namespace {

constexpr int64_t kModel = 768;
constexpr int64_t kInner = 1536;
constexpr int64_t kVocab = 50280;
constexpr double kRoofSeconds = 0.3;

struct Options {
  int64_t rows = 4096;
  int repetitions = 9;
  bool json = false;
};

// What an operator must at least do, and the roof that says how fast that can go.
struct Case {
  std::string op;
  std::string shape;
  DType dtype;
  cpu::Roof roof;
  double work;  // FLOP or bytes, as the roof counts
  std::function<void()> run;
};

Tensor RandomTensor(const Shape& shape, DType dtype) {
  Random random(1);
  const Tensor tensor = Tensor::Empty(shape, dtype);
  FillUniform(tensor, random, -0.05, 0.05);
  return tensor;
}

Tensor RandomTokens(int64_t rows) {
  Random random(2);
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < rows; ++i)
    tokens.push_back(static_cast<int32_t>(random.NextBelow(kVocab)));
  return Tensor::From<int32_t>({rows}, tokens);
}

double Bytes(std::initializer_list<Tensor> tensors) {
  double sum = 0;
  for (const Tensor& tensor : tensors) sum += static_cast<double>(tensor.bytes());
  return sum;
}

std::vector<Case> LinearCases(int64_t many_rows, DType dtype) {
  const cpu::Roof matmul = dtype == DType::kBF16 ? cpu::Roof::kBF16MatMul : cpu::Roof::kF32MatMul;
  const Tensor W = RandomTensor({2 * kInner, kModel}, dtype);
  const Tensor x = RandomTensor({many_rows, kModel}, dtype);
  const Tensor y = RandomTensor({many_rows, 2 * kInner}, dtype);
  const Tensor dx = Tensor::Empty(x.shape(), dtype);
  const Tensor dW = Tensor::Zeros(W.shape(), DType::kF32);
  const double flops = 2.0 * static_cast<double>(many_rows) * static_cast<double>(W.elements());
  const std::string shape = std::to_string(many_rows) + " x 768 -> 3072";
  const Tensor head = RandomTensor({kVocab, kModel}, dtype);
  std::vector<Case> cases = {
      {"linear", shape, dtype, matmul, flops, [=] { Linear(x, W, Tensor(), y); }},
      {"linear backward", shape, dtype, matmul, 2 * flops,
       [=] { LinearBackward(x, W, y, {.dx = dx, .dW = dW}); }}};
  for (const int64_t rows : {1, 4, 8}) {
    const Tensor few = x.Rows(0, std::min(rows, many_rows));
    const Tensor logits = Tensor::Empty({few.dim(0), kVocab}, DType::kF32);
    cases.push_back({"linear", std::to_string(few.dim(0)) + " x 768 -> 50280", dtype,
                     cpu::Roof::kRead, Bytes({head}),
                     [=] { Linear(few, head, Tensor(), logits); }});
  }
  return cases;
}

std::vector<Case> LossCases(int64_t rows, DType dtype) {
  const cpu::Roof matmul = dtype == DType::kBF16 ? cpu::Roof::kBF16MatMul : cpu::Roof::kF32MatMul;
  const int64_t some_rows = std::min<int64_t>(rows, 256);
  const SoftmaxCrossEntropyInputs inputs = {.hidden = RandomTensor({some_rows, kModel}, dtype),
                                            .W = RandomTensor({kVocab, kModel}, dtype),
                                            .targets = RandomTokens(some_rows)};
  const Tensor loss = Tensor::Zeros({some_rows}, DType::kF32);
  const SoftmaxCrossEntropyGradients gradients = {
      .d_hidden = Tensor::Empty(inputs.hidden.shape(), dtype),
      .dW = Tensor::Zeros(inputs.W.shape(), DType::kF32)};
  const double flops =
      2.0 * static_cast<double>(some_rows) * static_cast<double>(inputs.W.elements());
  const std::string shape = std::to_string(some_rows) + " x 768 -> 50280";
  return {{"softmax_cross_entropy", shape, dtype, matmul, flops,
           [=] { SoftmaxCrossEntropy(inputs, loss); }},
          {"softmax_cross_entropy backward", shape, dtype, matmul, 3 * flops,
           [=] { SoftmaxCrossEntropyBackward(inputs, loss, gradients); }}};
}

std::vector<Case> RowCases(int64_t rows, DType dtype) {
  const SequenceLayout layout = SequenceLayout::Single(rows);
  const Tensor x = RandomTensor({rows, kInner}, dtype);
  const Tensor y = Tensor::Empty(x.shape(), dtype);
  const Tensor weight = RandomTensor({kInner, 4}, DType::kF32);
  const Tensor dweight = Tensor::Zeros(weight.shape(), DType::kF32);
  const CausalConv1dInputs conv = {
      .x = x, .weight = weight, .bias = Tensor(), .initial_window = Tensor(), .layout = layout};
  const Tensor dx = Tensor::Empty(x.shape(), dtype);
  const Tensor narrow = RandomTensor({rows, kModel}, dtype);
  const Tensor residual = RandomTensor({rows, kModel}, DType::kF32);
  const Tensor norm = RandomTensor({kModel}, DType::kF32);
  const Tensor normed = Tensor::Empty(narrow.shape(), dtype);
  const Tensor sum = Tensor::Empty(residual.shape(), DType::kF32);
  const Tensor dnorm = Tensor::Zeros({kModel}, DType::kF32);
  const Tensor tokens = RandomTokens(rows);
  const Tensor table = RandomTensor({kVocab, kModel}, dtype);
  const std::string wide_shape = std::to_string(rows) + " x 1536";
  const std::string narrow_shape = std::to_string(rows) + " x 768";
  return {
      {"causal_conv1d", wide_shape, dtype, cpu::Roof::kCopy, Bytes({x, y}),
       [=] { CausalConv1d(conv, {.y = y, .final_window = Tensor()}); }},
      {"causal_conv1d backward", wide_shape, dtype, cpu::Roof::kCopy, Bytes({x, y, dx}),
       [=] {
         CausalConv1dBackward(
             conv, y, Tensor(),
             {.dx = dx, .dweight = dweight, .dbias = Tensor(), .d_initial_window = Tensor()});
       }},
      {"rms_norm", narrow_shape, dtype, cpu::Roof::kCopy, Bytes({narrow, residual, normed, sum}),
       [=] {
         RmsNorm({.x = narrow, .residual = residual, .weight = norm},
                 {.y = normed, .residual_out = sum});
       }},
      {"rms_norm backward", narrow_shape, dtype, cpu::Roof::kCopy,
       Bytes({residual, normed, sum, narrow}),
       [=] {
         RmsNormBackward(residual, norm, 1e-5f, normed, Tensor(),
                         {.dr = sum, .dx = narrow, .dweight = dnorm});
       }},
      {"embedding", narrow_shape, dtype, cpu::Roof::kCopy, 2 * Bytes({normed}),
       [=] { Embedding(tokens, table, normed); }}};
}

std::vector<Case> OptimizerCases() {
  const Shape shape = {int64_t{16} << 20};
  const Tensor gradient = RandomTensor(shape, DType::kF32);
  const Tensor weight = RandomTensor(shape, DType::kF32);
  const Tensor m = Tensor::Zeros(shape, DType::kF32);
  const Tensor v = Tensor::Zeros(shape, DType::kF32);
  return {{"adamw", "16777216", DType::kF32, cpu::Roof::kCopy,
           Bytes({gradient}) + 2 * Bytes({weight, m, v}),
           [=] { AdamW({}, gradient, weight, m, v, Tensor()); }}};
}

void Run(const Options& options) {
  const int threads = cpu::ThreadCount();
  BenchTable table = {.columns = {"op", "shape", "dtype", "ms", "rate", "unit", "roof", "share"},
                      .rows = {}};
  const auto measure = [&](const std::vector<Case>& cases) {
    for (const Case& c : cases) {
      c.run();
      std::vector<double> seconds;
      seconds.reserve(static_cast<size_t>(options.repetitions));
      // The roof in the same minute: the machine may be faster or slower in the next.
      const double roof = cpu::MeasureRoof(c.roof, threads, kRoofSeconds);
      for (int i = 0; i < options.repetitions; ++i) seconds.push_back(SecondsOf(c.run));
      const double rate = c.work / Median(seconds);
      table.rows.push_back({c.op, c.shape, DTypeName(c.dtype), Median(seconds) * 1e3,
                            options.json ? rate : rate / 1e9,
                            fmt::format("{}{}", options.json ? "" : "G", cpu::RoofUnit(c.roof)),
                            cpu::RoofName(c.roof), rate / roof});
    }
  };
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    measure(LinearCases(options.rows, dtype));
    measure(LossCases(options.rows, dtype));
    measure(RowCases(options.rows, dtype));
  }
  measure(OptimizerCases());
  PrintTable(table, options.json);
}

}  // namespace

void AddBenchOps(CLI::App& bench) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = bench.add_subcommand("ops", "The operators, beside the roof of each");
  command->add_option("--rows", options->rows, "Rows of the operators that take many")
      ->transform(WholeNumber(1, int64_t{1} << 20))
      ->type_name("N")
      ->capture_default_str();
  AddRepetitionsOption(*command, options->repetitions);
  AddJsonOption(*command, options->json);
  command->callback([options] { Run(*options); });
}

}  // namespace adder
