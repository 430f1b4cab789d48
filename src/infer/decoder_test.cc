// A step is a forward of one row for each sequence, and the head's logits.
#include "adder/infer/decoder.h"

#include <gtest/gtest.h>

#include <vector>

#include "adder/core/error.h"
#include "adder/models/small_model_test.h"

namespace adder {
namespace {

using test::RandomTokens;
using test::SameBits;

TEST(DecoderTest, StepsAreForwards) {
  for (const auto& [name, config] : test::EveryArchitecture()) {
    SCOPED_TRACE(name);
    const auto model = test::SmallModel(DType::kF32, config);
    Decoder decoder(*model);
    State state = model->InitialState(3);
    State expected_state = state;
    for (uint64_t step = 0; step < 5; ++step) {
      const Tensor tokens = RandomTokens(3, model->vocab_size(), step);
      const Tensor expected =
          model->Logits(model->Forward(tokens, SequenceLayout::Uniform(3, 1), &expected_state));
      EXPECT_TRUE(SameBits(decoder.Step(tokens, &state), expected));
      EXPECT_TRUE(state == expected_state);
    }
  }
}

TEST(DecoderTest, ErrorsAreThoseOfAForward) {
  const auto model = test::SmallModel();
  Decoder decoder(*model);
  State state = model->InitialState(2);
  EXPECT_THROW(decoder.Step(RandomTokens(3, 61, 1), &state), Error);
  const std::vector<int32_t> wrong = {1, 61};
  EXPECT_THROW(decoder.Step(Tensor::From<int32_t>({2}, wrong), &state), Error);
  State other = test::SmallModel(DType::kF32, test::EveryArchitecture()[2].config)->InitialState(2);
  EXPECT_THROW(decoder.Step(RandomTokens(2, 61, 1), &other), Error);
}

}  // namespace
}  // namespace adder
