// Training in segments on a CUDA device.
#include <gtest/gtest.h>

#include "adder/backend/cuda/cuda_test.h"
#include "adder/train/segmented_backward_test.h"

namespace adder {
namespace {

using test::EveryArchitecture;
using test::InSegments;
using test::kCuda;
using test::Outcome;
using test::SameBits;
using test::Text;

class SegmentedBackwardCudaTest : public test::CudaTest {};

TEST_F(SegmentedBackwardCudaTest, SegmentsOfAnyLengthAreTheWhole) {
  for (const auto& [name, config] : EveryArchitecture()) {
    if (name != "mamba" && name != "mamba2") continue;
    SCOPED_TRACE(name);
    BlockLanguageModel model(config, DType::kF32);
    model.MoveTo(kCuda);
    InitializeModel(model, 42);
    test::ExpectSegmentsOfAnyLengthAreTheWhole(model, /*tolerance=*/1e-4,
                                               /*gradient_tolerance=*/1e-3);
  }
}

TEST_F(SegmentedBackwardCudaTest, Repeats) {
  BlockLanguageModel model(test::SmallConfig(), DType::kBF16);
  model.MoveTo(kCuda);
  InitializeModel(model, 42);
  model.PrepareTraining();
  const Text text;
  const Outcome first = InSegments(model, text, 64, Recompute::kScan, nullptr);
  const Outcome second = InSegments(model, text, 64, Recompute::kScan, nullptr);
  EXPECT_TRUE(SameBits(second.losses.To(Device{}), first.losses.To(Device{})));
  for (size_t i = 0; i < first.gradients.size(); ++i) {
    EXPECT_TRUE(SameBits(second.gradients[i], first.gradients[i])) << model.parameters()[i].name;
  }
}

}  // namespace
}  // namespace adder
