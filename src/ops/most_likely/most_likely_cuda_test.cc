// most_likely on a CUDA device against its definition.
#include <gtest/gtest.h>

#include "adder/backend/cuda/cuda_test.h"
#include "adder/ops/most_likely/most_likely.h"
#include "adder/ops/most_likely/most_likely_cases_test.h"
#include "adder/ops/operator_test.h"

namespace adder {
namespace {

using MostLikelyCudaTest = test::CudaTest;

TEST_F(MostLikelyCudaTest, IsTheDefinition) {
  for (const Tensor& logits : test::MostLikelyCases()) {
    SCOPED_TRACE(logits.ToString());
    const Tensor expected = Tensor::Empty({logits.dim(0)}, DType::kI32);
    const Tensor tokens = Tensor::Zeros({logits.dim(0)}, DType::kI32, test::kCuda);
    reference::MostLikely(logits, expected);
    // Rows further apart, too.
    const Tensor wide = Tensor::Empty({logits.dim(0), logits.dim(1) + 5}, DType::kF32, test::kCuda);
    const Tensor there = wide.Columns(1, logits.dim(1));
    there.CopyFrom(logits);
    MostLikely(there, tokens);
    EXPECT_TRUE(test::SameBits(test::OnCpu(tokens), expected));
  }
}

}  // namespace
}  // namespace adder
