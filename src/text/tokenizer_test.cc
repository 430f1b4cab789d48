// The byte tokenizer, its files, and which model directories are recognised.
#include "adder/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <set>
#include <string>

#include "adder/core/error.h"
#include "adder/formats/file.h"
#include "adder/formats/json.h"
#include "adder/text/byte_level.h"
#include "tests/temporary_directory.h"

namespace adder {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::string AllBytes() {
  std::string bytes;
  for (int i = 0; i < 256; ++i) bytes += static_cast<char>(i);
  return bytes;
}

std::string MessageOf(ErrorCode code, const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

TEST(ByteTokenizerTest, TokensAreBytes) {
  const ByteTokenizer tokenizer;
  EXPECT_EQ(tokenizer.vocab_size(), 256);
  const std::vector<int32_t> tokens = tokenizer.Encode(AllBytes());
  ASSERT_EQ(tokens.size(), 256u);
  std::string back;
  for (int32_t i = 0; i < 256; ++i) {
    EXPECT_EQ(tokens[static_cast<size_t>(i)], i);
    back += tokenizer.Bytes(i);
  }
  EXPECT_EQ(back, AllBytes());
  EXPECT_TRUE(tokenizer.Encode("").empty());
  MessageOf(ErrorCode::kInvalidArgument, [&] { tokenizer.Bytes(256); });
  MessageOf(ErrorCode::kInvalidArgument, [&] { tokenizer.Bytes(-1); });
}

TEST(ByteLevelCharacterTest, IsTheAlphabetOfGpt2) {
  EXPECT_EQ(ByteLevelCharacter('A'), "A");
  EXPECT_EQ(ByteLevelCharacter(' '), "Ġ");
  EXPECT_EQ(ByteLevelCharacter('\n'), "Ċ");
  EXPECT_EQ(ByteLevelCharacter(0x00), "Ā");
  EXPECT_EQ(ByteLevelCharacter(0x7f), "ġ");
  EXPECT_EQ(ByteLevelCharacter(0xa0), "ł");
  EXPECT_EQ(ByteLevelCharacter(0xa1), "¡");
  EXPECT_EQ(ByteLevelCharacter(0xad), "Ń");
  EXPECT_EQ(ByteLevelCharacter(0xff), "ÿ");
  std::set<std::string> characters;
  for (int i = 0; i < 256; ++i)
    characters.insert(ByteLevelCharacter(static_cast<unsigned char>(i)));
  EXPECT_EQ(characters.size(), 256u);
}

class TokenizerLoadTest : public testing::Test {
 protected:
  void Write(const std::string& name, const std::string& content) const {
    WriteFileAtomically(directory_.path() / name, content);
  }
  std::string LoadError(ErrorCode code) const {
    return MessageOf(code, [&] { Tokenizer::Load(directory_.path()); });
  }

  TemporaryDirectory directory_;
};

TEST_F(TokenizerLoadTest, KnowsWhatSaveWrote) {
  ByteTokenizer().Save(directory_.path());
  const auto tokenizer = Tokenizer::Load(directory_.path());
  EXPECT_NE(dynamic_cast<const ByteTokenizer*>(tokenizer.get()), nullptr);
  const JsonObject config = JsonObject::Read(directory_.path() / "tokenizer_config.json");
  EXPECT_EQ(config.String("tokenizer_class"), "PreTrainedTokenizerFast");
}

TEST_F(TokenizerLoadTest, TakesAByteVocabularyWithoutTokenizerFile) {
  Write("config.json", R"({"vocab_size": 256})");
  EXPECT_EQ(Tokenizer::Load(directory_.path())->vocab_size(), 256);
}

TEST_F(TokenizerLoadTest, NamesWhatItDoesNotKnow) {
  LoadError(ErrorCode::kNotFound);
  Write("config.json", R"({"vocab_size": 50280})");
  EXPECT_THAT(LoadError(ErrorCode::kUnsupported),
              AllOf(HasSubstr("no tokenizer.json"), HasSubstr("50280")));
  Write("config.json", R"({"vocab_size": "x"})");
  LoadError(ErrorCode::kCorrupt);
  Write("config.json", R"({"vocab_size": 256})");
  Write("tokenizer.model", "");
  EXPECT_THAT(LoadError(ErrorCode::kUnsupported), HasSubstr("tokenizer.model"));
  Write("tokenizer.json", R"({"model": {"type": "WordPiece", "vocab": {"a": 0}}})");
  EXPECT_THAT(LoadError(ErrorCode::kUnsupported),
              AllOf(HasSubstr("tokenizer.json: field \"model.type\" is \"WordPiece\""),
                    HasSubstr("expected \"BPE\"")));
  Write("tokenizer.json", "{}");
  LoadError(ErrorCode::kCorrupt);
  Write("tokenizer.json", "{\"model\":");
  LoadError(ErrorCode::kCorrupt);
}

// Whatever changes what text becomes makes it another tokenizer.
TEST_F(TokenizerLoadTest, ByteTokenizersThatDoMoreAreOthers) {
  ByteTokenizer().Save(directory_.path());
  const std::string text = ReadFile(directory_.path() / "tokenizer.json");
  const auto changed = [&](const std::string& from, const std::string& to) {
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return std::string(text).replace(at, from.size(), to);
  };
  const auto is_bytes = [](const std::string& json) {
    const auto tokenizer = Tokenizer::Parse(json, "tokenizer.json");
    return dynamic_cast<const ByteTokenizer*>(tokenizer.get()) != nullptr;
  };
  EXPECT_TRUE(is_bytes(text));
  EXPECT_TRUE(is_bytes(changed("\"use_regex\": false", "\"use_regex\": true")));
  EXPECT_FALSE(is_bytes(changed("\"normalizer\": null", "\"normalizer\": {\"type\": \"NFC\"}")));
  EXPECT_FALSE(is_bytes(changed("\"pre_tokenizer\": {\n    \"add_prefix_space\": false",
                                "\"pre_tokenizer\": {\n    \"add_prefix_space\": true")));
  EXPECT_FALSE(is_bytes(changed("\"A\": 65", "\"A\": 256")));
  EXPECT_FALSE(is_bytes(
      changed("\"added_tokens\": []", "\"added_tokens\": [{\"id\": 256, \"content\": \"<s>\"}]")));
}

}  // namespace
}  // namespace adder
