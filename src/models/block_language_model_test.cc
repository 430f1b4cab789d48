// The model against its own invariants: whole = chunks = rows, packed = alone, recomputed =
// stored, tied = untied with equal weights, bf16 close to f32; and its initial values.
#include "adder/models/block_language_model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "adder/backend/cpu/parallel.h"
#include "adder/core/error.h"
#include "adder/models/small_model_test.h"

namespace adder {
namespace {

using test::Gradients;
using test::kEveryRecompute;
using test::Near;
using test::Piece;
using test::PieceRows;
using test::RandomTokens;
using test::SameBits;
using test::Seed;
using test::SmallConfig;
using test::SmallModel;
using test::TrainingStep;

// One-row matrix products sum in another order than many-row ones: f32 rounding, some layers deep.
constexpr double kForwardTolerance = 2e-5;
// Gradients are sums over rows, taken chunk by chunk or at once.
constexpr double kGradientTolerance = 1e-4;

const SequenceLayout& UnequalSequences() {
  static const auto* layout = new SequenceLayout({0, 70, 71, 71, 80, 230});
  return *layout;
}

Parameter& Find(LanguageModel& model, const std::string& name) {
  for (Parameter& p : model.parameters()) {
    if (p.name == name) return p;
  }
  throw Error(ErrorCode::kNotFound, name);
}

TEST(BlockLanguageModelTest, ParametersAreThoseOfHuggingFaceInTheirOrder) {
  ModelConfig config = SmallConfig();
  config.n_layer = 1;
  config.use_bias = true;
  config.tie_word_embeddings = false;
  const BlockLanguageModel model(config, DType::kF32);
  const std::vector<std::pair<std::string, Shape>> expected = {
      {"backbone.embeddings.weight", {61, 40}},
      {"backbone.layers.0.norm.weight", {40}},
      {"backbone.layers.0.mixer.A_log", {80, 8}},
      {"backbone.layers.0.mixer.D", {80}},
      {"backbone.layers.0.mixer.conv1d.weight", {80, 1, 4}},
      {"backbone.layers.0.mixer.conv1d.bias", {80}},
      {"backbone.layers.0.mixer.in_proj.weight", {160, 40}},
      {"backbone.layers.0.mixer.in_proj.bias", {160}},
      {"backbone.layers.0.mixer.x_proj.weight", {19, 80}},
      {"backbone.layers.0.mixer.dt_proj.weight", {80, 3}},
      {"backbone.layers.0.mixer.dt_proj.bias", {80}},
      {"backbone.layers.0.mixer.out_proj.weight", {40, 80}},
      {"backbone.layers.0.mixer.out_proj.bias", {40}},
      {"backbone.norm_f.weight", {40}},
      {"lm_head.weight", {61, 40}}};
  ASSERT_EQ(model.parameters().size(), expected.size());
  std::set<std::string> decays;
  for (size_t i = 0; i < expected.size(); ++i) {
    const Parameter& p = model.parameters()[i];
    EXPECT_EQ(p.name, expected[i].first);
    EXPECT_EQ(model.parameter_shapes()[i], expected[i].second) << p.name;
    if (p.weight_decay) decays.insert(p.name.substr(p.name.rfind('.', p.name.rfind('.') - 1) + 1));
  }
  EXPECT_EQ(decays, (std::set<std::string>{"conv1d.weight", "in_proj.weight", "x_proj.weight",
                                           "dt_proj.weight", "out_proj.weight", "lm_head.weight"}));
}

TEST(BlockLanguageModelTest, InitialValuesFollowThePaper) {
  ModelConfig config = SmallConfig();
  config.d_model = 256;
  config.d_inner = config.dt_rank = 0;
  config.use_bias = true;
  config.tie_word_embeddings = false;
  config.initializer_range = 0.02;
  BlockLanguageModel model(config, DType::kF32);
  InitializeModel(model, 7);
  const auto statistics = [&](const std::string& name) {
    const Tensor value = Find(model, name).value;
    double sum = 0;
    double squares = 0;
    for (int64_t i = 0; i < value.elements(); ++i) {
      sum += value.data<float>()[i];
      squares += std::pow(value.data<float>()[i], 2);
    }
    const auto n = static_cast<double>(value.elements());
    return std::pair(sum / n, std::sqrt(squares / n));
  };
  const auto expect_uniform = [&](const std::string& name, double bound) {
    const auto [mean, rms] = statistics(name);
    const Tensor value = Find(model, name).value;
    EXPECT_LE(test::MaxAbs(value), bound) << name;
    // Five standard errors of a uniform's mean and, generously, of its root mean square.
    const double error = 5 * bound / std::sqrt(static_cast<double>(value.elements()));
    EXPECT_NEAR(mean, 0, error) << name;
    EXPECT_NEAR(rms, bound / std::sqrt(3.0), error) << name;
  };
  const std::string mixer = "backbone.layers.1.mixer.";
  EXPECT_NEAR(statistics("backbone.embeddings.weight").second, 0.02, 0.0005);
  expect_uniform(mixer + "in_proj.weight", 1 / std::sqrt(256.0));
  expect_uniform(mixer + "x_proj.weight", 1 / std::sqrt(512.0));
  expect_uniform(mixer + "dt_proj.weight", 1 / std::sqrt(16.0));
  expect_uniform(mixer + "conv1d.weight", 1 / std::sqrt(4.0));
  expect_uniform(mixer + "conv1d.bias", 1 / std::sqrt(4.0));
  expect_uniform(mixer + "out_proj.weight", 1 / std::sqrt(512.0) / std::sqrt(3.0));
  expect_uniform("lm_head.weight", 1 / std::sqrt(256.0));
  EXPECT_EQ(test::MaxAbs(Find(model, mixer + "in_proj.bias").value), 0);
  EXPECT_EQ(test::MaxAbs(Find(model, mixer + "out_proj.bias").value), 0);
  for (const char* ones : {"mixer.D", "norm.weight"}) {
    const Tensor value = Find(model, "backbone.layers.2." + std::string(ones)).value;
    for (int64_t i = 0; i < value.elements(); ++i) EXPECT_EQ(value.data<float>()[i], 1);
  }
  const Parameter& A_log = Find(model, mixer + "A_log");
  for (int64_t i = 0; i < A_log.value.elements(); ++i) {
    EXPECT_FLOAT_EQ(A_log.value.data<float>()[i], std::log(static_cast<float>(i % 8 + 1)));
    EXPECT_FLOAT_EQ(A_log.compute.data<float>()[i], -static_cast<float>(i % 8 + 1));
  }
  const Tensor dt_bias = Find(model, mixer + "dt_proj.bias").value;
  double log_sum = 0;
  for (int64_t i = 0; i < dt_bias.elements(); ++i) {
    const double dt = std::log1p(std::exp(static_cast<double>(dt_bias.data<float>()[i])));
    EXPECT_GE(dt, 1e-3 * (1 - 1e-4));
    EXPECT_LE(dt, 1e-1 * (1 + 1e-4));
    log_sum += std::log(dt);
  }
  // Log-uniform over two decades: the mean of the logarithm is that of 0.01; five standard errors.
  EXPECT_NEAR(log_sum / 512, std::log(1e-2), 5 * std::log(100.0) / std::sqrt(12.0 * 512));
}

TEST(BlockLanguageModelTest, InitialValuesDependOnSeedAndNameAlone) {
  ModelConfig config = SmallConfig();
  config.vocab_size = 4000;  // enough elements to be filled by several threads
  const int threads = cpu::ThreadCount();
  cpu::SetThreadCount(1);
  const auto one = SmallModel(DType::kF32, config);
  cpu::SetThreadCount(3);
  const auto three = SmallModel(DType::kF32, config);
  cpu::SetThreadCount(threads);
  for (size_t i = 0; i < one->parameters().size(); ++i) {
    EXPECT_TRUE(SameBits(three->parameters()[i].value, one->parameters()[i].value));
  }
  config.n_layer = 5;
  config.tie_word_embeddings = false;
  const auto deeper = SmallModel(DType::kF32, config);
  const std::string name = "backbone.layers.1.mixer.x_proj.weight";
  EXPECT_TRUE(SameBits(Find(*deeper, name).value, Find(*one, name).value));
  EXPECT_FALSE(
      SameBits(Find(*one, "backbone.layers.0.mixer.x_proj.weight").value, Find(*one, name).value));
  InitializeModel(*deeper, 43);
  EXPECT_FALSE(SameBits(Find(*deeper, name).value, Find(*one, name).value));
}

// Every kind of block, with f32 and bf16 activations: what is initialised computes, and a sequence
// in pieces is the whole.
TEST(BlockLanguageModelTest, EveryArchitectureBeginsWithValuesThatCompute) {
  for (const auto& [name, config] : test::EveryArchitecture()) {
    SCOPED_TRACE(name);
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const auto model = SmallModel(dtype, config);
      const SequenceLayout& layout = UnequalSequences();
      const Tensor tokens = RandomTokens(layout.rows(), model->vocab_size(), 20);
      const Tensor whole = model->Forward(tokens, layout, nullptr);
      EXPECT_GT(test::MaxAbs(whole), 0.1);
      State state;
      for (int64_t begin = 0; begin < 150; begin += 37) {
        const SequenceLayout piece = Piece(layout, begin, begin + 37);
        const Tensor hidden =
            model->Forward(PieceRows(tokens, layout, begin, piece), piece, &state);
        // bf16: a rounding of 0.4 % that falls the other way, some layers deep.
        EXPECT_TRUE(Near(hidden, PieceRows(whole, layout, begin, piece),
                         dtype == DType::kF32 ? kForwardTolerance : 0.05))
            << "rows from " << begin;
      }
      // A conversation forked and rolled back is the one that was never touched.
      const State before = state;
      const Tensor more = RandomTokens(5, model->vocab_size(), 21);
      const Tensor first = model->Forward(more, SequenceLayout::Uniform(5, 1), &state);
      State again = before;
      EXPECT_TRUE(SameBits(model->Forward(more, SequenceLayout::Uniform(5, 1), &again), first));
      EXPECT_TRUE(again == state);
      const std::vector<int64_t> one = {4};
      State alone = before.Select(one);
      EXPECT_TRUE(Near(model->Forward(more.Rows(4, 1), SequenceLayout::Single(1), &alone),
                       first.Rows(4, 1), dtype == DType::kF32 ? kForwardTolerance : 0.05));
    }
  }
}

TEST(BlockLanguageModelTest, WholeIsChunksIsRows) {
  const auto model = SmallModel();
  const SequenceLayout& layout = UnequalSequences();
  const Tensor tokens = RandomTokens(layout.rows(), model->vocab_size(), 1);
  State whole_state = model->InitialState(layout.sequences());
  const Tensor whole = model->Forward(tokens, layout, &whole_state);
  EXPECT_TRUE(Near(model->Forward(tokens, layout, nullptr), whole, 0));

  for (const int64_t step : {1, 7, 64, 100}) {
    State state;
    for (int64_t begin = 0; begin < 150; begin += step) {
      const SequenceLayout piece = Piece(layout, begin, begin + step);
      const Tensor hidden = model->Forward(PieceRows(tokens, layout, begin, piece), piece, &state);
      ASSERT_TRUE(Near(hidden, PieceRows(whole, layout, begin, piece), kForwardTolerance))
          << "step " << step << ", rows from " << begin;
    }
    for (size_t e = 0; e < state.entries().size(); ++e) {
      EXPECT_TRUE(Near(state.entries()[e].value, whole_state.entries()[e].value, kForwardTolerance))
          << state.entries()[e].name;
    }
    EXPECT_EQ(std::vector<int64_t>(state.positions().begin(), state.positions().end()),
              (std::vector<int64_t>{70, 1, 0, 9, 150}));
  }
}

TEST(BlockLanguageModelTest, PackedSequencesAreEachAlone) {
  const auto model = SmallModel();
  model->PrepareTraining();
  const SequenceLayout& layout = UnequalSequences();
  const Tensor tokens = RandomTokens(layout.rows(), model->vocab_size(), 2);
  const Tensor targets = RandomTokens(layout.rows(), model->vocab_size(), 3);
  Tensor losses;
  const std::vector<Tensor> packed =
      TrainingStep(*model, tokens, targets, layout, Recompute::kNone, &losses);

  model->ZeroGradients();
  for (int64_t s = 0; s < layout.sequences(); ++s) {
    if (layout.length(s) == 0) continue;
    const auto alone = [&](const Tensor& all) {
      return all.Rows(layout.begin(s), layout.length(s));
    };
    Tape tape;
    const Variable loss = model->Loss(
        &tape,
        model->Hidden(&tape, alone(tokens), SequenceLayout::Single(layout.length(s)), nullptr),
        alone(targets));
    EXPECT_TRUE(Near(loss.value(), alone(losses), kForwardTolerance)) << "sequence " << s;
    Seed(loss, 1.0f / static_cast<float>(layout.rows()));
    tape.Backward();
  }
  for (size_t i = 0; i < packed.size(); ++i) {
    EXPECT_TRUE(Near(model->parameters()[i].grad, packed[i], kGradientTolerance))
        << model->parameters()[i].name;
  }
}

TEST(BlockLanguageModelTest, BackwardThroughChunksOnOneTapeIsThatOfTheWhole) {
  const auto model = SmallModel();
  model->PrepareTraining();
  const SequenceLayout& layout = UnequalSequences();
  const Tensor tokens = RandomTokens(layout.rows(), model->vocab_size(), 4);
  const Tensor targets = RandomTokens(layout.rows(), model->vocab_size(), 5);
  const std::vector<Tensor> whole = TrainingStep(*model, tokens, targets, layout);

  for (const Recompute recompute : kEveryRecompute) {
    for (const int64_t step : {11, 64, 149}) {
      model->ZeroGradients();
      Tape tape;
      Memory memory;
      for (int64_t begin = 0; begin < 150; begin += step) {
        const SequenceLayout piece = Piece(layout, begin, begin + step);
        const Variable hidden = model->Hidden(&tape, PieceRows(tokens, layout, begin, piece), piece,
                                              &memory, recompute);
        Seed(model->Loss(&tape, hidden, PieceRows(targets, layout, begin, piece)),
             1.0f / static_cast<float>(layout.rows()));
      }
      tape.Backward();
      for (size_t i = 0; i < whole.size(); ++i) {
        EXPECT_TRUE(Near(model->parameters()[i].grad, whole[i], kGradientTolerance))
            << model->parameters()[i].name << ", step " << step << ", recompute "
            << static_cast<int>(recompute);
      }
    }
  }
}

TEST(BlockLanguageModelTest, TruncatedBackpropagationStopsAtADetachedState) {
  // With the state detached the second window's gradients are those of that window alone, begun
  // from that state; the first window's losses then reach only its own rows.
  const auto model = SmallModel();
  model->PrepareTraining();
  const Tensor tokens = RandomTokens(40, model->vocab_size(), 6);
  const SequenceLayout half = SequenceLayout::Single(20);
  State state;
  model->Forward(tokens.Rows(0, 20), half, &state);
  const auto second = [&](bool carried) {
    model->ZeroGradients();
    Tape tape;
    Memory memory;
    if (carried) {
      model->Hidden(&tape, tokens.Rows(0, 20), half, &memory);
      for (Variable& entry : memory.entries) entry = Variable(entry.value());
    } else {
      for (const State::Entry& entry : state.entries()) memory.entries.emplace_back(entry.value);
    }
    Seed(model->Loss(&tape, model->Hidden(&tape, tokens.Rows(20, 20), half, &memory),
                     tokens.Rows(20, 20)),
         1);
    tape.Backward();
    return Gradients(*model);
  };
  const State before = state;
  const std::vector<Tensor> carried = second(true);
  const std::vector<Tensor> alone = second(false);
  for (size_t i = 0; i < alone.size(); ++i) EXPECT_TRUE(SameBits(carried[i], alone[i]));
  EXPECT_TRUE(before == state) << "a recorded forward leaves the given state as it was";
}

TEST(BlockLanguageModelTest, RecomputationChangesNoBit) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const auto model = SmallModel(dtype);
    model->PrepareTraining();
    const SequenceLayout& layout = UnequalSequences();
    const Tensor tokens = RandomTokens(layout.rows(), model->vocab_size(), 7);
    const Tensor targets = RandomTokens(layout.rows(), model->vocab_size(), 8);
    Tensor stored_losses;
    const std::vector<Tensor> stored =
        TrainingStep(*model, tokens, targets, layout, Recompute::kNone, &stored_losses);
    for (const Recompute recompute : {Recompute::kScan, Recompute::kBlock}) {
      Tensor losses;
      const std::vector<Tensor> recomputed =
          TrainingStep(*model, tokens, targets, layout, recompute, &losses);
      EXPECT_TRUE(SameBits(losses, stored_losses));
      for (size_t i = 0; i < stored.size(); ++i) {
        EXPECT_TRUE(SameBits(recomputed[i], stored[i])) << model->parameters()[i].name;
      }
    }
  }
}

TEST(BlockLanguageModelTest, TrainingStepsAreReproducible) {
  const auto model = SmallModel();
  model->PrepareTraining();
  const SequenceLayout layout = SequenceLayout::Uniform(4, 100);
  const Tensor tokens = RandomTokens(400, model->vocab_size(), 9);
  const std::vector<Tensor> first = TrainingStep(*model, tokens, tokens, layout);
  const std::vector<Tensor> second = TrainingStep(*model, tokens, tokens, layout);
  for (size_t i = 0; i < first.size(); ++i) {
    EXPECT_TRUE(SameBits(second[i], first[i])) << model->parameters()[i].name;
  }
}

TEST(BlockLanguageModelTest, Bfloat16IsCloseToSinglePrecisionAndItsGradientsAreFinite) {
  const auto exact = SmallModel(DType::kF32);
  const auto rounded = SmallModel(DType::kBF16);
  exact->PrepareTraining();
  rounded->PrepareTraining();
  const SequenceLayout& layout = UnequalSequences();
  const Tensor tokens = RandomTokens(layout.rows(), exact->vocab_size(), 10);
  const Tensor targets = RandomTokens(layout.rows(), exact->vocab_size(), 11);
  const Tensor hidden = rounded->Forward(tokens, layout, nullptr);
  EXPECT_EQ(hidden.dtype(), DType::kBF16);
  // bf16 keeps 8 bits: 0.4 % a rounding, about six of them a layer on a stream in f32.
  EXPECT_TRUE(Near(hidden, exact->Forward(tokens, layout, nullptr), 0.03));
  const std::vector<Tensor> expected = TrainingStep(*exact, tokens, targets, layout);
  const std::vector<Tensor> actual = TrainingStep(*rounded, tokens, targets, layout);
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(actual[i].dtype(), DType::kF32);
    EXPECT_TRUE(Near(actual[i], expected[i], 0.1)) << exact->parameters()[i].name;
  }
}

TEST(BlockLanguageModelTest, HalfPrecisionInfersCloseToSingle) {
  const auto exact = SmallModel(DType::kF32);
  const auto rounded = SmallModel(DType::kF16);
  const Tensor tokens = RandomTokens(50, exact->vocab_size(), 12);
  const SequenceLayout layout = SequenceLayout::Single(50);
  const Tensor hidden = rounded->Forward(tokens, layout, nullptr);
  // f16 keeps 11 bits: 0.05 % a rounding.
  EXPECT_TRUE(Near(hidden, exact->Forward(tokens, layout, nullptr), 0.004));
  EXPECT_EQ(rounded->Logits(hidden).dtype(), DType::kF32);
}

TEST(BlockLanguageModelTest, UntiedHeadWithTheEmbeddingsValuesIsTheTiedOne) {
  ModelConfig config = SmallConfig();
  config.tie_word_embeddings = false;
  const auto untied = SmallModel(DType::kF32, config);
  const auto tied = SmallModel();
  Find(*untied, "lm_head.weight").value = Find(*untied, "backbone.embeddings.weight").value.Clone();
  untied->ParametersChanged();
  tied->PrepareTraining();
  untied->PrepareTraining();
  const SequenceLayout layout = SequenceLayout::Single(30);
  const Tensor tokens = RandomTokens(30, config.vocab_size, 13);
  EXPECT_TRUE(SameBits(untied->Logits(untied->Forward(tokens, layout, nullptr)),
                       tied->Logits(tied->Forward(tokens, layout, nullptr))));
  TrainingStep(*tied, tokens, tokens, layout);
  TrainingStep(*untied, tokens, tokens, layout);
  // The tied gradient is the sum of both uses'.
  const Tensor sum = Find(*untied, "backbone.embeddings.weight").grad.Clone();
  const Tensor head = Find(*untied, "lm_head.weight").grad;
  for (int64_t i = 0; i < sum.elements(); ++i) sum.data<float>()[i] += head.data<float>()[i];
  EXPECT_TRUE(Near(Find(*tied, "backbone.embeddings.weight").grad, sum, 1e-6));
  EXPECT_NE(tied->fingerprint(), untied->fingerprint());
}

TEST(BlockLanguageModelTest, LossIsTheCrossEntropyOfTheLogits) {
  const auto model = SmallModel();
  const SequenceLayout layout = SequenceLayout::Single(20);
  const Tensor tokens = RandomTokens(20, model->vocab_size(), 14);
  const Tensor targets = RandomTokens(20, model->vocab_size(), 15);
  targets.data<int32_t>()[4] = kIgnoreTarget;
  const Tensor hidden = model->Forward(tokens, layout, nullptr);
  const Tensor logits = model->Logits(hidden);
  const Variable loss = model->Loss(nullptr, Variable(hidden), targets);
  EXPECT_FALSE(loss.requires_grad());
  const int64_t vocab = model->vocab_size();
  for (int64_t t = 0; t < 20; ++t) {
    double sum = 0;
    for (int64_t v = 0; v < vocab; ++v) {
      sum += std::exp(static_cast<double>(logits.data<float>()[t * vocab + v]));
    }
    const int32_t target = targets.data<int32_t>()[t];
    const double expected =
        target == kIgnoreTarget
            ? 0
            : std::log(sum) - static_cast<double>(logits.data<float>()[t * vocab + target]);
    EXPECT_NEAR(loss.value().data<float>()[t], expected, 1e-5) << t;
  }
}

TEST(BlockLanguageModelTest, LossWithGradientsIsTheLossAndItsBackward) {
  const auto model = SmallModel();
  model->PrepareTraining();
  const SequenceLayout& layout = UnequalSequences();
  const Tensor tokens = RandomTokens(layout.rows(), model->vocab_size(), 18);
  const Tensor targets = RandomTokens(layout.rows(), model->vocab_size(), 19);
  targets.data<int32_t>()[4] = kIgnoreTarget;
  Tensor losses, at_once_losses;
  const std::vector<Tensor> gradients =
      TrainingStep(*model, tokens, targets, layout, Recompute::kNone, &losses);
  const std::vector<Tensor> at_once =
      test::TrainingStepAtOnce(*model, tokens, targets, layout, &at_once_losses);
  EXPECT_TRUE(SameBits(at_once_losses, losses));
  for (size_t i = 0; i < gradients.size(); ++i) {
    EXPECT_TRUE(SameBits(at_once[i], gradients[i])) << model->parameters()[i].name;
  }
}

TEST(BlockLanguageModelTest, StatesForkRollBackAndStackAsValues) {
  const auto model = SmallModel();
  const Tensor prompt = RandomTokens(30, model->vocab_size(), 16);
  State state;
  model->Forward(prompt, SequenceLayout::Single(30), &state);
  const State saved = state;
  const Tensor next = RandomTokens(1, model->vocab_size(), 17);
  const SequenceLayout row = SequenceLayout::Single(1);
  const Tensor first = model->Forward(next, row, &state).Clone();
  EXPECT_FALSE(state == saved);
  State again = saved;
  EXPECT_TRUE(SameBits(model->Forward(next, row, &again), first));
  EXPECT_TRUE(again == state);
  EXPECT_EQ(again.positions()[0], 31);
  // A fork goes on as its origin would have.
  State forks = saved.Select(std::vector<int64_t>{0, 0, 0});
  const std::vector<int32_t> three(3, next.data<int32_t>()[0]);
  const Tensor forked =
      model->Forward(Tensor::From<int32_t>({3}, three), SequenceLayout::Uniform(3, 1), &forks);
  for (int64_t s = 0; s < 3; ++s) EXPECT_TRUE(Near(forked.Rows(s, 1), first, kForwardTolerance));
}

TEST(BlockLanguageModelTest, RefusesTokensLayoutsAndStatesThatDoNotFitAndLeavesTheStateAlone) {
  const auto model = SmallModel();
  State state = model->InitialState(1);
  const State before = state;
  const SequenceLayout two = SequenceLayout::Single(2);
  const auto tokens = [](std::vector<int32_t> ids) {
    return Tensor::From<int32_t>({static_cast<int64_t>(ids.size())}, ids);
  };
  EXPECT_THROW(model->Forward(tokens({1}), two, &state), Error);
  EXPECT_THROW(model->Forward(tokens({1, 61}), two, &state), Error);
  EXPECT_THROW(model->Forward(tokens({-1, 1}), two, &state), Error);
  EXPECT_THROW(model->Forward(Tensor(), two, &state), Error);
  EXPECT_THROW(model->Forward(Tensor::Zeros({2}, DType::kF32), two, &state), Error);
  EXPECT_THROW(model->Forward(tokens({1, 2}), SequenceLayout::Uniform(2, 1), &state), Error);
  EXPECT_TRUE(state == before);

  const auto other = std::make_unique<BlockLanguageModel>(SmallConfig(), DType::kF32);
  EXPECT_THROW(other->Forward(tokens({1, 2}), two, nullptr), Error) << "no values yet";
  EXPECT_THROW(other->fingerprint(), Error);
  InitializeModel(*other, 99);
  EXPECT_THROW(other->Forward(tokens({1, 2}), two, &state), Error) << "another model's state";
  Memory memory;
  memory.entries.resize(5);
  EXPECT_THROW(other->Hidden(nullptr, tokens({1, 2}), two, &memory), Error);
  memory.entries.assign(6, Variable(Tensor::Zeros({1, 3, 80}, DType::kF32)));
  EXPECT_THROW(other->Hidden(nullptr, tokens({1, 2}), two, &memory), Error);
}

TEST(BlockLanguageModelTest, FingerprintFollowsValuesAndConfigAlone) {
  const auto model = SmallModel();
  const uint64_t fingerprint = model->fingerprint();
  EXPECT_EQ(SmallModel(DType::kF32)->fingerprint(), fingerprint);
  model->PrepareTraining();
  EXPECT_EQ(model->fingerprint(), fingerprint) << "copies of the same values";
  Find(*model, "backbone.layers.2.mixer.D").value.data<float>()[0] += 0.5f;
  model->ParametersChanged();
  EXPECT_NE(model->fingerprint(), fingerprint);
  ModelConfig config = SmallConfig();
  config.norm_eps = 1e-6;
  EXPECT_NE(SmallModel(DType::kF32, config)->fingerprint(), fingerprint);
}

TEST(BlockLanguageModelTest, ParametersChangedRefreshesWhatIsDerivedInPlace) {
  const auto model = SmallModel(DType::kBF16);
  model->PrepareTraining();
  Parameter& A_log = Find(*model, "backbone.layers.0.mixer.A_log");
  Parameter& in_proj = Find(*model, "backbone.layers.0.mixer.in_proj.weight");
  Parameter& norm = Find(*model, "backbone.norm_f.weight");
  EXPECT_EQ(in_proj.compute.dtype(), DType::kBF16);
  EXPECT_EQ(norm.compute.raw(), norm.value.raw());
  const void* A = A_log.compute.raw();
  const void* copy = in_proj.compute.raw();
  A_log.value.data<float>()[5] = 0.25f;
  in_proj.value.data<float>()[5] = 3;
  model->ParametersChanged();
  EXPECT_FLOAT_EQ(A_log.compute.data<float>()[5], -std::exp(0.25f));
  EXPECT_EQ(static_cast<float>(in_proj.compute.data<BFloat16>()[5]), 3);
  EXPECT_EQ(A_log.compute.raw(), A);
  EXPECT_EQ(in_proj.compute.raw(), copy);

  in_proj.value = Tensor::Zeros({3, 3}, DType::kF32);
  EXPECT_THROW(model->ParametersChanged(), Error);
}

TEST(BlockLanguageModelTest, SelectionTraceShowsStepAndDecayOfEveryLayer) {
  const auto model = SmallModel();
  model->PrepareTraining();
  // Without a projection the step is the bias's alone, and the decay follows from A = -1 … -8.
  for (Parameter& p : model->parameters()) {
    if (p.name.ends_with("layers.1.mixer.dt_proj.weight")) p.value.SetZero();
  }
  model->ParametersChanged();
  const Tensor tokens = RandomTokens(12, model->vocab_size(), 18);
  const SequenceLayout layout = SequenceLayout::Single(12);
  SelectionTrace trace;
  model->Forward(tokens, layout, nullptr, &trace);
  ASSERT_EQ(trace.step.size(), 3u);
  ASSERT_EQ(trace.decay.size(), 3u);
  const Tensor bias = Find(*model, "backbone.layers.1.mixer.dt_proj.bias").value;
  for (int64_t d = 0; d < 80; ++d) {
    const double step = std::log1p(std::exp(static_cast<double>(bias.data<float>()[d])));
    double decay = 0;
    for (int n = 1; n <= 8; ++n) decay += std::exp(-step * n) / 8;
    EXPECT_NEAR(trace.step[1].data<float>()[7 * 80 + d], step, 1e-6);
    EXPECT_NEAR(trace.decay[1].data<float>()[7 * 80 + d], decay, 1e-6);
  }
  for (const Recompute recompute : kEveryRecompute) {
    Tape tape;
    SelectionTrace recorded;
    model->Hidden(&tape, tokens, layout, nullptr, recompute, &recorded);
    ASSERT_EQ(recorded.step.size(), 3u);
    for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(SameBits(recorded.step[i], trace.step[i]));
  }
}

TEST(BlockLanguageModelTest, SelectionTraceShowsTheHeadsOfMamba2) {
  ModelConfig config = SmallConfig();
  config.architecture = Architecture::kMamba2;
  config.head_dim = 16;
  config.d_inner = 96;
  config.dt_limit_max = 0.05;
  const auto model = SmallModel(DType::kF32, config);
  model->PrepareTraining();
  // Without a projection the step is the bias's alone, as far as the limit lets it.
  for (Parameter& p : model->parameters()) {
    if (p.name.ends_with("layers.2.mixer.in_proj.weight")) p.value.SetZero();
  }
  model->ParametersChanged();
  SelectionTrace trace;
  model->Forward(RandomTokens(5, model->vocab_size(), 18), SequenceLayout::Single(5), nullptr,
                 &trace);
  ASSERT_EQ(trace.step.size(), 3u);
  ASSERT_EQ(trace.decay[2].shape(), Shape({5, 6}));
  const Tensor bias = Find(*model, "backbone.layers.2.mixer.dt_bias").value;
  const Tensor A_log = Find(*model, "backbone.layers.2.mixer.A_log").value;
  for (int64_t h = 0; h < 6; ++h) {
    const double softplus = std::log1p(std::exp(static_cast<double>(bias.data<float>()[h])));
    const double step = std::min(softplus, 0.05);
    const double A = -std::exp(static_cast<double>(A_log.data<float>()[h]));
    EXPECT_NEAR(trace.step[2].data<float>()[4 * 6 + h], step, 1e-6);
    EXPECT_NEAR(trace.decay[2].data<float>()[4 * 6 + h], std::exp(step * A), 1e-6);
  }
}

TEST(BlockLanguageModelTest, NoRowsAtAll) {
  const auto model = SmallModel();
  model->PrepareTraining();
  const Tensor none = RandomTokens(0, 61, 0);
  EXPECT_EQ(model->Forward(none, SequenceLayout::Single(0), nullptr).shape(), Shape({0, 40}));
  for (const Tensor& g : TrainingStep(*model, none, none, SequenceLayout::Single(0))) {
    EXPECT_EQ(test::MaxAbs(g), 0);
  }
}

}  // namespace
}  // namespace adder
