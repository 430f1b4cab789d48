// A batch in segments against the whole batch on one tape: the same losses and gradients, whatever
// is cut where.
#include "adder/train/segmented_backward.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "adder/core/error.h"
#include "adder/ops/adamw/adamw.h"
#include "adder/train/segmented_backward_test.h"

namespace adder {
namespace {

using test::EveryArchitecture;
using test::ExpectSegmentsOfAnyLengthAreTheWhole;
using test::InSegments;
using test::kEveryRecompute;
using test::kSegmentGradientTolerance;
using test::kWeight;
using test::MadeUpMemory;
using test::Near;
using test::Outcome;
using test::RandomTokens;
using test::SameBits;
using test::SmallConfig;
using test::SmallModel;
using test::Text;
using test::Whole;
using ::testing::HasSubstr;

TEST(SegmentedBackwardTest, SegmentsOfAnyLengthAreTheWhole) {
  for (const auto& [name, config] : EveryArchitecture()) {
    SCOPED_TRACE(name);
    const auto model = SmallModel(DType::kF32, config);
    bool attends = false;
    const State state = model->InitialState(0);
    for (const State::Entry& entry : state.entries()) attends |= entry.grows;
    if (!attends) ExpectSegmentsOfAnyLengthAreTheWhole(*model);
  }
}

TEST(SegmentedBackwardTest, NothingIsTruncated) {
  // The last row's loss reaches the first token's embedding, across 19 cuts.
  ModelConfig config = SmallConfig();
  config.tie_word_embeddings = false;
  const auto model = SmallModel(DType::kF32, config);
  model->PrepareTraining();
  Text text;
  text.layout = SequenceLayout::Single(20);
  text.tokens = RandomTokens(20, model->vocab_size() - 1, 4);
  text.tokens.data<int32_t>()[0] = 60;
  std::vector<int32_t> targets(20, kIgnoreTarget);
  targets.back() = 3;
  text.targets = Tensor::From<int32_t>({20}, targets);
  const Tensor whole = Whole(*model, text, nullptr).gradients.front().Rows(60, 1);
  EXPECT_GT(GradientNorm({{whole}}), 0);
  EXPECT_TRUE(
      Near(InSegments(*model, text, 1, Recompute::kNone, nullptr).gradients.front().Rows(60, 1),
           whole, kSegmentGradientTolerance));
}

TEST(SegmentedBackwardTest, RecomputationWithinSegmentsChangesNoBit) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const auto model = SmallModel(dtype);
    model->PrepareTraining();
    const Text text;
    const Memory before = MadeUpMemory(*model, text.layout.sequences());
    const Outcome stored = InSegments(*model, text, 64, Recompute::kNone, &before);
    for (const Recompute recompute : kEveryRecompute) {
      const Outcome again = InSegments(*model, text, 64, recompute, &before);
      EXPECT_TRUE(SameBits(again.losses, stored.losses));
      for (size_t i = 0; i < stored.gradients.size(); ++i) {
        EXPECT_TRUE(SameBits(again.gradients[i], stored.gradients[i]))
            << model->parameters()[i].name;
      }
    }
  }
}

TEST(SegmentedBackwardTest, WhatNeedsNoCutIsTheWholeToTheBit) {
  const auto model = SmallModel();
  model->PrepareTraining();
  const Text text;
  const Memory before = MadeUpMemory(*model, text.layout.sequences());
  const Outcome whole = Whole(*model, text, &before);
  const Outcome one = InSegments(*model, text, text.layout.rows(), Recompute::kNone, &before);
  EXPECT_TRUE(SameBits(one.losses, whole.losses));
  for (size_t i = 0; i < whole.gradients.size(); ++i) {
    EXPECT_TRUE(SameBits(one.gradients[i], whole.gradients[i])) << model->parameters()[i].name;
  }
}

TEST(SegmentedBackwardTest, GradientsAreAddedToThoseThereAre) {
  const auto model = SmallModel();
  model->PrepareTraining();
  const Text text;
  const Outcome once = InSegments(*model, text, 50, Recompute::kNone, nullptr);
  SegmentedBackward(*model, 50, Recompute::kNone)
      .Run(text.tokens, text.targets, text.layout, 2 * kWeight);
  for (size_t i = 0; i < once.gradients.size(); ++i) {
    Tensor thrice = once.gradients[i].Clone();
    for (int64_t k = 0; k < thrice.elements(); ++k) thrice.data<float>()[k] *= 3;
    EXPECT_TRUE(Near(model->parameters()[i].grad, thrice, kSegmentGradientTolerance));
  }
}

TEST(SegmentedBackwardTest, TheGivenMemoryStaysAsItWas) {
  const auto model = SmallModel();
  model->PrepareTraining();
  const Text text;
  const Memory before = MadeUpMemory(*model, text.layout.sequences());
  std::vector<Tensor> copies;
  for (const Variable& entry : before.entries) copies.push_back(entry.value().Clone());
  InSegments(*model, text, 7, Recompute::kNone, &before);
  for (size_t i = 0; i < copies.size(); ++i) {
    EXPECT_TRUE(SameBits(before.entries[i].value(), copies[i]));
  }
}

TEST(SegmentedBackwardTest, NoRowsAndNoSequences) {
  const auto model = SmallModel();
  model->PrepareTraining();
  for (const SequenceLayout& layout : {SequenceLayout(), SequenceLayout({0, 0, 0})}) {
    Text text;
    text.layout = layout;
    text.tokens = text.targets = Tensor::Empty({0}, DType::kI32);
    for (const Tensor& gradient :
         InSegments(*model, text, 8, Recompute::kNone, nullptr).gradients) {
      EXPECT_TRUE(SameBits(gradient, Tensor::Zeros(gradient.shape(), DType::kF32)));
    }
  }
}

TEST(SegmentedBackwardTest, ModelsWithAttentionAndSegmentsWithoutRowsAreRefused) {
  int refused = 0;
  for (const auto& [name, config] : EveryArchitecture()) {
    const auto model = SmallModel(DType::kF32, config);
    try {
      SegmentedBackward(*model, 64, Recompute::kNone);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
      EXPECT_THAT(error.what(), HasSubstr("attention remembers every row"));
      ++refused;
    }
  }
  EXPECT_EQ(refused, 4);  // the hybrid, llama, both kinds of gpt-neox
  const auto model = SmallModel();
  EXPECT_THROW(SegmentedBackward(*model, 0, Recompute::kNone), Error);
}

}  // namespace
}  // namespace adder
