// softmax_cross_entropy against its definition: dtypes, vocabularies from one word to a published
// model's, ignored and wrong targets, extreme logits, blocks of rows, every instruction set.
#include "adder/ops/softmax_cross_entropy/softmax_cross_entropy.h"

#include "adder/core/error.h"
#include "adder/ops/operator_test.h"

namespace adder {
namespace {

using test::Near;
using test::RandomNormal;
using test::RoundedTo;
using test::WithRowGap;

struct Problem {
  SoftmaxCrossEntropyInputs inputs;  // f64
  Tensor d_loss;                     // f64 [rows]

  // ignored: of ten rows, how many have no target.
  Problem(Random& random, int64_t rows, int64_t K, int64_t vocab, uint64_t ignored = 2,
          double logit_scale = 1)
      : d_loss(RandomNormal(random, {rows})) {
    std::vector<int32_t> targets;
    for (int64_t t = 0; t < rows; ++t) {
      targets.push_back(random.NextBelow(10) < ignored
                            ? kIgnoreTarget
                            : static_cast<int32_t>(random.NextBelow(static_cast<uint64_t>(vocab))));
    }
    inputs = {
        .hidden = RandomNormal(random, {rows, K}),
        .W = RandomNormal(random, {vocab, K}, 0, logit_scale / std::sqrt(static_cast<double>(K))),
        .bias = RandomNormal(random, {vocab}),
        .targets = Tensor::From<int32_t>({rows}, targets)};
  }

  SoftmaxCrossEntropyInputs Reference(DType dtype, bool with_bias = true) const {
    return {.hidden = RoundedTo(dtype, inputs.hidden),
            .W = RoundedTo(dtype, inputs.W),
            .bias = with_bias ? RoundedTo(DType::kF32, inputs.bias) : Tensor(),
            .targets = inputs.targets};
  }
  SoftmaxCrossEntropyInputs Actual(DType dtype, bool with_bias = true, bool strided = false) const {
    const Tensor hidden = inputs.hidden.To(dtype);
    const Tensor W = inputs.W.To(dtype);
    return {.hidden = strided ? WithRowGap(hidden, 3) : hidden,
            .W = strided ? WithRowGap(W, 1) : W,
            .bias = with_bias ? inputs.bias.To(DType::kF32) : Tensor(),
            .targets = inputs.targets};
  }
};

// The loss.
Tensor Forward(const SoftmaxCrossEntropyInputs& inputs) {
  const bool reference = inputs.hidden.dtype() == DType::kF64;
  const Tensor loss = Tensor::Empty({inputs.hidden.dim(0)}, reference ? DType::kF64 : DType::kF32);
  reference ? reference::SoftmaxCrossEntropy(inputs, loss) : SoftmaxCrossEntropy(inputs, loss);
  return loss;
}

// The parameters' gradients begin at one, to see that they are added to.
SoftmaxCrossEntropyGradients Backward(const SoftmaxCrossEntropyInputs& inputs,
                                      const Tensor& d_loss) {
  const bool reference = inputs.hidden.dtype() == DType::kF64;
  const DType dtype = reference ? DType::kF64 : DType::kF32;
  const auto ones = [](const Shape& shape) {
    return Tensor::From<double>(shape,
                                std::vector<double>(static_cast<size_t>(shape.elements()), 1.0));
  };
  SoftmaxCrossEntropyGradients gradients = {
      .d_hidden = WithRowGap(ones(inputs.hidden.shape()).To(inputs.hidden.dtype()), 2),
      .dW = ones(inputs.W.shape()).To(dtype),
      .dbias = ones({inputs.W.dim(0)}).To(dtype),
      .loss = Tensor::Empty({inputs.hidden.dim(0)}, dtype)};
  reference ? reference::SoftmaxCrossEntropyBackward(inputs, d_loss, gradients)
            : SoftmaxCrossEntropyBackward(inputs, d_loss, gradients);
  return gradients;
}

void Compare(const Problem& p, DType dtype, bool with_bias, bool strided) {
  SCOPED_TRACE(p.inputs.hidden.ToString() + " x " + p.inputs.W.ToString() + " as " +
               std::string(DTypeName(dtype)));
  const auto inputs = p.Actual(dtype, with_bias, strided);
  const auto reference_inputs = p.Reference(dtype, with_bias);
  // Sums of f32 in another order, relative to the largest loss.
  EXPECT_TRUE(Near(Forward(inputs), Forward(reference_inputs), 5e-6));
  const auto gradients = Backward(inputs, p.d_loss.To(DType::kF32));
  const auto expected_gradients = Backward(reference_inputs, RoundedTo(DType::kF32, p.d_loss));
  // In bf16 each term of a sum is rounded to 8 bits, and the result of d_hidden too; in f16 only
  // that result, to 11.
  const double rounded_terms = dtype == DType::kBF16 ? 1.0 / 128 : 2e-5;
  const double rounded_result = dtype == DType::kF16 ? 1.0 / 1024 : rounded_terms;
  EXPECT_TRUE(Near(gradients.d_hidden, expected_gradients.d_hidden, rounded_result));
  EXPECT_TRUE(test::GapsUntouched(gradients.d_hidden));
  EXPECT_TRUE(Near(gradients.dW, expected_gradients.dW, rounded_terms));
  EXPECT_TRUE(Near(gradients.dbias, expected_gradients.dbias, rounded_terms));
  EXPECT_TRUE(test::SameBits(gradients.loss, Forward(inputs)));
  EXPECT_TRUE(test::SameBits(expected_gradients.loss, Forward(reference_inputs)));
}

TEST(SoftmaxCrossEntropyTest, ReferenceGradients) {
  Random random(1);
  for (const int64_t vocab : {1, 2, 7}) {
    const Problem p(random, 6, 5, vocab);
    const auto gradients = Backward(p.inputs, p.d_loss);
    const auto minus_one = [](const Tensor& tensor) {  // undo the ones that Backward begins with
      const Tensor result = tensor.Clone();
      for (int64_t i = 0; i < result.elements(); ++i) result.data<double>()[i] -= 1;
      return result;
    };
    test::ExpectGradients([&] { return test::WeightedSum(p.d_loss, Forward(p.inputs)); },
                          {{"hidden", p.inputs.hidden, gradients.d_hidden.Clone()},
                           {"W", p.inputs.W, minus_one(gradients.dW)},
                           {"bias", p.inputs.bias, minus_one(gradients.dbias)}},
                          random);
  }
}

TEST(SoftmaxCrossEntropyTest, AgreesWithTheReference) {
  Random random(2);
  test::ForEveryInstructionSet([&] {
    for (const int64_t vocab : {1, 2, 15, 16, 17, 64, 100, 256, 1001}) {
      const Problem p(random, 23, 12, vocab);
      for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
        Compare(p, dtype, true, false);
      }
      Compare(p, DType::kF32, false, true);
      Compare(p, DType::kBF16, true, true);
    }
  });
}

TEST(SoftmaxCrossEntropyTest, AgreesAcrossBlocksOfRows) {
  Random random(3);
  const Problem published(random, 90, 4, 50280);
  Compare(published, DType::kF32, false, false);
  Compare(published, DType::kBF16, true, false);
  const Problem bytes(random, 1100, 6, 256);
  Compare(bytes, DType::kF32, true, false);
}

// Inference with small weights: the loss is that of the weights they stand for.
TEST(SoftmaxCrossEntropyTest, TakesOtherWeightsThanActivations) {
  Random random(9);
  const Problem p(random, 40, 256, 100);
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kQ8_0, DType::kQ4_K}) {
    auto inputs = p.Actual(DType::kF32);
    inputs.W = inputs.W.To(dtype);
    auto expected_inputs = p.Reference(DType::kF32, true);
    expected_inputs.W = inputs.W.To(DType::kF64);
    EXPECT_TRUE(Near(Forward(inputs), Forward(expected_inputs), 5e-6)) << DTypeName(dtype);
    EXPECT_THROW(Backward(inputs, p.d_loss.To(DType::kF32)), Error);
  }
}

TEST(SoftmaxCrossEntropyTest, ExtremeLogits) {
  Random random(4);
  test::ForEveryInstructionSet([&] {
    for (const double scale : {0.0, 1e3, 1e6}) {
      const Problem p(random, 40, 8, 50, 0, scale);
      Compare(p, DType::kF32, false, false);
    }
  });
  // A row that is sure and right loses nothing; one that is sure and wrong, the difference.
  const std::vector<float> hidden = {1, 1};
  const std::vector<float> W = {3e4f, -3e4f};
  const std::vector<int32_t> targets = {0, 1};
  const Tensor loss = Forward({.hidden = Tensor::From<float>({2, 1}, hidden),
                               .W = Tensor::From<float>({2, 1}, W),
                               .targets = Tensor::From<int32_t>({2}, targets)});
  EXPECT_EQ(loss.data<float>()[0], 0);
  EXPECT_EQ(loss.data<float>()[1], 6e4f);
}

// What all logits have in common changes nothing: no digit of the gradient is lost to it.
TEST(SoftmaxCrossEntropyTest, ALargeCommonOffsetCostsTheGradientNothing) {
  test::ForEveryInstructionSet([] {
    for (const float offset : {0.0f, 1e4f, -1e6f}) {
      SCOPED_TRACE(offset);
      const std::vector<float> hidden = {1};
      const std::vector<float> W = {offset, offset - 1};
      const std::vector<int32_t> target = {1};
      const std::vector<float> d_loss = {1};
      const Tensor dbias = Tensor::Zeros({2}, DType::kF32);
      SoftmaxCrossEntropyBackward({.hidden = Tensor::From<float>({1, 1}, hidden),
                                   .W = Tensor::From<float>({2, 1}, W),
                                   .targets = Tensor::From<int32_t>({1}, target)},
                                  Tensor::From<float>({1}, d_loss), {.dbias = dbias});
      const double probability = 1 / (1 + std::exp(-1.0));
      EXPECT_NEAR(dbias.data<float>()[0], probability, 2e-7);
      EXPECT_NEAR(dbias.data<float>()[1], -probability, 2e-7);
    }
  });
}

// What goes wrong must be seen, not swallowed.
TEST(SoftmaxCrossEntropyTest, NaNsAndInfinitiesReachTheLoss) {
  test::ForEveryInstructionSet([] {
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      for (const size_t where : {0, 18, 39}) {
        std::vector<float> W(40, 1.0f);
        W[where] = bad;
        const std::vector<float> hidden = {1};
        const std::vector<int32_t> target = {5};
        const Tensor loss = Forward({.hidden = Tensor::From<float>({1, 1}, hidden),
                                     .W = Tensor::From<float>({40, 1}, W),
                                     .targets = Tensor::From<int32_t>({1}, target)});
        EXPECT_FALSE(std::isfinite(loss.data<float>()[0])) << bad << " at " << where;
      }
    }
  });
}

TEST(SoftmaxCrossEntropyTest, IgnoredRowsCostNothing) {
  Random random(5);
  const Problem p(random, 1030, 4, 256, 10);
  const auto inputs = p.Actual(DType::kF32);
  EXPECT_EQ(test::MaxAbs(Forward(inputs)), 0);
  const auto gradients = Backward(inputs, p.d_loss.To(DType::kF32));
  EXPECT_EQ(test::MaxAbs(gradients.d_hidden), 0);
  for (int64_t i = 0; i < gradients.dW.elements(); ++i) {
    ASSERT_EQ(gradients.dW.data<float>()[i], 1);
  }
}

TEST(SoftmaxCrossEntropyTest, NothingToDo) {
  Random random(6);
  const Problem p(random, 0, 4, 3);
  const auto inputs = p.Actual(DType::kF32);
  Forward(inputs);
  const auto gradients = Backward(inputs, p.d_loss.To(DType::kF32));
  EXPECT_EQ(test::MaxAbs(gradients.dW), 1);
  const Problem some(random, 3, 4, 5);
  SoftmaxCrossEntropyBackward(some.Actual(DType::kF32), Tensor::Zeros({3}, DType::kF32), {});
}

TEST(SoftmaxCrossEntropyTest, RefusesWrongTargets) {
  Random random(7);
  for (const int32_t wrong : {-1, 5, -99, 1 << 30, std::numeric_limits<int32_t>::min()}) {
    const Problem p(random, 3, 4, 5);
    auto inputs = p.Actual(DType::kF32);
    const std::vector<int32_t> targets = {4, wrong, 0};
    inputs.targets = Tensor::From<int32_t>({3}, targets);
    EXPECT_THROW(Forward(inputs), Error) << wrong;
    EXPECT_THROW(Backward(inputs, p.d_loss.To(DType::kF32)), Error) << wrong;
  }
}

TEST(SoftmaxCrossEntropyTest, RefusesTensorsThatDisagree) {
  Random random(8);
  const Problem p(random, 3, 4, 5);
  const auto good = p.Actual(DType::kF32);
  const auto refuses = [&](auto change) {
    auto inputs = good;
    change(inputs);
    EXPECT_THROW(SoftmaxCrossEntropy(inputs, Tensor::Empty({3}, DType::kF32)), Error);
  };
  refuses([](auto& i) { i.hidden = Tensor::Zeros({4}, DType::kF32); });
  refuses([](auto& i) { i.W = Tensor::Zeros({5, 3}, DType::kF32); });
  refuses([](auto& i) { i.W = Tensor::Zeros({0, 4}, DType::kF32); });
  refuses([](auto& i) { i.W = i.W.To(DType::kF64); });
  refuses([](auto& i) { i.bias = Tensor::Zeros({4}, DType::kF32); });
  refuses([](auto& i) { i.targets = Tensor::Zeros({4}, DType::kI32); });
  refuses([](auto& i) { i.targets = Tensor::Zeros({3}, DType::kI64); });
  refuses([](auto& i) { i.targets = Tensor(); });
  EXPECT_THROW(SoftmaxCrossEntropy(good, Tensor::Empty({2}, DType::kF32)), Error);
  EXPECT_THROW(SoftmaxCrossEntropy(good, Tensor()), Error);
  EXPECT_THROW(SoftmaxCrossEntropyBackward(good, Tensor(), {}), Error);
  const Tensor d_loss = Tensor::Zeros({3}, DType::kF32);
  EXPECT_THROW(SoftmaxCrossEntropyBackward(good, d_loss, {.dW = good.W}), Error);
  EXPECT_THROW(SoftmaxCrossEntropyBackward(good, d_loss, {.dbias = good.bias}), Error);
  const Tensor five = Tensor::Zeros({5}, DType::kF32);
  EXPECT_THROW(SoftmaxCrossEntropyBackward(good, five.Rows(0, 3), {.dbias = five}), Error);
}

}  // namespace
}  // namespace adder
