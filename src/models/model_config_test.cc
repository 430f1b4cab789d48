// Published sizes against the papers' parameter counts, and the config's checks.
#include "adder/models/model_config.h"

#include <gtest/gtest.h>

#include <functional>

#include "adder/core/error.h"
#include "adder/models/block_language_model.h"

namespace adder {
namespace {

int64_t CountParameters(const ModelConfig& config) {
  const BlockLanguageModel model(config, DType::kF32);  // shapes only: nothing is allocated
  int64_t count = 0;
  for (const Shape& shape : model.parameter_shapes()) count += shape.elements();
  return count;
}

TEST(ModelConfigTest, PublishedSizesHaveThePublishedParameterCounts) {
  // Vocabulary 50277 padded to a multiple of 8, embeddings tied.
  EXPECT_EQ(CountParameters(ModelConfig::Published("130m")), 129'135'360);
  EXPECT_EQ(CountParameters(ModelConfig::Published("370m")), 371'516'416);
  EXPECT_EQ(CountParameters(ModelConfig::Published("790m")), 793'204'224);
  EXPECT_EQ(CountParameters(ModelConfig::Published("1.4b")), 1'372'178'432);
  EXPECT_EQ(CountParameters(ModelConfig::Published("2.8b")), 2'768'345'600);
  EXPECT_THROW(ModelConfig::Published("7b"), Error);
}

TEST(ModelConfigTest, MambaByteHasThePublishedParameterCounts) {
  // arXiv 2401.13660: 353M and 972M models on bytes.
  ModelConfig config;
  config.n_layer = 53;
  config.d_model = 1024;
  EXPECT_EQ(CountParameters(config), 353'628'160);
  config.n_layer = 48;
  config.d_model = 1792;
  EXPECT_EQ(CountParameters(config), 973'387'520);
}

TEST(ModelConfigTest, ResolveFillsWhatIsDerivedAndKeepsWhatIsGiven) {
  ModelConfig config;
  config.d_model = 100;
  config.Resolve();
  EXPECT_EQ(config.d_inner, 200);
  EXPECT_EQ(config.dt_rank, 7);  // ceil(100 / 16)
  config = {};
  config.d_model = 100;
  config.d_inner = 150;
  config.dt_rank = 3;
  config.Resolve();
  EXPECT_EQ(config.d_inner, 150);
  EXPECT_EQ(config.dt_rank, 3);
}

TEST(ModelConfigTest, RefusesWhatNoModelHasAndNamesTheField) {
  const auto expect = [](const char* field, const std::function<void(ModelConfig&)>& spoil) {
    ModelConfig config;
    spoil(config);
    try {
      config.Resolve();
      ADD_FAILURE() << field << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      EXPECT_NE(std::string(error.what()).find(field), std::string::npos) << error.what();
    }
  };
  constexpr int64_t kHuge = int64_t{1} << 62;
  expect("vocab_size", [](ModelConfig& c) { c.vocab_size = 0; });
  expect("vocab_size", [](ModelConfig& c) { c.vocab_size = kHuge; });
  expect("d_model", [](ModelConfig& c) { c.d_model = -1; });
  expect("d_model", [](ModelConfig& c) { c.d_model = kHuge; });
  expect("n_layer", [](ModelConfig& c) { c.n_layer = 0; });
  expect("n_layer", [](ModelConfig& c) { c.n_layer = kHuge; });
  expect("d_state", [](ModelConfig& c) { c.d_state = 0; });
  expect("d_conv", [](ModelConfig& c) { c.d_conv = 1; });
  expect("d_conv", [](ModelConfig& c) { c.d_conv = 9; });
  expect("expand", [](ModelConfig& c) { c.expand = 0; });
  expect("d_inner", [](ModelConfig& c) { c.expand = 1 << 19; });
  expect("d_inner", [](ModelConfig& c) { c.d_inner = -4; });
  expect("dt_rank", [](ModelConfig& c) { c.dt_rank = -4; });
  expect("norm_eps", [](ModelConfig& c) { c.norm_eps = -1; });
  expect("norm_eps", [](ModelConfig& c) { c.norm_eps = std::numeric_limits<double>::quiet_NaN(); });
  expect("dt_min", [](ModelConfig& c) { c.dt_min = 0; });
  expect("dt_max", [](ModelConfig& c) { c.dt_max = 1e-4; });
  expect("dt_init_floor", [](ModelConfig& c) { c.dt_init_floor = -1; });
  expect("initializer_range", [](ModelConfig& c) { c.initializer_range = -1; });
  expect("eos_token_id", [](ModelConfig& c) { c.eos_token_id = 256; });
  expect("bos_token_id", [](ModelConfig& c) { c.bos_token_id = -2; });
}

TEST(ModelConfigTest, ModelsComputeInFloatsOnly) {
  EXPECT_THROW(BlockLanguageModel(ModelConfig{}, DType::kF64), Error);
  EXPECT_THROW(BlockLanguageModel(ModelConfig{}, DType::kI8), Error);
}

}  // namespace
}  // namespace adder
