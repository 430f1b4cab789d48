// Models as GGUF files: every architecture there and back, weights of fewer bits close to the
// originals, and files that contradict themselves.
#include "adder/models/gguf_checkpoint.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "adder/core/error.h"
#include "adder/models/checkpoint.h"
#include "adder/models/small_model_test.h"
#include "tests/temporary_directory.h"

namespace adder {
namespace {

namespace fs = std::filesystem;
using test::Near;
using test::RandomTokens;

class GgufCheckpointTest : public testing::TestWithParam<const char*> {
 protected:
  void Write(const BlockLanguageModel& model, DType weights) const {
    const GgufContent content = MakeGguf(model, weights);
    WriteGguf(path_, content.metadata, content.tensors);
  }
  static Tensor Logits(const BlockLanguageModel& model) {
    const Tensor tokens = RandomTokens(40, model.vocab_size(), 1);
    return model.Logits(model.Forward(tokens, SequenceLayout({0, 30, 40}), nullptr));
  }

  const TemporaryDirectory directory_;
  const fs::path path_ = directory_.path() / "model.gguf";
};

TEST_P(GgufCheckpointTest, IsTheSameModelThereAndBack) {
  const auto model =
      LoadModel(fs::path(ADDER_SOURCE_DIR) / "tests" / "goldens" / GetParam(), DType::kF32);
  Write(*model, DType::kF32);
  const auto again = LoadModel(path_, DType::kF32);
  EXPECT_EQ(again->config().architecture, model->config().architecture);
  EXPECT_EQ(again->config().norm_eps, model->config().norm_eps);
  EXPECT_EQ(again->config().mixer_norm_eps, model->config().mixer_norm_eps);
  ASSERT_EQ(again->parameters().size(), model->parameters().size());
  for (size_t i = 0; i < model->parameters().size(); ++i) {
    const Parameter& p = model->parameters()[i];
    // A is stored, whose logarithm is rounded on the way back.
    EXPECT_TRUE(Near(again->parameters()[i].value, p.value, p.name.ends_with("A_log") ? 1e-6 : 0))
        << p.name;
  }
  // A itself is the same to a rounding.
  EXPECT_TRUE(Near(Logits(*again), Logits(*model), 1e-6));

  Write(*model, DType::kF16);
  // 11 bits of each weight.
  EXPECT_TRUE(Near(Logits(*LoadModel(path_, DType::kF32)), Logits(*model), 5e-3));
}

INSTANTIATE_TEST_SUITE_P(Models, GgufCheckpointTest,
                         testing::Values("mamba-tied", "falcon-mamba", "mamba2-g1", "gpt-neox",
                                         "llama"),
                         [](const auto& instance) {
                           std::string name = instance.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

class QuantizedModelTest : public GgufCheckpointTest {};

TEST_P(QuantizedModelTest, IsCloseToTheOriginal) {
  // Rows that are whole blocks of every dtype.
  ModelConfig config = test::SmallConfig();
  config.d_model = 256;
  config.d_inner = config.dt_rank = 0;
  config.Resolve();
  const auto model = test::SmallModel(DType::kF32, config);
  const DType dtype = ParseDType(GetParam());
  Write(*model, dtype);
  const auto again = LoadModel(path_, DType::kF32);
  double bits = 0;
  double elements = 0;
  for (const Parameter& p : std::as_const(*again).parameters()) {
    const bool table = p.name.find("embed") != std::string::npos;
    if (p.full_precision) {
      EXPECT_EQ(p.value.dtype(), DType::kF32) << p.name;
    } else if (!table && !p.name.ends_with("dt_proj.weight")) {
      EXPECT_EQ(p.value.dtype(), dtype) << p.name;
      EXPECT_EQ(p.compute.raw(), p.value.raw()) << p.name << " is copied";
    }
    if (p.full_precision) continue;
    bits += 8.0 * static_cast<double>(p.value.bytes());
    elements += static_cast<double>(p.value.elements());
  }
  EXPECT_LT(bits / elements, dtype == DType::kQ8_0 ? 8.7 : dtype == DType::kQ6_K ? 6.8 : 5.1);
  // The sum of a row's rounding errors, a few layers deep: 8, 6 and 4 bits a weight.
  const double tolerance = dtype == DType::kQ8_0 ? 0.02 : dtype == DType::kQ6_K ? 0.06 : 0.25;
  EXPECT_TRUE(Near(Logits(*again), Logits(*model), tolerance));
  // The loss reads the quantized head too, and training begins from what the weights stand for.
  const Tensor tokens = RandomTokens(20, 61, 2);
  const Tensor targets = RandomTokens(20, 61, 3);
  const auto losses = [&] {
    const Tensor hidden = again->Forward(tokens, SequenceLayout::Single(20), nullptr);
    return again->Loss(nullptr, Variable(hidden), targets).value();
  };
  const Tensor loss = losses();
  EXPECT_GT(test::MaxAbs(loss), 0);
  again->PrepareTraining();
  EXPECT_TRUE(Near(losses(), loss, 0.02));
}

INSTANTIATE_TEST_SUITE_P(Types, QuantizedModelTest,
                         testing::Values("q8_0", "q4_0", "q4_k", "q6_k"));

class HostileGgufTest : public GgufCheckpointTest {
 protected:
  void ExpectRefused(const std::string& text) {
    try {
      LoadModel(path_, DType::kF32);
      ADD_FAILURE() << "loaded; expected an error with " << text;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("model.gguf"), std::string::npos) << error.what();
    }
  }
  static void Set(GgufContent& content, const std::string& key, const GgufValue& value) {
    for (auto& [name, old] : content.metadata) {
      if (name == key) old = value;
    }
  }
};

TEST_F(HostileGgufTest, NamesWhatIsWrong) {
  const auto model = test::SmallModel();
  const GgufContent good = MakeGguf(*model, DType::kF32);
  const auto write = [&](const GgufContent& content) {
    WriteGguf(path_, content.metadata, content.tensors);
  };
  GgufContent bad = good;
  Set(bad, "general.architecture", "rwkv7");
  write(bad);
  ExpectRefused("rwkv7");
  bad = good;
  Set(bad, "mamba.block_count", uint32_t{60000});
  write(bad);
  ExpectRefused("too few for 60000 layers");
  bad = good;
  Set(bad, "mamba.ssm.state_size", uint32_t{0});
  write(bad);
  ExpectRefused("ssm.state_size");
  bad = good;
  Set(bad, "mamba.ssm.state_size", uint32_t{16});
  write(bad);
  ExpectRefused("the metadata says");
  bad = good;
  bad.tensors.pop_back();
  write(bad);
  ExpectRefused("output_norm.weight");
  bad = good;
  bad.tensors.emplace_back("blk.0.ssm_mystery", Tensor::Zeros({4}, DType::kF32));
  write(bad);
  ExpectRefused("blk.0.ssm_mystery");
  bad = good;
  for (auto& [name, tensor] : bad.tensors) {
    if (name == "blk.1.ssm_a") tensor = Tensor::Zeros(tensor.shape(), DType::kF32);
  }
  write(bad);
  ExpectRefused("expected negative numbers");
}

TEST_F(HostileGgufTest, ModelsThatLlamaCppHasNotAreNotWritten) {
  ModelConfig config = test::SmallConfig();
  config.use_bias = true;
  EXPECT_THROW(MakeGguf(*test::SmallModel(DType::kF32, config), DType::kF32), Error);
}

}  // namespace
}  // namespace adder
