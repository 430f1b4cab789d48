// Configs: values arrive, mistakes are named with their place, what is written reads back.
#include "adder/train/train_config.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "adder/core/error.h"
#include "adder/formats/file.h"

namespace adder {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr std::string_view kLeast = "[data]\ntrain = \"a.txt\"\n[train]\nsteps = 5\n";

std::string MessageOf(const std::string& toml, const std::vector<std::string>& overrides = {}) {
  try {
    ParseTrainConfig(toml, "run.toml", overrides);
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_EQ(error.code(),
              message.starts_with("--set ") ? ErrorCode::kInvalidArgument : ErrorCode::kCorrupt);
    return message;
  }
  return "no error";
}

TEST(TrainConfigTest, ReadsEveryKindOfValue) {
  const TrainConfig config = ParseTrainConfig(R"(
[model]
d_model = 128
use_bias = true
norm_eps = 1e-6
[data]
train = ["a.txt", "b/*.txt"]
packing = "documents"
separator = "\n\n"
[train]
tokens = 1e9
dtype = "bf16"
[schedule]
kind = "wsd"
warmup = 100
)",
                                              "run.toml");
  EXPECT_EQ(config.model.dimensions.d_model, 128);
  EXPECT_EQ(config.model.dimensions.vocab_size, 256);
  EXPECT_TRUE(config.model.dimensions.use_bias);
  EXPECT_EQ(config.model.dimensions.norm_eps, 1e-6);
  EXPECT_THAT(config.data.train, ElementsAre("a.txt", "b/*.txt"));
  EXPECT_EQ(config.data.packing, Packing::kDocuments);
  EXPECT_EQ(config.data.separator, "\n\n");
  EXPECT_EQ(config.train.tokens, 1'000'000'000);
  EXPECT_EQ(config.train.dtype, DType::kBF16);
  EXPECT_EQ(config.schedule.kind, ScheduleKind::kWsd);
  EXPECT_EQ(config.schedule.warmup, 100.0);
}

TEST(TrainConfigTest, MistakesAreNamedWithTheirPlace) {
  const std::string least(kLeast);
  EXPECT_EQ(MessageOf(least + "batch = 0\n"),
            "run.toml:5: train.batch is 0, expected a whole number from 1 to 1048576");
  EXPECT_EQ(MessageOf(least + "batch = 1.5\n"),
            "run.toml:5: train.batch is 1.5, expected a whole number from 1 to 1048576");
  EXPECT_EQ(MessageOf(least + "dtype = \"f8\"\n"),
            "run.toml:5: train.dtype is \"f8\", expected \"f32\" or \"bf16\"");
  EXPECT_EQ(MessageOf(least + "recompute = 1\n"),
            "run.toml:5: train.recompute is 1, expected \"none\" or \"scan\" or \"block\"");
  EXPECT_EQ(MessageOf(least + "segment = -1\n"),
            "run.toml:5: train.segment is -1, expected a whole number from 0 to 1073741824");
  EXPECT_EQ(MessageOf(least + "lr = 1e-3\n"),
            "run.toml:5: unknown key \"train.lr\" (did you mean optimizer.lr?)");
  EXPECT_EQ(MessageOf(least + "\n[optimiser]\nlr = 1e-3\n"),
            "run.toml:6: unknown section \"optimiser\"");
  EXPECT_THAT(MessageOf(least + "[optimizer]\nlr = inf\n"),
              HasSubstr("run.toml:6: optimizer.lr is inf"));
  EXPECT_THAT(MessageOf(least + "[optimizer]\nlr = nan\n"), HasSubstr("expected a number from"));
  EXPECT_THAT(MessageOf("model = 5\n" + least),
              HasSubstr("run.toml:1: model is 5, expected a section"));
  EXPECT_THAT(
      MessageOf("[data]\ntrain = [1, 2]\n[train]\nsteps = 1\n"),
      HasSubstr("run.toml:2: data.train is a list, expected a string or a list of strings"));
  EXPECT_THAT(MessageOf("# é\n\u021atrain = 1\n"), HasSubstr("run.toml:2: no valid TOML"));
  EXPECT_THAT(MessageOf("[@data]\n"), AllOf(HasSubstr("run.toml"), HasSubstr("no valid TOML")));
  EXPECT_THAT(MessageOf("[data]\ntrain = \"a\n"), HasSubstr("run.toml:2: no valid TOML"));
  EXPECT_THAT(MessageOf(least + "[model]\nsize = \"7b\"\n"),
              AllOf(HasSubstr("run.toml:6: "), HasSubstr("7b")));
}

TEST(TrainConfigTest, CharactersBeyondAsciiStandInStringsAndComments) {
  const std::string toml =
      "# é \"\n"
      "[data] # 'é\n"
      "train = ['é\"', \"\\\"ü\", \"\"\"\nö\n\"\"\"\"\"]\n"
      "separator = '''ß'''''\n"
      "[train]\nsteps = 1 # ž\n";
  const std::vector<std::string> overrides = {"output.run=~/läufe/1"};
  const TrainConfig config = ParseTrainConfig(toml, "run.toml", overrides);
  EXPECT_THAT(config.data.train, ElementsAre("é\"", "\"ü", "ö\n\"\""));
  EXPECT_EQ(config.data.separator, "ß''");
  EXPECT_EQ(config.output.run, "~/läufe/1");
}

TEST(TrainConfigTest, RecomputationIsNamedAndWasTrueOrFalse) {
  const std::string least(kLeast);
  const auto recompute = [&](const std::string& value) {
    return ParseTrainConfig(least + "recompute = " + value + "\n", "run.toml").train.recompute;
  };
  EXPECT_EQ(ParseTrainConfig(least, "run.toml").train.recompute, Recompute::kNone);
  EXPECT_EQ(recompute("\"none\""), Recompute::kNone);
  EXPECT_EQ(recompute("\"scan\""), Recompute::kScan);
  EXPECT_EQ(recompute("\"block\""), Recompute::kBlock);
  EXPECT_EQ(recompute("false"), Recompute::kNone);
  EXPECT_EQ(recompute("true"), Recompute::kBlock);
  const std::string overrides[] = {"train.recompute=scan", "train.device=cuda:1"};
  const TrainConfig config = ParseTrainConfig(least, "run.toml", overrides);
  EXPECT_EQ(config.train.recompute, Recompute::kScan);
  EXPECT_EQ(config.train.device, "cuda:1");
  EXPECT_THAT(MessageOf(least + "dtype = true\n"), HasSubstr("expected \"f32\" or \"bf16\""));
}

TEST(TrainConfigTest, MistakesAcrossKeys) {
  EXPECT_THAT(MessageOf("[data]\ntrain = \"a\"\n"), HasSubstr("expected exactly one"));
  EXPECT_THAT(MessageOf(std::string(kLeast) + "minutes = 1\n"), HasSubstr("expected exactly one"));
  EXPECT_THAT(MessageOf("[train]\nsteps = 1\n"), HasSubstr("data.train is empty"));
  EXPECT_THAT(MessageOf("[train]\nsteps = 1\n[data]\ntrain = [\"a\", \"\"]\n"),
              HasSubstr("run.toml:4: data.train has an empty string"));
  EXPECT_THAT(MessageOf(std::string(kLeast), {"data.valid="}),
              HasSubstr("--set data.valid=: data.valid has an empty string"));
  EXPECT_THAT(MessageOf(std::string(kLeast) + "dtype = \"bf16\"\ntf32 = true\n"),
              HasSubstr("run.toml:6: train.tf32 is a way to multiply f32, but train.dtype is"));
  EXPECT_THAT(MessageOf(std::string(kLeast) + "[schedule]\nmin_lr = 0.1\n"),
              HasSubstr("run.toml:6: schedule.min_lr is 0.1"));
  EXPECT_THAT(MessageOf(std::string(kLeast) + "length = 1073741824\nbatch = 1048576\n"
                                              "gradient_accumulation = 1048576\n"),
              HasSubstr("run.toml:6: "));
}

TEST(TrainConfigTest, OverridesReplaceValues) {
  const std::vector<std::string> overrides = {"optimizer.lr=5e-3", "train.dtype=bf16",
                                              "data.train=[\"x\", \"y\"]", "train.minutes=2",
                                              "output.run=runs/a b"};
  const TrainConfig config = ParseTrainConfig(kLeast, "run.toml", overrides);
  EXPECT_EQ(config.optimizer.lr, 5e-3);
  EXPECT_EQ(config.train.dtype, DType::kBF16);
  EXPECT_THAT(config.data.train, ElementsAre("x", "y"));
  EXPECT_EQ(config.train.minutes, 2.0);
  EXPECT_EQ(config.train.steps, 0);
  EXPECT_EQ(config.output.run, "runs/a b");

  const std::string least(kLeast);
  EXPECT_THAT(MessageOf(least, {"train.batch=-1"}),
              HasSubstr("--set train.batch=-1: train.batch is -1"));
  EXPECT_THAT(MessageOf(least, {"batch=4"}),
              HasSubstr("unknown key \"batch\" (did you mean train.batch?)"));
  EXPECT_THAT(MessageOf(least, {"train.batch"}), HasSubstr("expected section.key=value"));
  EXPECT_THAT(MessageOf(least, {"train.batch=4\nfoo=5"}), HasSubstr("expected a whole number"));
}

TEST(TrainConfigTest, OverridesOfTextNeedNoQuotes) {
  const auto run_of = [](const std::string& value) {
    const std::vector<std::string> overrides = {"output.run=" + value};
    return ParseTrainConfig(kLeast, "run.toml", overrides).output.run;
  };
  EXPECT_EQ(run_of("2024"), "2024");
  EXPECT_EQ(run_of("true"), "true");
  EXPECT_EQ(run_of("1979-05-27"), "1979-05-27");
  EXPECT_EQ(run_of("\"a\\tb\""), "a\tb");
  EXPECT_EQ(run_of("'a\\tb'"), "a\\tb");
  const std::vector<std::string> list = {"data.train=1984"};
  EXPECT_THAT(ParseTrainConfig(kLeast, "run.toml", list).data.train, ElementsAre("1984"));
  const std::vector<std::string> separator = {"data.separator=\"\\n\""};
  EXPECT_EQ(ParseTrainConfig(kLeast, "run.toml", separator).data.separator, "\n");
  // What a shell makes of data.separator="\n": neither meaning is taken silently.
  EXPECT_THAT(MessageOf(std::string(kLeast), {"data.separator=\\n"}),
              HasSubstr("text with a backslash needs TOML's quotes"));
}

TEST(TrainConfigTest, RangesAreNotRounded) {
  EXPECT_THAT(MessageOf(std::string(kLeast) + "[optimizer]\nbeta2 = 1\n"),
              HasSubstr("optimizer.beta2 is 1, expected a number from 0 to 0.99999999"));
  EXPECT_THAT(MessageOf(std::string(kLeast) + "[optimizer]\neps = 0\n"),
              HasSubstr("expected a number from 1e-30 to 1"));
}

// The comments of the recipes say how to train on other text.
TEST(TrainConfigTest, RecipesTakeOtherText) {
  const std::vector<std::string> overrides = {"data.train=[\"books/*.txt\"]", "data.valid=[]",
                                              "data.valid_fraction=0.01"};
  const std::filesystem::path recipe = ADDER_SOURCE_DIR "/configs/classics-20min.toml";
  const TrainConfig config = ReadTrainConfig(recipe, overrides);
  EXPECT_TRUE(config.data.valid.empty());
  const std::string text = ReadFile(recipe);
  for (const std::string& override : overrides) EXPECT_THAT(text, HasSubstr(override));
}

TEST(TrainConfigTest, PublishedSizesGiveDimensionsThatKeysOverride) {
  const TrainConfig config =
      ParseTrainConfig(std::string(kLeast) + "[model]\nn_layer = 3\nsize = \"130m\"\n", "run.toml");
  EXPECT_EQ(config.model.dimensions.d_model, 768);
  EXPECT_EQ(config.model.dimensions.n_layer, 3);
  EXPECT_EQ(config.model.dimensions.vocab_size, 256);
}

TEST(TrainConfigTest, WhatIsWrittenReadsBackTheSame) {
  TrainConfig config = ParseTrainConfig(kLeast, "run.toml");
  config.optimizer.lr = 1.0 / 3.0;
  config.train.minutes = 7.0;
  config.train.steps = 0;
  config.data.separator = "\n\"quoted\"\n\t\x01\x7f é";
  config.data.train = {"it's", "a\\b"};
  config.schedule.kind = ScheduleKind::kConstant;
  config.train.segment = 4096;
  const std::string text = TrainConfigToToml(config);
  const TrainConfig read = ParseTrainConfig(text, "written.toml");
  EXPECT_EQ(TrainConfigToToml(read), text);
  EXPECT_EQ(read.optimizer.lr, config.optimizer.lr);
  EXPECT_EQ(read.data.separator, config.data.separator);
  EXPECT_EQ(read.data.train, config.data.train);
  EXPECT_EQ(read.train.segment, 4096);
}

TEST(TrainConfigTest, TheReferenceDocumentsEveryKey) {
  const std::string reference = ReadFile(std::string(ADDER_SOURCE_DIR) + "/docs/training.md");
  for (const TrainConfigKey& key : TrainConfigKeys()) {
    const std::string name = key.name.substr(key.name.find('.') + 1);
    EXPECT_THAT(reference, HasSubstr(fmt::format("| `{}` | `{}` | {} | {} |", name,
                                                 key.default_value, key.expected, key.meaning)));
  }
}

}  // namespace
}  // namespace adder
