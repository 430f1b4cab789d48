// The tokenizer of bytes, and its form in Hugging Face's files: a BPE without merges over the 256
// characters by which byte-level BPE writes bytes.
#include <algorithm>
#include <array>

#include "adder/core/error.h"
#include "adder/formats/file.h"
#include "adder/formats/json.h"
#include "adder/text/byte_level.h"
#include "adder/text/tokenizer.h"
#include "adder/text/vocabulary.h"

namespace adder {
namespace {

constexpr std::array<char, 256> AllBytes() {
  std::array<char, 256> bytes = {};
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i);
  return bytes;
}

// Hugging Face's byte-level step as it is written where it neither adds a space nor splits words.
JsonValue ByteLevelStep() {
  return JsonValue::Object{{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", false},
                           {"use_regex", false}};
}

JsonValue TokenizerJson() {
  JsonValue::Object vocab;
  for (int byte = 0; byte < 256; ++byte) {
    vocab.push_back({ByteLevelCharacter(static_cast<unsigned char>(byte)), byte});
  }
  return JsonValue::Object{{"version", "1.0"},
                           {"truncation", JsonValue()},
                           {"padding", JsonValue()},
                           {"added_tokens", JsonValue::Array{}},
                           {"normalizer", JsonValue()},
                           {"pre_tokenizer", ByteLevelStep()},
                           {"post_processor", JsonValue()},
                           {"decoder", ByteLevelStep()},
                           {"model", JsonValue::Object{{"type", "BPE"},
                                                       {"dropout", JsonValue()},
                                                       {"unk_token", JsonValue()},
                                                       {"continuing_subword_prefix", JsonValue()},
                                                       {"end_of_word_suffix", JsonValue()},
                                                       {"fuse_unk", false},
                                                       {"byte_fallback", false},
                                                       {"ignore_merges", false},
                                                       {"vocab", std::move(vocab)},
                                                       {"merges", JsonValue::Array{}}}}};
}

JsonValue TokenizerConfigJson() {
  return JsonValue::Object{{"tokenizer_class", "PreTrainedTokenizerFast"},
                           {"clean_up_tokenization_spaces", false},
                           {"model_max_length", int64_t{1} << 53},
                           {"added_tokens_decoder", JsonValue::Object{}}};
}

}  // namespace

std::vector<int32_t> ByteTokenizer::Encode(std::string_view text) const {
  const auto* bytes = reinterpret_cast<const unsigned char*>(text.data());
  return {bytes, bytes + text.size()};
}

size_t ByteTokenizer::PartLength(std::string_view text, size_t bytes) const {
  return std::min(text.size(), std::max<size_t>(1, bytes));
}

Vocabulary ByteTokenizer::ToVocabulary() const {
  Vocabulary vocabulary;
  vocabulary.model = "gpt2";
  vocabulary.pre = "gpt-2";
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary.tokens.push_back(ByteLevelCharacter(static_cast<unsigned char>(byte)));
  }
  vocabulary.types.assign(vocabulary.tokens.size(), TokenType::kNormal);
  return vocabulary;
}

std::string_view ByteTokenizer::Bytes(int32_t token) const {
  static constexpr std::array<char, 256> kBytes = AllBytes();
  if (token < 0 || token >= 256) {
    throw Error(ErrorCode::kInvalidArgument,
                "token " + std::to_string(token) + " of a byte tokenizer, expected 0 to 255");
  }
  return {&kBytes[static_cast<size_t>(token)], 1};
}

void ByteTokenizer::Save(const std::filesystem::path& directory) const {
  WriteFileAtomically(directory / "tokenizer.json", TokenizerJson().ToText(2) + "\n");
  WriteFileAtomically(directory / "tokenizer_config.json", TokenizerConfigJson().ToText(2) + "\n");
}

}  // namespace adder
