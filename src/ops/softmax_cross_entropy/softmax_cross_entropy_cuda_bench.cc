// Prints softmax_cross_entropy's times on a CUDA device beside a floor: its matrix products alone,
// asked of linear in blocks of rows, and moving the logits and their gradients once.
#include <algorithm>
#include <exception>

#include "adder/backend/cuda/cuda_bench.h"
#include "adder/ops/linear/linear.h"
#include "adder/ops/softmax_cross_entropy/softmax_cross_entropy.h"

namespace adder {
namespace {

using bench::kCuda;

constexpr int64_t kMostBlockRows = 4096;

struct Head {
  const char* name;
  int64_t rows, K, vocab;
};

void PrintTimes(const Head& h, DType dtype, double copy) {
  Random random(1);
  const Tensor hidden = bench::RandomRows(random, h.rows, h.K, dtype);
  const Tensor W = bench::RandomRows(random, h.vocab, h.K, dtype);
  std::vector<int32_t> targets(static_cast<size_t>(h.rows));
  for (int32_t& target : targets) {
    target = static_cast<int32_t>(random.NextBelow(static_cast<uint64_t>(h.vocab)));
  }
  const SoftmaxCrossEntropyInputs in = {
      .hidden = hidden,
      .W = W,
      .bias = {},
      .targets = Tensor::From<int32_t>({h.rows}, targets).To(kCuda)};
  const Tensor loss = Tensor::Zeros({h.rows}, DType::kF32, kCuda);
  const Tensor d_loss = Tensor::Zeros({h.rows}, DType::kF32, kCuda);
  const SoftmaxCrossEntropyGradients gradients = {
      .d_hidden = Tensor::Empty({h.rows, h.K}, dtype, kCuda),
      .dW = Tensor::Zeros({h.vocab, h.K}, DType::kF32, kCuda),
      .dbias = {},
      .loss = loss};
  const double forward = bench::MedianSeconds({[&] { SoftmaxCrossEntropy(in, loss); }});
  const double both =
      bench::MedianSeconds({[&] { SoftmaxCrossEntropyBackward(in, d_loss, gradients); }});

  const int64_t block = std::min(h.rows, kMostBlockRows);
  const Tensor logits = Tensor::Empty({block, h.vocab}, DType::kF32, kCuda);
  const Tensor d_logits = Tensor::Zeros({block, h.vocab}, dtype, kCuda);
  const auto for_each_block = [&](const auto& visit) {
    for (int64_t row = 0; row < h.rows; row += block) visit(row, std::min(block, h.rows - row));
  };
  const double product = bench::MedianSeconds({[&] {
    for_each_block([&](int64_t row, int64_t count) {
      Linear(hidden.Rows(row, count), W, {}, logits.Rows(0, count));
    });
  }});
  const double gradient_products = bench::MedianSeconds({[&] {
    for_each_block([&](int64_t row, int64_t count) {
      LinearBackward(hidden.Rows(row, count), W, d_logits.Rows(0, count),
                     {.dx = gradients.d_hidden.Rows(row, count), .dW = gradients.dW});
    });
  }});
  const auto count = static_cast<double>(h.rows * h.vocab);
  const double read = 4 * count / copy;
  const double write = static_cast<double>(DTypeSize(dtype)) * count / copy;
  const std::string shape =
      fmt::format("{} ({}, {}, {}) {}", h.name, h.rows, h.K, h.vocab, DTypeName(dtype));
  bench::PrintLine("loss " + shape, 0, product + read, forward);
  bench::PrintLine("loss + gradients " + shape, 0, product + read + write + gradient_products,
                   both);
  fmt::print("  of which products {:.4f} ms and {:.4f} ms, the pass over the logits {:.4f} ms\n",
             product * 1e3, gradient_products * 1e3, (both - product - gradient_products) * 1e3);
}

void Run() {
  const double copy = bench::CopyBytesPerSecond();
  for (const Head& head : {Head{"130m", 32768, 768, 50280}, {"1.4b", 8192, 2048, 50280}}) {
    PrintTimes(head, DType::kBF16, copy);
  }
  PrintTimes({"bytes", 65536, 768, 256}, DType::kBF16, copy);
  PrintTimes({"130m", 4096, 768, 50280}, DType::kF32, copy);
}

}  // namespace
}  // namespace adder

int main() {
  try {
    adder::Run();
  } catch (const std::exception& error) {
    fmt::print(stderr, "softmax_cross_entropy_cuda_bench: {}\n", error.what());
    return 1;
  }
}
