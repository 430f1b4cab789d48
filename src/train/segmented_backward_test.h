// What the tests of training in segments share: a batch in segments against the whole batch on one
// tape, on any device.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "adder/core/target.h"
#include "adder/models/small_model_test.h"
#include "adder/train/segmented_backward.h"

namespace adder::test {

// Matrix products of few rows sum in another order than those of many: f32 rounding.
inline constexpr double kSegmentTolerance = 2e-5;
inline constexpr double kSegmentGradientTolerance = 1e-4;
inline constexpr float kWeight = 1.0f / 230;

// One shorter than every segment but that of a row, an empty one, long ones at both ends.
inline SequenceLayout UnequalSequences() { return SequenceLayout({0, 70, 71, 71, 80, 230}); }

struct Text {
  SequenceLayout layout = UnequalSequences();
  Tensor tokens = RandomTokens(layout.rows(), SmallConfig().vocab_size, 1);
  Tensor targets = RandomTokens(layout.rows(), SmallConfig().vocab_size, 2);

  Text() {
    for (const int64_t row : {69, 70, 100}) targets.data<int32_t>()[row] = kIgnoreTarget;
  }
};

// What the sequences have read before, on the model's device.
inline Memory MadeUpMemory(const LanguageModel& model, int64_t sequences) {
  Random random(3);
  Memory memory;
  const State state = model.InitialState(sequences);
  for (const State::Entry& entry : state.entries()) {
    memory.entries.emplace_back(
        RandomNormal(random, entry.value.shape(), 0, 0.5).To(DType::kF32).To(model.device()));
  }
  memory.positions.assign(static_cast<size_t>(sequences), 5);
  return memory;
}

struct Outcome {
  Tensor losses;
  std::vector<Tensor> gradients;
  Memory memory;
};

// All rows on one tape.
inline Outcome Whole(LanguageModel& model, const Text& text, const Memory* before) {
  model.ZeroGradients();
  Outcome outcome;
  Tape tape;
  if (before != nullptr) outcome.memory = *before;
  const Variable hidden =
      model.Hidden(&tape, text.tokens, text.layout, before == nullptr ? nullptr : &outcome.memory);
  const Tensor weights = Tensor::Empty({text.layout.rows()}, DType::kF32);
  std::fill_n(weights.data<float>(), weights.elements(), kWeight);
  outcome.losses = model.LossWithGradients(hidden, text.targets, weights.To(model.device()));
  tape.Backward();
  outcome.gradients = Gradients(model);
  return outcome;
}

inline Outcome InSegments(LanguageModel& model, const Text& text, int64_t segment,
                          Recompute recompute, const Memory* before) {
  model.ZeroGradients();
  Outcome outcome;
  if (before != nullptr) outcome.memory = *before;
  outcome.losses = SegmentedBackward(model, segment, recompute)
                       .Run(text.tokens, text.targets, text.layout, kWeight,
                            before == nullptr ? nullptr : &outcome.memory);
  outcome.gradients = Gradients(model);
  return outcome;
}

inline void ExpectNear(const LanguageModel& model, const Outcome& actual, const Outcome& expected,
                       double tolerance, double gradient_tolerance) {
  EXPECT_TRUE(Near(actual.losses.To(Device{}), expected.losses.To(Device{}), tolerance));
  for (size_t i = 0; i < expected.gradients.size(); ++i) {
    EXPECT_TRUE(Near(actual.gradients[i], expected.gradients[i], gradient_tolerance))
        << model.parameters()[i].name;
  }
  ASSERT_EQ(actual.memory.entries.size(), expected.memory.entries.size());
  for (size_t i = 0; i < expected.memory.entries.size(); ++i) {
    EXPECT_TRUE(Near(actual.memory.entries[i].value().To(Device{}),
                     expected.memory.entries[i].value().To(Device{}), tolerance));
  }
  EXPECT_EQ(actual.memory.positions, expected.memory.positions);
}

inline void ExpectSegmentsOfAnyLengthAreTheWhole(
    BlockLanguageModel& model, double tolerance = kSegmentTolerance,
    double gradient_tolerance = kSegmentGradientTolerance) {
  const Text text;
  model.PrepareTraining();
  const Memory read = MadeUpMemory(model, text.layout.sequences());
  const Memory nothing;
  for (const Memory* before : {static_cast<const Memory*>(nullptr), &nothing, &read}) {
    const Outcome whole = Whole(model, text, before);
    for (const int64_t segment : {1, 7, 64, 70, 1000}) {
      if (segment == 1 && before != &read) continue;  // takes long
      SCOPED_TRACE(fmt::format("segments of {} rows", segment));
      ExpectNear(model, InSegments(model, text, segment, Recompute::kNone, before), whole,
                 tolerance, gradient_tolerance);
    }
  }
}

}  // namespace adder::test
