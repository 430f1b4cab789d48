// The CPU against the definition: ties, rows without a choice, odd sizes.
#include "adder/ops/most_likely/most_likely.h"

#include <gtest/gtest.h>

#include <limits>

#include "adder/ops/most_likely/most_likely_cases_test.h"
#include "adder/ops/operator_test.h"

namespace adder {
namespace {

TEST(MostLikelyTest, IsTheDefinition) {
  for (const Tensor& logits : test::MostLikelyCases()) {
    SCOPED_TRACE(logits.ToString());
    const Tensor expected = Tensor::Empty({logits.dim(0)}, DType::kI32);
    const Tensor tokens = Tensor::Empty({logits.dim(0)}, DType::kI32);
    reference::MostLikely(logits, expected);
    MostLikely(logits, tokens);
    EXPECT_TRUE(test::SameBits(tokens, expected));
  }
}

TEST(MostLikelyTest, TheFirstOfEqualsWins) {
  const float logits[] = {1, 3, 2, 3};
  EXPECT_EQ(MostLikely(logits), 1);
  EXPECT_EQ(MostLikely(std::span<const float>()), -1);
}

TEST(MostLikelyTest, ArgumentsAreChecked) {
  const Tensor logits = Tensor::Zeros({2, 5}, DType::kF32);
  const Tensor tokens = Tensor::Zeros({2}, DType::kI32);
  EXPECT_THROW(MostLikely(logits, tokens.Rows(0, 1)), Error);
  EXPECT_THROW(MostLikely(logits.To(DType::kBF16), tokens), Error);
  EXPECT_THROW(MostLikely(logits, Tensor::Zeros({2}, DType::kF32)), Error);
  EXPECT_THROW(MostLikely(logits, Tensor()), Error);
}

}  // namespace
}  // namespace adder
