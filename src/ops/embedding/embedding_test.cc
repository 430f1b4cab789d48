// Tests of embedding: the definition, the CPU against it, and tokens that lie.
#include "adder/ops/embedding/embedding.h"

#include <gmock/gmock.h>

#include "adder/backend/cpu/parallel.h"
#include "adder/core/error.h"
#include "adder/ops/operator_test.h"

namespace adder {
namespace {

using test::ErrorOf;
using test::ForEveryInstructionSet;
using test::GapsUntouched;
using test::RandomNormal;
using test::SameBits;
using testing::HasSubstr;

constexpr DType kActivations[] = {DType::kF32, DType::kBF16, DType::kF16};

Tensor Tokens(std::vector<int32_t> tokens) {
  return Tensor::From(Shape{static_cast<int64_t>(tokens.size())}, std::span<const int32_t>(tokens));
}

Tensor RandomTokens(Random& random, int64_t rows, int64_t vocab) {
  std::vector<int32_t> tokens;
  for (int64_t t = 0; t < rows; ++t) {
    tokens.push_back(static_cast<int32_t>(random.NextBelow(static_cast<uint64_t>(vocab))));
  }
  return Tokens(tokens);
}

TEST(EmbeddingReference, GradientsAgreeWithDifferences) {
  Random random(1);
  const Tensor W = RandomNormal(random, {5, 3});
  const Tensor tokens = Tokens({4, 0, 4, 2, 4});
  const Tensor y = Tensor::Empty({5, 3}, DType::kF64);
  const Tensor dy = RandomNormal(random, {5, 3});
  const Tensor dW = Tensor::Zeros({5, 3}, DType::kF64);
  reference::EmbeddingBackward(tokens, dy, dW);
  test::ExpectGradients(
      [&] {
        reference::Embedding(tokens, W, y);
        return test::WeightedSum(dy, y);
      },
      {{"W", W, dW}}, random);
}

TEST(EmbeddingCpu, LooksUpExactly) {
  ForEveryInstructionSet([] {
    Random random(2);
    for (const DType dtype : kActivations) {
      for (const DType y_dtype : {dtype, DType::kF32}) {
        for (const int64_t channels : {0, 1, 16, 45, 130}) {
          for (const int64_t rows : {0, 1, 77}) {
            SCOPED_TRACE(testing::Message() << DTypeName(dtype) << " to " << DTypeName(y_dtype)
                                            << " [" << rows << ", " << channels << "]");
            const Tensor W = test::WithRowGap(RandomNormal(random, {11, channels}).To(dtype), 3);
            const Tensor tokens = RandomTokens(random, rows, 11);
            const Tensor y = test::WithRowGap(Tensor::Zeros({rows, channels}, y_dtype), 2);
            Embedding(tokens, W, y);
            const Tensor expected = Tensor::Empty({rows, channels}, DType::kF64);
            reference::Embedding(tokens, W.To(DType::kF64), expected);
            EXPECT_TRUE(SameBits(y.To(DType::kF64), expected));
            EXPECT_TRUE(GapsUntouched(y));
          }
        }
      }
    }
  });
}

TEST(EmbeddingCpu, LooksUpQuantizedRows) {
  ForEveryInstructionSet([] {
    Random random(5);
    for (const DType dtype : {DType::kQ8_0, DType::kQ4_0, DType::kQ4_K, DType::kQ6_K}) {
      const Tensor W = RandomNormal(random, {11, 512}).To(DType::kF32).To(dtype);
      const Tensor tokens = RandomTokens(random, 77, 11);
      const Tensor y = test::WithRowGap(Tensor::Zeros({77, 512}, DType::kF32), 2);
      Embedding(tokens, W, y);
      const Tensor expected = Tensor::Empty({77, 512}, DType::kF64);
      reference::Embedding(tokens, W.To(DType::kF64), expected);
      EXPECT_TRUE(test::Near(y, expected, 0)) << DTypeName(dtype);
      EXPECT_THAT(ErrorOf([&] { Embedding(tokens, W, y.To(DType::kBF16)); }),
                  HasSubstr("expected f32 [77, 512]"));
    }
  });
}

TEST(EmbeddingCpu, BackwardAddsInRowOrder) {
  ForEveryInstructionSet([] {
    Random random(3);
    for (const DType dtype : kActivations) {
      for (const int64_t channels : {0, 1, 16, 45, 130}) {
        const Tensor tokens = RandomTokens(random, 200, 7);
        const Tensor dy = test::WithRowGap(RandomNormal(random, {200, channels}).To(dtype), 1);
        const Tensor before = RandomNormal(random, {7, channels}).To(DType::kF32);
        const Tensor dW = test::WithRowGap(before, 2);
        EmbeddingBackward(tokens, dy, dW);

        const Tensor in_order = before.Clone();
        const Tensor dy_f32 = dy.Clone().To(DType::kF32);
        for (int64_t t = 0; t < 200; ++t) {
          for (int64_t d = 0; d < channels; ++d) {
            in_order.data<float>()[tokens.data<int32_t>()[t] * channels + d] +=
                dy_f32.data<float>()[t * channels + d];
          }
        }
        EXPECT_TRUE(SameBits(dW, in_order));
        EXPECT_TRUE(GapsUntouched(dW));
        const Tensor expected = before.To(DType::kF64);
        reference::EmbeddingBackward(tokens, dy.To(DType::kF64), expected);
        EXPECT_TRUE(test::Near(dW, expected, 1e-6));  // some thirty f32 additions
      }
    }
  });
}

TEST(EmbeddingCpu, ResultsDoNotDependOnThreads) {
  const int threads = cpu::ThreadCount();
  Random random(4);
  const Tensor tokens = RandomTokens(random, 3000, 50);
  const Tensor dy = RandomNormal(random, {3000, 130}).To(DType::kF32);
  std::vector<Tensor> results;
  for (const int count : {1, 2, 3, 7}) {
    cpu::SetThreadCount(count);
    results.push_back(Tensor::Zeros({50, 130}, DType::kF32));
    EmbeddingBackward(tokens, dy, results.back());
    EXPECT_TRUE(SameBits(results.back(), results.front()));
  }
  cpu::SetThreadCount(threads);
}

TEST(Embedding, RefusesTokensOutsideTheVocabulary) {
  const Tensor W = Tensor::Zeros({4, 2}, DType::kF32);
  const Tensor y = Tensor::Zeros({3, 2}, DType::kF32);
  for (const int32_t bad :
       {4, -1, std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max()}) {
    const std::string expected =
        "token " + std::to_string(bad) + " at row 1 is outside the vocabulary of 4";
    EXPECT_THAT(ErrorOf([&] { Embedding(Tokens({0, bad, 3}), W, y); }), HasSubstr(expected));
    EXPECT_THAT(ErrorOf([&] {
                  EmbeddingBackward(Tokens({0, bad, 3}), y, W);
                }),
                HasSubstr(expected));
  }
}

TEST(Embedding, RefusesWhatDoesNotFit) {
  const auto zeros = [](const Shape& shape, DType dtype = DType::kF32) {
    return Tensor::Zeros(shape, dtype);
  };
  const Tensor tokens = Tokens({0, 1, 3});
  EXPECT_THAT(ErrorOf([&] { Embedding(tokens, {}, zeros({3, 2})); }), HasSubstr("W is not given"));
  EXPECT_THAT(ErrorOf([&] {
                Embedding({}, zeros({4, 2}), zeros({3, 2}));
              }),
              HasSubstr("tokens is not given"));
  EXPECT_THAT(ErrorOf([&] {
                Embedding(zeros({3}), zeros({4, 2}), zeros({3, 2}));
              }),
              HasSubstr("tokens is f32 [3], expected i32 [3]"));
  EXPECT_THAT(ErrorOf([&] {
                Embedding(tokens, zeros({4, 2}), zeros({2, 2}));
              }),
              HasSubstr("y is f32 [2, 2], expected f32 [3, 2]"));
  EXPECT_THAT(ErrorOf([&] {
                Embedding(tokens, zeros({4, 2}), zeros({3, 2}, DType::kBF16));
              }),
              HasSubstr("y is bf16"));
  EXPECT_THAT(ErrorOf([&] {
                Embedding(tokens, zeros({4, 2}, DType::kF16), zeros({3, 2}, DType::kBF16));
              }),
              HasSubstr("expected f16 or f32 [3, 2]"));
  EXPECT_THAT(ErrorOf([&] {
                EmbeddingBackward(tokens, zeros({3, 3}), zeros({4, 2}));
              }),
              HasSubstr("embedding backward: dy is f32 [3, 3]"));
  EXPECT_THAT(ErrorOf([&] {
                EmbeddingBackward(tokens, zeros({3, 2}), zeros({4, 2}, DType::kBF16));
              }),
              HasSubstr("dW is bf16"));
  const Tensor W = zeros({4, 2});
  EXPECT_THAT(ErrorOf([&] { Embedding(tokens, W, W.Rows(1, 3)); }), HasSubstr("y lies on W"));
  EXPECT_THAT(ErrorOf([&] { EmbeddingBackward(tokens, W.Rows(0, 3), W); }),
              HasSubstr("dW lies on dy"));
}

}  // namespace
}  // namespace adder
