// softmax_cross_entropy on a CUDA device computes what it computes on the CPU.
#include <gmock/gmock.h>

#include <vector>

#include "adder/backend/cuda/cuda_test.h"
#include "adder/backend/cuda/module.h"
#include "adder/core/target.h"
#include "adder/ops/operator_test.h"
#include "adder/ops/softmax_cross_entropy/softmax_cross_entropy.h"

namespace adder {
namespace {

using test::ErrorOf;
using test::kCuda;
using test::Near;
using test::OnCpu;
using test::RandomNormal;
using test::SameBits;
using testing::HasSubstr;
using SoftmaxCrossEntropyCudaTest = test::CudaTest;

struct Case {
  int64_t rows, vocab, K;
  DType dtype = DType::kF32;
  bool bias = false;
  int64_t gap = 0;   // between rows
  double scale = 1;  // of the hidden rows: of the logits
};

void ExpectAsOnCpu(Random& random, const Case& c) {
  SCOPED_TRACE(testing::Message() << c.rows << " rows, vocabulary " << c.vocab << ", K " << c.K
                                  << ", " << DTypeName(c.dtype) << ", gap " << c.gap << ", scale "
                                  << c.scale);
  const auto rows = [&](const Shape& shape, DType dtype, double stddev) {
    const Tensor t = RandomNormal(random, shape, 0, stddev).To(dtype);
    return c.gap > 0 ? test::WithRowGap(t, c.gap) : t;
  };
  const Tensor hidden = rows({c.rows, c.K}, c.dtype, c.scale);
  const Tensor W = rows({c.vocab, c.K}, c.dtype, 0.2);
  const Tensor bias = c.bias ? RandomNormal(random, {c.vocab}).To(DType::kF32) : Tensor();
  const Tensor d_loss = RandomNormal(random, {c.rows}).To(DType::kF32);
  const Tensor dW = rows({c.vocab, c.K}, DType::kF32, 1);
  std::vector<int32_t> targets;
  for (int64_t t = 0; t < c.rows; ++t) {
    const auto target = static_cast<int32_t>(random.NextBelow(static_cast<uint64_t>(c.vocab)));
    targets.push_back(t % 5 == 3 ? kIgnoreTarget : target);
  }
  struct Results {
    Tensor loss, d_hidden, dW, dbias, backward_loss;
  };
  const auto run = [&](Device device) {
    const SoftmaxCrossEntropyInputs in = {
        .hidden = hidden.To(device),
        .W = W.To(device),
        .bias = c.bias ? bias.To(device) : Tensor(),
        .targets = Tensor::From<int32_t>({c.rows}, targets).To(device)};
    const Results r = {.loss = Tensor::Empty({c.rows}, DType::kF32, device),
                       .d_hidden = Tensor::Empty({c.rows, c.K}, c.dtype, device),
                       .dW = dW.To(device).Clone(),
                       .dbias = Tensor::Zeros({c.vocab}, DType::kF32, device),
                       .backward_loss = Tensor::Empty({c.rows}, DType::kF32, device)};
    SoftmaxCrossEntropy(in, r.loss);
    SoftmaxCrossEntropyBackward(
        in, d_loss.To(device),
        {.d_hidden = r.d_hidden, .dW = r.dW, .dbias = r.dbias, .loss = r.backward_loss});
    return Results{OnCpu(r.loss), OnCpu(r.d_hidden), OnCpu(r.dW), OnCpu(r.dbias),
                   OnCpu(r.backward_loss)};
  };
  const Results cpu = run({});
  const Results cuda = run(kCuda);
  const Results again = run(kCuda);
  // Sums of up to 300 products, of exponentials good to a few units in the last place; in 16 bits
  // the gradients of logits are rounded before they are multiplied.
  const double rounding = c.dtype == DType::kF32 ? 0 : c.dtype == DType::kBF16 ? 0x1p-7 : 0x1p-10;
  EXPECT_TRUE(Near(cuda.loss, cpu.loss, 2e-5));
  EXPECT_TRUE(Near(cuda.d_hidden, cpu.d_hidden, 2e-5 + rounding));
  EXPECT_TRUE(Near(cuda.dW, cpu.dW, 2e-5 + rounding));
  EXPECT_TRUE(Near(cuda.dbias, cpu.dbias, 2e-5 + rounding));
  EXPECT_TRUE(SameBits(cuda.backward_loss, cuda.loss));
  EXPECT_TRUE(SameBits(cuda.loss, again.loss));
  EXPECT_TRUE(SameBits(cuda.d_hidden, again.d_hidden));
  EXPECT_TRUE(SameBits(cuda.dW, again.dW));
  EXPECT_TRUE(SameBits(cuda.dbias, again.dbias));
}

TEST_F(SoftmaxCrossEntropyCudaTest, MatchesTheCpu) {
  Random random(1);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const int64_t vocab : {1, 7, 256, 3001, 4097, 40002}) {
      ExpectAsOnCpu(random, {.rows = 37, .vocab = vocab, .K = 64, .dtype = dtype});
      ExpectAsOnCpu(random,
                    {.rows = 5, .vocab = vocab, .K = 31, .dtype = dtype, .bias = true, .gap = 3});
    }
    ExpectAsOnCpu(random, {.rows = 9, .vocab = 700, .K = 48, .dtype = dtype, .scale = 40});
  }
  // Gradients of 16 bits that lie on logits which are read twice.
  ExpectAsOnCpu(random, {.rows = 3, .vocab = 140001, .K = 8, .dtype = DType::kBF16});
  ExpectAsOnCpu(random, {.rows = 0, .vocab = 5, .K = 8});
  ExpectAsOnCpu(random, {.rows = 1, .vocab = 5, .K = 8});
}

// More rows than the logits of one block.
TEST_F(SoftmaxCrossEntropyCudaTest, MatchesTheCpuInBlocksOfRows) {
  Random random(2);
  ExpectAsOnCpu(random, {.rows = 2500, .vocab = 100003, .K = 4, .bias = true});
}

TEST_F(SoftmaxCrossEntropyCudaTest, TargetsOutsideTheVocabularyAreReported) {
  const SoftmaxCrossEntropyInputs in = {
      .hidden = Tensor::Zeros({2, 4}, DType::kF32, kCuda),
      .W = Tensor::Zeros({8, 4}, DType::kF32, kCuda),
      .bias = {},
      .targets = Tensor::From<int32_t>({2}, std::vector<int32_t>{1, 8}).To(kCuda)};
  SoftmaxCrossEntropy(in, Tensor::Empty({2}, DType::kF32, kCuda));
  EXPECT_THAT(ErrorOf([&] { cuda::GetModule().Synchronize(0); }),
              HasSubstr("softmax_cross_entropy: a target is outside the vocabulary of 8"));
}

}  // namespace
}  // namespace adder
