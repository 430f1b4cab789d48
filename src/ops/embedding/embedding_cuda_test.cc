// embedding on a CUDA device computes what it computes on the CPU.
#include <gmock/gmock.h>

#include <vector>

#include "adder/backend/cuda/cuda_test.h"
#include "adder/backend/cuda/module.h"
#include "adder/ops/embedding/embedding.h"
#include "adder/ops/operator_test.h"

namespace adder {
namespace {

using test::ErrorOf;
using test::kCuda;
using test::Near;
using test::OnCpu;
using test::OnCuda;
using test::RandomNormal;
using test::SameBits;
using testing::HasSubstr;
using EmbeddingCudaTest = test::CudaTest;

constexpr DType kActivations[] = {DType::kF32, DType::kBF16, DType::kF16};

Tensor Tokens(const std::vector<int32_t>& tokens) {
  return Tensor::From<int32_t>({static_cast<int64_t>(tokens.size())}, tokens);
}

Tensor RandomTokens(Random& random, int64_t rows, int64_t vocab) {
  std::vector<int32_t> tokens;
  for (int64_t t = 0; t < rows; ++t) {
    tokens.push_back(static_cast<int32_t>(random.NextBelow(static_cast<uint64_t>(vocab))));
  }
  return Tokens(tokens);
}

TEST_F(EmbeddingCudaTest, LooksUpExactly) {
  Random random(1);
  for (const DType dtype : kActivations) {
    for (const DType y_dtype : {dtype, DType::kF32}) {
      for (const int64_t channels : {0, 1, 16, 45, 130, 768}) {
        for (const int64_t rows : {0, 1, 77, 300}) {
          const Tensor W = test::WithRowGap(RandomNormal(random, {11, channels}).To(dtype), 3);
          const Tensor tokens = RandomTokens(random, rows, 11);
          const Tensor y = Tensor::Empty({rows, channels}, y_dtype);
          const Tensor cuda_y = Tensor::Empty({rows, channels}, y_dtype, kCuda);
          Embedding(tokens, W, y);
          Embedding(OnCuda(tokens), OnCuda(W), cuda_y);
          EXPECT_TRUE(SameBits(OnCpu(cuda_y), y));
        }
      }
    }
  }
}

TEST_F(EmbeddingCudaTest, LooksUpQuantizedRows) {
  Random random(2);
  for (const DType dtype : {DType::kQ8_0, DType::kQ4_0, DType::kQ4_K, DType::kQ6_K}) {
    SCOPED_TRACE(DTypeName(dtype));
    const Tensor W = RandomNormal(random, {11, 512}).To(DType::kF32).To(dtype);
    const Tensor tokens = RandomTokens(random, 77, 11);
    const Tensor y = Tensor::Empty({77, 512}, DType::kF32);
    const Tensor cuda_y = Tensor::Empty({77, 512}, DType::kF32, kCuda);
    Embedding(tokens, W, y);
    Embedding(OnCuda(tokens), OnCuda(W), cuda_y);
    EXPECT_TRUE(Near(OnCpu(cuda_y), y, 0));
  }
}

void ExpectBackwardAsOnCpu(Random& random, int64_t rows, int64_t vocab, int64_t channels,
                           DType dtype, int64_t gap) {
  SCOPED_TRACE(testing::Message() << rows << " rows of " << vocab << " tokens, " << channels << " "
                                  << DTypeName(dtype) << ", gap " << gap);
  const Tensor tokens = RandomTokens(random, rows, vocab);
  const Tensor dense_dy = RandomNormal(random, {rows, channels}).To(dtype);
  const Tensor dy = gap > 0 ? test::WithRowGap(dense_dy, gap) : dense_dy;
  const Tensor before = RandomNormal(random, {vocab, channels}).To(DType::kF32);
  const Tensor dW = before.Clone();
  EmbeddingBackward(tokens, dy, dW);
  const Tensor cuda_dW = OnCuda(gap > 0 ? test::WithRowGap(before, gap) : before);
  EmbeddingBackward(OnCuda(tokens), OnCuda(dy), cuda_dW);
  if (rows <= 64) {  // one tile, the CPU's order
    EXPECT_TRUE(SameBits(OnCpu(cuda_dW), dW));
  } else {
    // Roundings of a sum of rows / vocab terms, one by one or tile by tile.
    EXPECT_TRUE(Near(OnCpu(cuda_dW), dW, rows > 10000 ? 2e-4 : 1e-5));
  }
  const Tensor again = OnCuda(before);
  EmbeddingBackward(OnCuda(tokens), OnCuda(dy), again);
  EXPECT_TRUE(SameBits(OnCpu(again), OnCpu(cuda_dW)));
}

TEST_F(EmbeddingCudaTest, BackwardMatchesTheCpu) {
  Random random(3);
  for (const DType dtype : kActivations) {
    for (const int64_t channels : {0, 1, 45, 130, 768}) {
      for (const int64_t rows : {0, 1, 7, 64, 65, 200, 1000}) {
        ExpectBackwardAsOnCpu(random, rows, 7, channels, dtype, rows % 2 == 0 ? 0 : 3);
        ExpectBackwardAsOnCpu(random, rows, 1, channels, dtype, 4);
      }
    }
  }
  ExpectBackwardAsOnCpu(random, 1000, 50277, 45, DType::kBF16, 0);
  // Runs over many tiles, tiles of more than 64 rows.
  ExpectBackwardAsOnCpu(random, 300000, 3, 20, DType::kF32, 0);
  ExpectBackwardAsOnCpu(random, 30000, 256, 512, DType::kBF16, 0);
}

// Tables past 2^31 elements.
TEST_F(EmbeddingCudaTest, IndexesInSixtyFourBits) {
  test::WithLargeMemory([] {
    Random random(4);
    constexpr int64_t kVocab = (int64_t{1} << 21) + 10;
    const Tensor tokens = OnCuda(Tokens({5, static_cast<int32_t>(kVocab - 1), 5}));
    const Tensor rows = OnCuda(RandomNormal(random, {3, 1024}).To(DType::kBF16));
    const Tensor W = Tensor::Empty({kVocab, 1024}, DType::kBF16, kCuda);
    W.Rows(5, 1).CopyFrom(rows.Rows(0, 1));
    W.Rows(kVocab - 1, 1).CopyFrom(rows.Rows(1, 1));
    const Tensor y = Tensor::Empty({3, 1024}, DType::kBF16, kCuda);
    Embedding(tokens, W, y);
    EXPECT_TRUE(SameBits(OnCpu(y.Rows(0, 2)), OnCpu(rows.Rows(0, 2))));
    const Tensor dW = Tensor::Zeros({kVocab, 1024}, DType::kF32, kCuda);
    EmbeddingBackward(tokens, rows, dW);
    EXPECT_TRUE(SameBits(OnCpu(dW.Rows(kVocab - 1, 1)), OnCpu(rows.Rows(1, 1)).To(DType::kF32)));
    EXPECT_EQ(test::MaxAbs(OnCpu(dW.Rows(kVocab - 2, 1))), 0);
  });
}

TEST_F(EmbeddingCudaTest, TokensOutsideTheVocabularyAreLeftOutAndReported) {
  const Tensor W = OnCuda(Tensor::From<float>({2, 2}, std::vector<float>{1, 2, 3, 4}));
  for (const int32_t bad :
       {2, -1, std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max()}) {
    const Tensor tokens = OnCuda(Tokens({1, bad, 0}));
    const Tensor y = Tensor::Empty({3, 2}, DType::kF32, kCuda);
    Embedding(tokens, W, y);
    EXPECT_THAT(ErrorOf([&] { cuda::GetModule().Synchronize(0); }),
                HasSubstr("embedding: a token is outside the vocabulary of 2"));
    const Tensor expected = Tensor::From<float>({3, 2}, std::vector<float>{3, 4, 0, 0, 1, 2});
    EXPECT_TRUE(SameBits(OnCpu(y), expected));  // the error is forgotten

    const Tensor dW = Tensor::Zeros({2, 2}, DType::kF32, kCuda);
    EmbeddingBackward(tokens, OnCuda(expected), dW);
    EXPECT_THAT(ErrorOf([&] { OnCpu(dW); }), HasSubstr("outside the vocabulary of 2"));
    EXPECT_TRUE(SameBits(OnCpu(dW), Tensor::From<float>({2, 2}, std::vector<float>{1, 2, 3, 4})));
  }
}

}  // namespace
}  // namespace adder
