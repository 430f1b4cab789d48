// The tiny checkpoints of tests/goldens: logits, loss, every gradient and greedy decoding as the
// field's reference implementation computes them (tests/goldens/README.md has the tolerances).
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "adder/formats/safetensors.h"
#include "adder/models/checkpoint.h"
#include "adder/models/small_model_test.h"

namespace adder {
namespace {

using test::Near;

constexpr double kLogitsTolerance = 1e-4;
constexpr double kGradientTolerance = 1e-3;
// Sums in another order: f32 rounding, some layers deep.
constexpr double kChunkTolerance = 1e-4;

class GoldenTest : public testing::TestWithParam<const char*> {
 protected:
  const std::filesystem::path directory_ =
      std::filesystem::path(ADDER_SOURCE_DIR) / "tests" / "goldens" / GetParam();
  const SafetensorsFile golden_ = SafetensorsFile::Open(directory_ / "golden.safetensors");
  const std::unique_ptr<BlockLanguageModel> model_ = LoadModel(directory_, DType::kF32);
  const Tensor ids_ = golden_.Get("input_ids");
  const int64_t batch_ = ids_.dim(0);
  const int64_t length_ = ids_.dim(1);
  const Tensor tokens_ = ids_.Reshape({batch_ * length_});
  const SequenceLayout layout_ = SequenceLayout::Uniform(batch_, length_);

  // The next token of every row; none after a sequence's last.
  Tensor Targets() const {
    Tensor targets = Tensor::Empty({batch_ * length_}, DType::kI32);
    for (int64_t t = 0; t < targets.elements(); ++t) {
      const bool last = (t + 1) % length_ == 0;
      targets.data<int32_t>()[t] = last ? kIgnoreTarget : tokens_.data<int32_t>()[t + 1];
    }
    return targets;
  }
};

TEST_P(GoldenTest, Logits) {
  const Tensor logits = model_->Logits(model_->Forward(tokens_, layout_, nullptr));
  const Tensor expected = golden_.Get("logits");
  EXPECT_TRUE(
      Near(logits, expected.Reshape({batch_ * length_, expected.dim(2)}), kLogitsTolerance));
}

TEST_P(GoldenTest, LossAndEveryGradient) {
  model_->PrepareTraining();
  for (const Recompute recompute : test::kEveryRecompute) {
    model_->ZeroGradients();
    Tape tape;
    const Variable loss =
        model_->Loss(&tape, model_->Hidden(&tape, tokens_, layout_, nullptr, recompute), Targets());
    const auto count = static_cast<double>(batch_ * (length_ - 1));
    double sum = 0;
    for (int64_t t = 0; t < batch_ * length_; ++t) sum += loss.value().data<float>()[t];
    const double expected = golden_.Get("loss").data<float>()[0];
    EXPECT_NEAR(sum / count, expected, kLogitsTolerance * expected);
    test::Seed(loss, static_cast<float>(1 / count));
    tape.Backward();
    for (const Parameter& p : model_->parameters()) {
      // GPT-NeoX's head has one name in the weights and another in the reference's model.
      const bool renamed = p.name == "embed_out.weight";
      Tensor gradient = golden_.Get(renamed ? "grad.lm_head.weight" : "grad." + p.name);
      if (p.name.find("query_key_value") != std::string::npos) {
        gradient = QueryKeyValueFromCheckpoint(gradient, model_->config().attention.n_head);
      }
      EXPECT_TRUE(Near(p.grad, gradient, kGradientTolerance)) << p.name;
    }
  }
}

// Rows in pieces and one by one: the memory of every architecture, packed.
TEST_P(GoldenTest, ChunksAndRowsAreTheWhole) {
  State whole_state;
  const Tensor whole = model_->Forward(tokens_, layout_, &whole_state);
  for (const int64_t step : {int64_t{1}, int64_t{7}, length_ - 1}) {
    State state;
    for (int64_t begin = 0; begin < length_; begin += step) {
      const SequenceLayout piece = test::Piece(layout_, begin, begin + step);
      const Tensor rows = test::PieceRows(tokens_, layout_, begin, piece);
      EXPECT_TRUE(Near(model_->Forward(rows, piece, &state),
                       test::PieceRows(whole, layout_, begin, piece), kChunkTolerance))
          << "step " << step << ", rows from " << begin;
    }
    const State compact = state.Compact();
    const State expected = whole_state.Compact();
    for (size_t e = 0; e < expected.entries().size(); ++e) {
      EXPECT_TRUE(Near(compact.entries()[e].value, expected.entries()[e].value, kChunkTolerance))
          << expected.entries()[e].name;
    }
  }
}

TEST_P(GoldenTest, BackwardThroughChunksIsThatOfTheWhole) {
  model_->PrepareTraining();
  const Tensor targets = Targets();
  const float weight = 1.0f / static_cast<float>(layout_.rows());
  const std::vector<Tensor> whole = test::TrainingStep(*model_, tokens_, targets, layout_);
  for (const Recompute recompute : test::kEveryRecompute) {
    model_->ZeroGradients();
    Tape tape;
    Memory memory;
    const int64_t step = length_ / 3 + 1;
    for (int64_t begin = 0; begin < length_; begin += step) {
      const SequenceLayout piece = test::Piece(layout_, begin, begin + step);
      const Variable hidden = model_->Hidden(&tape, test::PieceRows(tokens_, layout_, begin, piece),
                                             piece, &memory, recompute);
      test::Seed(model_->Loss(&tape, hidden, test::PieceRows(targets, layout_, begin, piece)),
                 weight);
    }
    tape.Backward();
    for (size_t i = 0; i < whole.size(); ++i) {
      EXPECT_TRUE(Near(model_->parameters()[i].grad, whole[i], kChunkTolerance))
          << model_->parameters()[i].name;
    }
  }
}

TEST_P(GoldenTest, GreedyDecoding) {
  constexpr int64_t kPrompt = 16;
  const Tensor expected = golden_.Get("greedy");
  const int32_t* ids = expected.data<int32_t>();
  State state;
  Tensor rows = tokens_.Rows(0, kPrompt);
  for (int64_t i = 0; i < kPrompt; ++i) ASSERT_EQ(rows.data<int32_t>()[i], ids[i]);
  for (int64_t i = kPrompt; i < expected.dim(1); ++i) {
    const Tensor hidden = model_->Forward(rows, SequenceLayout::Single(rows.dim(0)), &state);
    const Tensor logits = model_->Logits(hidden.Rows(hidden.dim(0) - 1, 1));
    const float* row = logits.data<float>();
    const auto best = static_cast<int32_t>(std::max_element(row, row + logits.dim(1)) - row);
    EXPECT_EQ(best, ids[i]) << "token " << i;
    rows = Tensor::From<int32_t>({1}, std::vector<int32_t>{ids[i]});
  }
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenTest,
                         testing::Values("mamba-tied", "mamba-untied-bias", "falcon-mamba",
                                         "mamba2-g1", "mamba2-g2", "gpt-neox", "llama"),
                         [](const auto& instance) {
                           std::string name = instance.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace adder
