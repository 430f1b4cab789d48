// Published sizes against the papers' parameter counts, and the config's checks.
#include "adder/models/mamba_config.h"

#include <gtest/gtest.h>

#include <functional>

#include "adder/core/error.h"
#include "adder/models/mamba.h"

namespace adder {
namespace {

int64_t CountParameters(const MambaConfig& config) {
  const MambaModel model(config, DType::kF32);  // shapes only: nothing is allocated
  int64_t count = 0;
  for (const Shape& shape : model.parameter_shapes()) count += shape.elements();
  return count;
}

TEST(MambaConfigTest, PublishedSizesHaveThePublishedParameterCounts) {
  // Vocabulary 50277 padded to a multiple of 8, embeddings tied.
  EXPECT_EQ(CountParameters(MambaConfig::Published("130m")), 129'135'360);
  EXPECT_EQ(CountParameters(MambaConfig::Published("370m")), 371'516'416);
  EXPECT_EQ(CountParameters(MambaConfig::Published("790m")), 793'204'224);
  EXPECT_EQ(CountParameters(MambaConfig::Published("1.4b")), 1'372'178'432);
  EXPECT_EQ(CountParameters(MambaConfig::Published("2.8b")), 2'768'345'600);
  EXPECT_THROW(MambaConfig::Published("7b"), Error);
}

TEST(MambaConfigTest, MambaByteHasThePublishedParameterCounts) {
  // arXiv 2401.13660: 353M and 972M models on bytes.
  MambaConfig config;
  config.n_layer = 53;
  config.d_model = 1024;
  EXPECT_EQ(CountParameters(config), 353'628'160);
  config.n_layer = 48;
  config.d_model = 1792;
  EXPECT_EQ(CountParameters(config), 973'387'520);
}

TEST(MambaConfigTest, ResolveFillsWhatIsDerivedAndKeepsWhatIsGiven) {
  MambaConfig config;
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

TEST(MambaConfigTest, RefusesWhatNoModelHasAndNamesTheField) {
  const auto expect = [](const char* field, const std::function<void(MambaConfig&)>& spoil) {
    MambaConfig config;
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
  expect("vocab_size", [](MambaConfig& c) { c.vocab_size = 0; });
  expect("vocab_size", [](MambaConfig& c) { c.vocab_size = kHuge; });
  expect("d_model", [](MambaConfig& c) { c.d_model = -1; });
  expect("d_model", [](MambaConfig& c) { c.d_model = kHuge; });
  expect("n_layer", [](MambaConfig& c) { c.n_layer = 0; });
  expect("n_layer", [](MambaConfig& c) { c.n_layer = kHuge; });
  expect("d_state", [](MambaConfig& c) { c.d_state = 0; });
  expect("d_conv", [](MambaConfig& c) { c.d_conv = 1; });
  expect("d_conv", [](MambaConfig& c) { c.d_conv = 9; });
  expect("expand", [](MambaConfig& c) { c.expand = 0; });
  expect("d_inner", [](MambaConfig& c) { c.expand = 1 << 19; });
  expect("d_inner", [](MambaConfig& c) { c.d_inner = -4; });
  expect("dt_rank", [](MambaConfig& c) { c.dt_rank = -4; });
  expect("norm_eps", [](MambaConfig& c) { c.norm_eps = -1; });
  expect("norm_eps", [](MambaConfig& c) { c.norm_eps = std::numeric_limits<double>::quiet_NaN(); });
  expect("dt_min", [](MambaConfig& c) { c.dt_min = 0; });
  expect("dt_max", [](MambaConfig& c) { c.dt_max = 1e-4; });
  expect("dt_init_floor", [](MambaConfig& c) { c.dt_init_floor = -1; });
  expect("initializer_range", [](MambaConfig& c) { c.initializer_range = -1; });
  expect("eos_token_id", [](MambaConfig& c) { c.eos_token_id = 256; });
  expect("bos_token_id", [](MambaConfig& c) { c.bos_token_id = -2; });
}

TEST(MambaConfigTest, ModelsComputeInFloatsOnly) {
  EXPECT_THROW(MambaModel(MambaConfig{}, DType::kF64), Error);
  EXPECT_THROW(MambaModel(MambaConfig{}, DType::kI8), Error);
}

}  // namespace
}  // namespace adder
