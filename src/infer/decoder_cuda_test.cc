// Recorded steps on a CUDA device are the steps that are not recorded.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "adder/backend/cuda/cuda_test.h"
#include "adder/core/error.h"
#include "adder/infer/decoder.h"
#include "adder/models/small_model_test.h"

namespace adder {
namespace {

using test::kCuda;
using test::OnCpu;
using test::RandomTokens;
using test::SameBits;
using DecoderCudaTest = test::CudaTest;

TEST_F(DecoderCudaTest, RecordedStepsAreForwards) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const auto& [name, config] : test::EveryArchitecture()) {
      SCOPED_TRACE(name);
      const auto model = test::SmallModel(dtype, config);
      model->MoveTo(kCuda);
      Decoder decoder(*model);
      State state = model->InitialState(3);
      State expected_state = state;
      for (uint64_t step = 0; step < 24; ++step) {
        const Tensor tokens = RandomTokens(3, model->vocab_size(), step);
        const Tensor expected =
            model->Logits(model->Forward(tokens, SequenceLayout::Uniform(3, 1), &expected_state));
        // Where the tokens are makes no difference.
        const Tensor given = step % 3 == 2 ? tokens.To(kCuda) : tokens;
        EXPECT_TRUE(SameBits(OnCpu(decoder.Step(given, &state)), OnCpu(expected)))
            << "step " << step;
      }
      EXPECT_TRUE(state == expected_state);
      EXPECT_GE(decoder.repeated_steps(), 10);
    }
  }
}

// The recorded steps read the lengths of memory that grows where a step finds them: sequences of
// different lengths, and a memory that is copied to a larger place now and then.
TEST_F(DecoderCudaTest, MemoryMayGrow) {
  for (const auto& [name, config] : test::EveryArchitecture()) {
    SCOPED_TRACE(name);
    const auto model = test::SmallModel(DType::kBF16, config);
    model->MoveTo(kCuda);
    Decoder decoder(*model);
    State state = model->InitialState(3);
    const std::vector<int64_t> lengths = {300, 1, 40};
    model->Forward(RandomTokens(341, model->vocab_size(), 1), SequenceLayout::FromLengths(lengths),
                   &state);
    State expected_state = state;
    for (uint64_t step = 0; step < 200; ++step) {
      const Tensor tokens = RandomTokens(3, model->vocab_size(), step);
      const Tensor expected =
          model->Logits(model->Forward(tokens, SequenceLayout::Uniform(3, 1), &expected_state));
      ASSERT_TRUE(SameBits(OnCpu(decoder.Step(tokens, &state)), OnCpu(expected)))
          << "step " << step;
    }
    EXPECT_TRUE(state == expected_state);
  }
}

// Other work in between, other numbers of sequences, forks and older states.
TEST_F(DecoderCudaTest, StatesMayChangePlaces) {
  const auto model = test::SmallModel();
  model->MoveTo(kCuda);
  Decoder decoder(*model);
  const auto step = [&](State* state, uint64_t seed) {
    const Tensor tokens = RandomTokens(state->sequences(), model->vocab_size(), seed);
    State copy = *state;
    const Tensor expected = OnCpu(
        model->Logits(model->Forward(tokens, SequenceLayout::Uniform(copy.sequences(), 1), &copy)));
    EXPECT_TRUE(SameBits(OnCpu(decoder.Step(tokens, state)), expected)) << "seed " << seed;
    EXPECT_TRUE(copy == *state) << "seed " << seed;
  };
  State state = model->InitialState(4);
  for (uint64_t i = 0; i < 5; ++i) step(&state, i);
  const State before = state;
  for (uint64_t i = 5; i < 8; ++i) step(&state, i);
  state = before;  // rolled back
  for (uint64_t i = 8; i < 12; ++i) step(&state, i);
  const std::vector<int64_t> staying = {3, 1};
  state = state.Select(staying);
  for (uint64_t i = 12; i < 16; ++i) step(&state, i);
  // A longer piece in between, which leaves the memory where it is.
  model->Forward(RandomTokens(14, model->vocab_size(), 1), SequenceLayout::Uniform(2, 7), &state);
  for (uint64_t i = 16; i < 20; ++i) step(&state, i);
  State other = model->InitialState(1);
  for (uint64_t i = 20; i < 30; ++i) step(i % 2 == 0 ? &state : &other, i);
  const std::vector<int32_t> wrong = {1, 61};
  EXPECT_THROW(decoder.Step(Tensor::From<int32_t>({2}, wrong), &state), Error);
  step(&state, 31);
}

}  // namespace
}  // namespace adder
