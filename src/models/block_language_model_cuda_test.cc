// Models of every architecture on a CUDA device against the same models on the CPU: logits, losses,
// gradients, states that move between the two.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "adder/backend/cuda/cuda_test.h"
#include "adder/core/error.h"
#include "adder/models/block_language_model.h"
#include "adder/models/small_model_test.h"

namespace adder {
namespace {

using test::kCuda;
using test::Near;
using test::OnCpu;
using test::Piece;
using test::PieceRows;
using test::RandomTokens;
using test::SameBits;

// Products and scans sum in another order: f32 rounding, some layers deep.
constexpr double kForwardTolerance = 1e-4;
constexpr double kGradientTolerance = 1e-3;
// Root of the mean square, relative: bf16 rounds to 0.4 %, some layers deep.
constexpr double kBf16Tolerance = 0.05;

class BlockLanguageModelCudaTest : public test::CudaTest {
 protected:
  // The same model in both places.
  struct Pair {
    std::string name;
    std::unique_ptr<BlockLanguageModel> cpu;
    std::unique_ptr<BlockLanguageModel> cuda;
  };
  static std::vector<Pair> Models(DType dtype) {
    std::vector<Pair> pairs;
    for (const auto& [name, config] : test::EveryArchitecture()) {
      pairs.push_back({name, test::SmallModel(dtype, config), test::SmallModel(dtype, config)});
      pairs.back().cuda->MoveTo(kCuda);
    }
    return pairs;
  }

  const SequenceLayout layout_{{0, 70, 71, 71, 80, 230}};
};

double RelativeError(const Tensor& actual, const Tensor& expected) {
  double difference = 0;
  double square = 0;
  for (int64_t i = 0; i < expected.elements(); ++i) {
    const double e = expected.data<float>()[i];
    const double d = actual.data<float>()[i] - e;
    difference += d * d;
    square += e * e;
  }
  return std::sqrt(difference / square);
}

TEST_F(BlockLanguageModelCudaTest, LogitsAreThoseOfTheCpu) {
  for (const auto& [name, cpu, cuda] : Models(DType::kF32)) {
    SCOPED_TRACE(name);
    EXPECT_EQ(cuda->device(), kCuda);
    EXPECT_EQ(cuda->fingerprint(), cpu->fingerprint());
    const Tensor tokens = RandomTokens(layout_.rows(), cpu->vocab_size(), 1);
    const Tensor expected = cpu->Logits(cpu->Forward(tokens, layout_, nullptr));
    const Tensor logits = cuda->Logits(cuda->Forward(tokens, layout_, nullptr));
    EXPECT_EQ(logits.device(), kCuda);
    EXPECT_TRUE(Near(OnCpu(logits), expected, kForwardTolerance));
    // Tokens that lie there already, and the same work again.
    const Tensor again = cuda->Logits(cuda->Forward(tokens.To(kCuda), layout_, nullptr));
    EXPECT_TRUE(SameBits(OnCpu(again), OnCpu(logits)));
  }
}

TEST_F(BlockLanguageModelCudaTest, Bf16LogitsAreCloseToThoseOfTheCpu) {
  for (const auto& [name, cpu, cuda] : Models(DType::kBF16)) {
    SCOPED_TRACE(name);
    const Tensor tokens = RandomTokens(layout_.rows(), cpu->vocab_size(), 2);
    const Tensor expected = cpu->Logits(cpu->Forward(tokens, layout_, nullptr));
    const Tensor logits = cuda->Logits(cuda->Forward(tokens, layout_, nullptr));
    EXPECT_LT(RelativeError(OnCpu(logits), expected), kBf16Tolerance);
  }
}

TEST_F(BlockLanguageModelCudaTest, WholeIsChunksIsRows) {
  for (const auto& [name, cpu, cuda] : Models(DType::kF32)) {
    SCOPED_TRACE(name);
    const Tensor tokens = RandomTokens(layout_.rows(), cpu->vocab_size(), 3);
    State whole_state;
    const Tensor whole = OnCpu(cuda->Forward(tokens, layout_, &whole_state));
    for (const int64_t step : {1, 64, 100}) {
      State state;
      for (int64_t begin = 0; begin < 150; begin += step) {
        const SequenceLayout piece = Piece(layout_, begin, begin + step);
        const Tensor rows = PieceRows(tokens, layout_, begin, piece);
        ASSERT_TRUE(Near(OnCpu(cuda->Forward(rows, piece, &state)),
                         PieceRows(whole, layout_, begin, piece), kForwardTolerance))
            << "step " << step << ", rows from " << begin;
      }
      const State compact = state.Compact().To(Device{});
      const State expected = whole_state.Compact().To(Device{});
      for (size_t e = 0; e < expected.entries().size(); ++e) {
        EXPECT_TRUE(
            Near(compact.entries()[e].value, expected.entries()[e].value, kForwardTolerance))
            << expected.entries()[e].name;
      }
    }
  }
}

TEST_F(BlockLanguageModelCudaTest, StatesGoOnOnTheOtherDevice) {
  for (const auto& [name, cpu, cuda] : Models(DType::kF32)) {
    SCOPED_TRACE(name);
    const Tensor begin = RandomTokens(layout_.rows(), cpu->vocab_size(), 4);
    const Tensor more = RandomTokens(15, cpu->vocab_size(), 5);
    const SequenceLayout next = SequenceLayout::Uniform(5, 3);
    State state;
    cpu->Forward(begin, layout_, &state);
    State to_cuda = state;
    State from_cuda;
    cuda->Forward(begin, layout_, &from_cuda);
    EXPECT_EQ(from_cuda.device(), kCuda);
    EXPECT_TRUE(from_cuda.To(Device{}) == from_cuda);
    const Tensor expected = cpu->Forward(more, next, &state);
    EXPECT_TRUE(Near(OnCpu(cuda->Forward(more, next, &to_cuda)), expected, kForwardTolerance));
    EXPECT_EQ(to_cuda.device(), kCuda);
    EXPECT_TRUE(Near(cpu->Forward(more, next, &from_cuda), expected, kForwardTolerance));
    EXPECT_EQ(from_cuda.device(), Device{});
  }
}

TEST_F(BlockLanguageModelCudaTest, StatesAreValuesThereToo) {
  for (const auto& [name, cpu, cuda] : Models(DType::kF32)) {
    SCOPED_TRACE(name);
    State state;
    cuda->Forward(RandomTokens(layout_.rows(), cpu->vocab_size(), 6), layout_, &state);
    const State before = state;
    const std::vector<int64_t> order = {4, 0, 4, 2};
    const State selected = state.Select(order);
    EXPECT_EQ(selected.device(), kCuda);
    EXPECT_TRUE(selected == state.To(Device{}).Select(order));
    const std::vector<State> parts = {selected, before.To(Device{}), state};
    const std::vector<State> host = {selected.To(Device{}), before.To(Device{}),
                                     state.To(Device{})};
    EXPECT_TRUE(State::Stack(parts) == State::Stack(host));
    cuda->Forward(RandomTokens(5, cpu->vocab_size(), 7), SequenceLayout::Uniform(5, 1), &state);
    EXPECT_FALSE(before == state);
    std::vector<int64_t> all(5);
    std::iota(all.begin(), all.end(), int64_t{0});
    EXPECT_TRUE(before.Select(all) == before);
  }
}

TEST_F(BlockLanguageModelCudaTest, LossesAndGradientsAreThoseOfTheCpu) {
  for (const auto& [name, cpu, cuda] : Models(DType::kF32)) {
    SCOPED_TRACE(name);
    cpu->PrepareTraining();
    cuda->PrepareTraining();
    EXPECT_EQ(cuda->fingerprint(), cpu->fingerprint());
    const Tensor tokens = RandomTokens(layout_.rows(), cpu->vocab_size(), 8);
    const Tensor targets = RandomTokens(layout_.rows(), cpu->vocab_size(), 9);
    Tensor losses, cuda_losses;
    const std::vector<Tensor> expected =
        test::TrainingStep(*cpu, tokens, targets, layout_, Recompute::kNone, &losses);
    const std::vector<Tensor> gradients =
        test::TrainingStep(*cuda, tokens, targets, layout_, Recompute::kNone, &cuda_losses);
    EXPECT_TRUE(Near(cuda_losses, losses, kForwardTolerance));
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_TRUE(Near(gradients[i], expected[i], kGradientTolerance)) << cpu->parameters()[i].name;
    }
    const std::vector<Tensor> at_once =
        test::TrainingStepAtOnce(*cuda, tokens, targets, layout_, &losses);
    EXPECT_TRUE(SameBits(losses, cuda_losses));
    for (size_t i = 0; i < gradients.size(); ++i) {
      EXPECT_TRUE(SameBits(at_once[i], gradients[i])) << cuda->parameters()[i].name;
    }
    for (const Recompute recompute : {Recompute::kScan, Recompute::kBlock}) {
      const std::vector<Tensor> recomputed =
          test::TrainingStep(*cuda, tokens, targets, layout_, recompute, &losses);
      EXPECT_TRUE(SameBits(losses, cuda_losses));
      for (size_t i = 0; i < gradients.size(); ++i) {
        EXPECT_TRUE(SameBits(recomputed[i], gradients[i])) << cuda->parameters()[i].name;
      }
    }
  }
}

TEST_F(BlockLanguageModelCudaTest, AModelThatCameBackIsTheSame) {
  for (const auto& [name, cpu, cuda] : Models(DType::kBF16)) {
    SCOPED_TRACE(name);
    cuda->PrepareTraining();
    EXPECT_EQ(cuda->parameters().front().value.device(), kCuda);
    cuda->MoveTo(Device{});
    cpu->PrepareTraining();
    const Tensor tokens = RandomTokens(30, cpu->vocab_size(), 10);
    const SequenceLayout layout = SequenceLayout::Single(30);
    EXPECT_TRUE(
        SameBits(cuda->Forward(tokens, layout, nullptr), cpu->Forward(tokens, layout, nullptr)));
  }
}

TEST_F(BlockLanguageModelCudaTest, TokensOutsideTheVocabularyAreErrors) {
  const auto model = test::SmallModel();
  model->MoveTo(kCuda);
  const std::vector<int32_t> wrong = {3, static_cast<int32_t>(model->vocab_size())};
  State state = model->InitialState(1);
  const State before = state;
  EXPECT_THROW(model->Forward(Tensor::From<int32_t>({2}, wrong), SequenceLayout::Single(2), &state),
               Error);
  EXPECT_TRUE(state == before);
}

TEST_F(BlockLanguageModelCudaTest, SelectionTracesAreThoseOfTheCpu) {
  const auto cpu = test::SmallModel();
  const auto cuda = test::SmallModel();
  cuda->MoveTo(kCuda);
  const Tensor tokens = RandomTokens(20, cpu->vocab_size(), 11);
  SelectionTrace expected, trace;
  cpu->Forward(tokens, SequenceLayout::Single(20), nullptr, &expected);
  cuda->Forward(tokens, SequenceLayout::Single(20), nullptr, &trace);
  ASSERT_EQ(trace.step.size(), expected.step.size());
  for (size_t i = 0; i < expected.step.size(); ++i) {
    EXPECT_TRUE(Near(trace.step[i], expected.step[i], kForwardTolerance));
    EXPECT_TRUE(Near(trace.decay[i], expected.decay[i], kForwardTolerance));
  }
}

}  // namespace
}  // namespace adder
