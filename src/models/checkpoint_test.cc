// Checkpoint directories: written and read back, sharded, in half the bits, and every way in which
// config and weights can contradict each other.
#include "adder/models/checkpoint.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "adder/core/error.h"
#include "adder/formats/file.h"
#include "adder/formats/json.h"
#include "adder/formats/safetensors.h"
#include "adder/formats/state_file.h"
#include "adder/models/hugging_face_config.h"
#include "adder/models/small_model_test.h"

namespace adder {
namespace {

namespace fs = std::filesystem;
using test::RandomTokens;
using test::SameBits;
using test::SmallConfig;
using test::SmallModel;

using Tensors = std::vector<std::pair<std::string, Tensor>>;

class CheckpointTest : public testing::Test {
 protected:
  CheckpointTest() {
    directory_ =
        fs::temp_directory_path() / ("adder_checkpoint_test." + std::to_string(getpid()) + "." +
                                     testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(directory_);
    fs::create_directories(directory_);
  }
  ~CheckpointTest() override { fs::remove_all(directory_); }

  static ModelConfig TinyConfig() {
    ModelConfig config = SmallConfig();
    config.n_layer = 2;
    return config;
  }
  static Tensors Values(const BlockLanguageModel& model) {
    Tensors tensors;
    for (const Parameter& p : model.parameters()) tensors.emplace_back(p.name, p.value);
    return tensors;
  }
  void WriteWeights(const Tensors& tensors) {
    WriteSafetensors(directory_ / "model.safetensors", tensors);
  }
  // Loads and expects an error with this code whose message holds all the texts.
  void ExpectLoadFails(ErrorCode code, const std::vector<std::string>& texts) {
    try {
      LoadModel(directory_, DType::kF32);
      ADD_FAILURE() << "loaded; expected an error with " << texts.front();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      for (const std::string& text : texts) {
        EXPECT_NE(std::string(error.what()).find(text), std::string::npos)
            << error.what() << "\nlacks: " << text;
      }
    }
  }

  fs::path directory_;
};

TEST_F(CheckpointTest, WrittenAndReadBackIsTheSameModel) {
  ModelConfig config = TinyConfig();
  for (const bool tied : {true, false}) {
    for (const bool biased : {true, false}) {
      config.tie_word_embeddings = tied;
      config.use_bias = biased;
      config.use_conv_bias = !biased;
      config.norm_eps = 3e-6;
      config.eos_token_id = 5;
      config.more_eos_token_ids.assign(tied ? 2 : 0, 7);
      const auto model = SmallModel(DType::kF32, config);
      SaveModel(*model, directory_, DType::kF32);
      const auto again = LoadModel(directory_, DType::kF32);
      EXPECT_EQ(HuggingFaceConfigJson(again->config(), DType::kF32),
                HuggingFaceConfigJson(model->config(), DType::kF32));
      ASSERT_EQ(again->parameters().size(), model->parameters().size());
      for (size_t i = 0; i < model->parameters().size(); ++i) {
        EXPECT_TRUE(SameBits(again->parameters()[i].value, model->parameters()[i].value));
      }
      EXPECT_EQ(again->fingerprint(), model->fingerprint());
    }
  }
}

TEST_F(CheckpointTest, WhatIsComputedWithIsReadBackExactlyInHalfTheBits) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    const auto model = SmallModel(dtype, TinyConfig());
    SaveModel(*model, directory_, dtype);
    const auto again = LoadModel(directory_, dtype);
    for (size_t i = 0; i < model->parameters().size(); ++i) {
      EXPECT_TRUE(SameBits(again->parameters()[i].compute, model->parameters()[i].compute))
          << model->parameters()[i].name;
    }
    const Tensor tokens = RandomTokens(20, 61, 1);
    const SequenceLayout layout = SequenceLayout::Single(20);
    EXPECT_TRUE(
        SameBits(again->Forward(tokens, layout, nullptr), model->Forward(tokens, layout, nullptr)));
    const SafetensorsFile file = SafetensorsFile::Open(directory_ / "model.safetensors");
    EXPECT_EQ(file.metadata().at("format"), "pt");  // transformers insists on it
    EXPECT_EQ(file.Get("backbone.layers.0.mixer.A_log").dtype(), DType::kF32);
    EXPECT_EQ(file.Get("backbone.layers.0.mixer.in_proj.weight").dtype(), dtype);
    const JsonObject json = JsonObject::Read(directory_ / "config.json");
    EXPECT_EQ(json.String("dtype"), dtype == DType::kBF16 ? "bfloat16" : "float16");
  }
}

TEST_F(CheckpointTest, WeightsInTheComputeDTypeAreMappedNotCopied) {
  const auto model = SmallModel(DType::kF32, TinyConfig());
  SaveModel(*model, directory_, DType::kF32);
  const auto loaded = LoadModel(directory_, DType::kF32);
  for (const Parameter& p : loaded->parameters()) {
    if (p.name.ends_with("A_log")) continue;
    EXPECT_EQ(p.compute.raw(), p.value.raw()) << p.name;
  }
  // A mapped model goes on working, and trains on values of its own, after its file is replaced.
  const Tensor tokens = RandomTokens(9, 61, 2);
  const SequenceLayout layout = SequenceLayout::Single(9);
  const Tensor before = loaded->Forward(tokens, layout, nullptr);
  SaveModel(*loaded, directory_, DType::kF32);
  loaded->PrepareTraining();
  EXPECT_TRUE(SameBits(loaded->Forward(tokens, layout, nullptr), before));
  EXPECT_NE(loaded->parameters()[0].value.raw(), nullptr);
  loaded->parameters()[0].value.SetZero();
  EXPECT_GT(test::MaxAbs(LoadModel(directory_, DType::kF32)->parameters()[0].value), 0);
}

TEST_F(CheckpointTest, EveryFileDTypeLoadsForEveryComputeDType) {
  const auto model = SmallModel(DType::kF32, TinyConfig());
  const Tensor tokens = RandomTokens(9, 61, 3);
  const SequenceLayout layout = SequenceLayout::Single(9);
  const Tensor expected = model->Forward(tokens, layout, nullptr);
  for (const DType file : {DType::kF32, DType::kBF16, DType::kF16}) {
    SaveModel(*model, directory_, file);
    // As other software writes it: every tensor in the file's dtype.
    Tensors tensors = Values(*model);
    for (auto& [name, tensor] : tensors) tensor = tensor.To(file);
    WriteWeights(tensors);
    for (const DType compute : {DType::kF32, DType::kBF16, DType::kF16}) {
      const auto loaded = LoadModel(directory_, compute);
      // The coarser of the two roundings, bf16's 0.4 %, a few times over.
      EXPECT_TRUE(test::Near(loaded->Forward(tokens, layout, nullptr), expected, 0.03));
      loaded->PrepareTraining();
      EXPECT_EQ(loaded->parameters()[0].value.dtype(), DType::kF32);
    }
  }
}

TEST_F(CheckpointTest, ASavedStateGoesOnInAnotherProcessesModelAsIfNeverSaved) {
  const auto model = SmallModel(DType::kF32, TinyConfig());
  const Tensor tokens = RandomTokens(40, 61, 4);
  const SequenceLayout half = SequenceLayout::Single(20);
  State state;
  model->Forward(tokens.Rows(0, 20), half, &state);
  SaveModel(*model, directory_, DType::kF32);
  WriteState(directory_ / "state", state);

  const auto loaded = LoadModel(directory_, DType::kF32);
  State restored = ReadStateFor(directory_ / "state", loaded->InitialState(1));
  EXPECT_TRUE(restored == state);
  EXPECT_TRUE(SameBits(loaded->Forward(tokens.Rows(20, 20), half, &restored),
                       model->Forward(tokens.Rows(20, 20), half, &state)));
  EXPECT_TRUE(restored == state);

  const auto other = SmallModel(DType::kF32);
  EXPECT_THROW(ReadStateFor(directory_ / "state", other->InitialState(1)), Error);
}

TEST_F(CheckpointTest, ReadsShards) {
  const auto model = SmallModel(DType::kF32, TinyConfig());
  SaveModel(*model, directory_, DType::kF32);
  const Tensors all = Values(*model);
  const size_t half = all.size() / 2;
  WriteSafetensors(directory_ / "model-00001-of-00002.safetensors", std::span(all).first(half));
  WriteSafetensors(directory_ / "model-00002-of-00002.safetensors", std::span(all).subspan(half));
  JsonValue::Object map;
  for (size_t i = 0; i < all.size(); ++i) {
    map.push_back({all[i].first, i < half ? "model-00001-of-00002.safetensors"
                                          : "model-00002-of-00002.safetensors"});
  }
  fs::remove(directory_ / "model.safetensors");
  WriteFileAtomically(directory_ / "model.safetensors.index.json",
                      JsonValue(JsonValue::Object{{"metadata", JsonValue::Object{}},
                                                  {"weight_map", std::move(map)}})
                          .ToText());
  EXPECT_EQ(LoadModel(directory_, DType::kF32)->fingerprint(), model->fingerprint());
  fs::remove(directory_ / "model-00002-of-00002.safetensors");
  ExpectLoadFails(ErrorCode::kNotFound, {"model-00002-of-00002.safetensors"});
}

TEST_F(CheckpointTest, NamesTheTensorOfTheWrongShape) {
  const auto model = SmallModel(DType::kF32, TinyConfig());
  SaveModel(*model, directory_, DType::kF32);
  Tensors tensors = Values(*model);
  for (auto& [name, tensor] : tensors) {
    if (name == "backbone.layers.1.mixer.A_log") tensor = Tensor::Zeros({80, 4}, DType::kF32);
  }
  WriteWeights(tensors);
  ExpectLoadFails(ErrorCode::kCorrupt,
                  {"model.safetensors: tensor backbone.layers.1.mixer.A_log has shape [80, 4], "
                   "config says [80, 8]"});
}

TEST_F(CheckpointTest, NamesTensorsThatAreMissingUnexpectedOrNoFloats) {
  const auto model = SmallModel(DType::kF32, TinyConfig());
  SaveModel(*model, directory_, DType::kF32);
  const Tensors all = Values(*model);
  Tensors tensors(all.begin() + 1, all.end());
  WriteWeights(tensors);
  ExpectLoadFails(ErrorCode::kCorrupt, {"lack backbone.embeddings.weight"});

  tensors = all;
  tensors.emplace_back("backbone.layers.2.mixer.D", Tensor::Zeros({80}, DType::kF32));
  WriteWeights(tensors);
  ExpectLoadFails(ErrorCode::kCorrupt, {"no parameter", "backbone.layers.2.mixer.D"});

  tensors = all;
  tensors[1].second = Tensor::Zeros(tensors[1].second.shape(), DType::kI32);
  WriteWeights(tensors);
  ExpectLoadFails(ErrorCode::kUnsupported, {tensors[1].first, "i32", "f32, bf16 or f16"});

  fs::remove(directory_ / "model.safetensors");
  ExpectLoadFails(ErrorCode::kNotFound, {"model.safetensors"});
  fs::remove(directory_ / "config.json");
  ExpectLoadFails(ErrorCode::kNotFound, {"config.json"});
}

TEST_F(CheckpointTest, ATiedHeadStoredASecondTimeMustBeTheEmbedding) {
  const auto model = SmallModel(DType::kF32, TinyConfig());
  SaveModel(*model, directory_, DType::kF32);
  Tensors tensors = Values(*model);
  tensors.emplace_back("lm_head.weight", tensors.front().second);
  WriteWeights(tensors);
  EXPECT_EQ(LoadModel(directory_, DType::kF32)->fingerprint(), model->fingerprint());
  tensors.back().second = tensors.front().second.Clone();
  tensors.back().second.data<float>()[7] += 1;
  WriteWeights(tensors);
  ExpectLoadFails(ErrorCode::kCorrupt, {"lm_head.weight", "differs from the embedding"});
}

TEST_F(CheckpointTest, HugeSizesInTheConfigAllocateNothing) {
  const auto model = SmallModel(DType::kF32, TinyConfig());
  SaveModel(*model, directory_, DType::kF32);
  ModelConfig config = TinyConfig();
  config.n_layer = ModelConfig::kMostLayers;
  WriteFileAtomically(directory_ / "config.json", HuggingFaceConfigJson(config, DType::kF32));
  ExpectLoadFails(ErrorCode::kCorrupt, {"too few for the 65536 layers"});
  config = TinyConfig();
  config.vocab_size = ModelConfig::kLargestVocabulary;
  config.d_model = ModelConfig::kLargestDimension;
  WriteFileAtomically(directory_ / "config.json", HuggingFaceConfigJson(config, DType::kF32));
  ExpectLoadFails(ErrorCode::kCorrupt, {"backbone.embeddings.weight", "config says [2147483647"});
}

TEST_F(CheckpointTest, UnwritableDirectoriesAndOtherDTypesAreErrors) {
  const auto model = SmallModel(DType::kF32, TinyConfig());
  EXPECT_THROW(SaveModel(*model, directory_ / "absent", DType::kF32), Error);
  EXPECT_THROW(SaveModel(*model, directory_, DType::kI8), Error);
  EXPECT_THROW(SaveModel(BlockLanguageModel(TinyConfig(), DType::kF32), directory_, DType::kF32),
               Error);
  EXPECT_TRUE(fs::is_empty(directory_));
}

TEST(HuggingFaceConfigTest, ReadsWhatHuggingFaceWrites) {
  const fs::path goldens = fs::path(ADDER_SOURCE_DIR) / "tests" / "goldens";
  const ModelConfig config = ReadModelConfig(goldens / "mamba-untied-bias");
  EXPECT_EQ(config.vocab_size, 101);
  EXPECT_EQ(config.d_model, 48);
  EXPECT_EQ(config.n_layer, 2);
  EXPECT_EQ(config.d_state, 8);
  EXPECT_EQ(config.d_conv, 4);
  EXPECT_EQ(config.d_inner, 96);
  EXPECT_EQ(config.dt_rank, 6);
  EXPECT_TRUE(config.use_bias);
  EXPECT_TRUE(config.use_conv_bias);
  EXPECT_FALSE(config.tie_word_embeddings);
  EXPECT_FALSE(config.rescale_prenorm_residual);
  EXPECT_EQ(config.norm_eps, 1e-5);
  EXPECT_EQ(config.initializer_range, 0.1);
  EXPECT_EQ(config.eos_token_id, 0);

  // What is written has the fields that Hugging Face writes, with equal values, bar those that
  // steer only its own software.
  const JsonObject theirs = JsonObject::Read(goldens / "mamba-untied-bias" / "config.json");
  const JsonObject ours = JsonObject::Parse(HuggingFaceConfigJson(config, DType::kF32), "ours");
  for (const JsonValue::Member& field : *ours.value().AsObject()) {
    const JsonValue* value = theirs.value().Find(field.key);
    ASSERT_NE(value, nullptr) << field.key;
    EXPECT_EQ(*value, field.value) << field.key;
  }
}

TEST(HuggingFaceConfigTest, AbsentFieldsHaveHuggingFacesDefaults) {
  const ModelConfig config = ParseModelConfig(
      R"({"model_type": "mamba", "vocab_size": 10, "hidden_size": 33, "num_hidden_layers": 1,
          "time_step_rank": "auto", "eos_token_id": null, "bos_token_id": [3, 4], "unknown": {}})",
      "config.json");
  EXPECT_EQ(config.d_inner, 66);
  EXPECT_EQ(config.dt_rank, 3);
  EXPECT_EQ(config.d_state, 16);
  EXPECT_TRUE(config.use_bias);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_EQ(config.eos_token_id, -1);
  EXPECT_TRUE(config.EndTokens().empty());
  EXPECT_EQ(config.bos_token_id, 3);
}

TEST(HuggingFaceConfigTest, SeveralTokensMayEndAText) {
  const ModelConfig config = ParseModelConfig(
      R"({"model_type": "mamba", "vocab_size": 10, "hidden_size": 33, "num_hidden_layers": 1,
          "time_step_rank": "auto", "eos_token_id": [4, 7, 5]})",
      "config.json");
  EXPECT_EQ(config.eos_token_id, 4);
  EXPECT_EQ(config.EndTokens(), (std::vector<int64_t>{4, 7, 5}));
  const JsonObject written = JsonObject::Parse(HuggingFaceConfigJson(config, DType::kF32), "ours");
  EXPECT_EQ(*written.value().Find("eos_token_id"), JsonValue(JsonValue::Array{4, 7, 5}));
}

TEST(HuggingFaceConfigTest, RefusesHostileValuesAndNamesTheField) {
  struct Case {
    const char* field;
    const char* value;
    ErrorCode code;
  };
  const Case cases[] = {
      {"model_type", "\"rwkv\"", ErrorCode::kUnsupported},
      {"model_type", "3", ErrorCode::kCorrupt},
      {"architectures", "[\"LlamaForCausalLM\"]", ErrorCode::kUnsupported},
      {"architectures", "\"MambaForCausalLM\"", ErrorCode::kCorrupt},
      {"hidden_act", "\"gelu\"", ErrorCode::kUnsupported},
      {"vocab_size", "0", ErrorCode::kCorrupt},
      {"vocab_size", "1e3", ErrorCode::kCorrupt},
      {"vocab_size", "4294967296", ErrorCode::kCorrupt},
      {"hidden_size", "-64", ErrorCode::kCorrupt},
      {"hidden_size", "9223372036854775807", ErrorCode::kCorrupt},
      {"hidden_size", "123456789012345678901234567890", ErrorCode::kCorrupt},
      {"hidden_size", "\"64\"", ErrorCode::kCorrupt},
      {"hidden_size", "null", ErrorCode::kCorrupt},
      {"num_hidden_layers", "1000000000000", ErrorCode::kCorrupt},
      {"state_size", "0", ErrorCode::kCorrupt},
      {"conv_kernel", "1", ErrorCode::kCorrupt},
      {"conv_kernel", "9", ErrorCode::kCorrupt},
      {"expand", "2.5", ErrorCode::kCorrupt},
      {"intermediate_size", "-1", ErrorCode::kCorrupt},
      {"time_step_rank", "\"big\"", ErrorCode::kCorrupt},
      {"time_step_rank", "[]", ErrorCode::kCorrupt},
      {"use_bias", "1", ErrorCode::kCorrupt},
      {"tie_word_embeddings", "\"yes\"", ErrorCode::kCorrupt},
      {"layer_norm_epsilon", "-1", ErrorCode::kCorrupt},
      {"time_step_min", "0", ErrorCode::kCorrupt},
      {"eos_token_id", "97", ErrorCode::kCorrupt},
      {"eos_token_id", "[5, 97]", ErrorCode::kCorrupt},
      {"eos_token_id", "[5, \"</s>\"]", ErrorCode::kCorrupt},
      {"eos_token_id", "\"</s>\"", ErrorCode::kCorrupt},
  };
  for (const Case& c : cases) {
    // The case's field replaces the valid one or joins them.
    std::map<std::string, std::string> fields = {{"vocab_size", "97"},
                                                 {"hidden_size", "64"},
                                                 {"num_hidden_layers", "2"},
                                                 {"model_type", "\"mamba\""}};
    fields[c.field] = c.value;
    std::string text;
    for (const auto& [key, value] : fields) {
      text += fmt::format("{}\"{}\": {}", text.empty() ? "{" : ", ", key, value);
    }
    text += "}";
    try {
      ParseModelConfig(text, "config.json");
      ADD_FAILURE() << c.field << " " << c.value << " was accepted";
    } catch (const Error& error) {
      const std::string message = error.what();
      EXPECT_EQ(error.code(), c.code) << message;
      EXPECT_EQ(message.find("config.json:"), 0u) << message;
      EXPECT_NE(message.find(c.field), std::string::npos) << message;
    }
  }
  EXPECT_THROW(ParseModelConfig("{}", "config.json"), Error);
  EXPECT_THROW(ParseModelConfig("[]", "config.json"), Error);
  EXPECT_THROW(ParseModelConfig("", "config.json"), Error);
}

}  // namespace
}  // namespace adder
