#include "adder/text/vocabulary.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "adder/core/error.h"
#include "adder/formats/json.h"
#include "adder/text/utf8.h"
#include "adder/text/word_patterns.h"

namespace adder {
namespace {

// SentencePiece's pieces have 16 characters, others' a few more.
constexpr size_t kLongestPiece = 1024;
constexpr const char* kMetaspace = "\u2581";

using Ids = std::unordered_map<std::string_view, size_t>;

JsonValue ByteLevelStep(bool use_regex) {
  return JsonValue::Object{{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", true},
                           {"use_regex", use_regex}};
}

JsonValue SplitStep(std::string_view pattern) {
  return JsonValue::Object{{"type", "Split"},
                           {"pattern", JsonValue::Object{{"Regex", pattern}}},
                           {"behavior", "Isolated"},
                           {"invert", false}};
}

JsonValue ReplaceStep(const char* from, const char* to) {
  return JsonValue::Object{
      {"type", "Replace"}, {"pattern", JsonValue::Object{{"String", from}}}, {"content", to}};
}

JsonValue Sequence(const char* key, JsonValue::Array steps) {
  return JsonValue::Object{{"type", "Sequence"}, {key, std::move(steps)}};
}

class Builder {
 public:
  Builder(const Vocabulary& vocabulary, std::string_view source)
      : vocabulary_(vocabulary), source_(source) {}

  std::string Build() {
    Check();
    if (vocabulary_.model != "gpt2" && vocabulary_.model != "llama") {
      Fail(fmt::format("the tokenizer is of the kind {}, expected \"gpt2\" or \"llama\"",
                       JsonQuote(vocabulary_.model, 60)),
           ErrorCode::kUnsupported);
    }
    const bool byte_level = vocabulary_.model == "gpt2";
    JsonValue normalizer;
    JsonValue pre_tokenizer;
    JsonValue decoder;
    if (byte_level) {
      std::tie(normalizer, pre_tokenizer) = ByteLevelCutting();
      decoder = ByteLevelStep(true);
    } else {
      JsonValue::Array steps;
      JsonValue::Array decoders = {ReplaceStep(kMetaspace, " "),
                                   JsonValue::Object{{"type", "ByteFallback"}},
                                   JsonValue::Object{{"type", "Fuse"}}};
      if (vocabulary_.add_space_prefix) {
        steps.push_back(JsonValue::Object{{"type", "Prepend"}, {"prepend", kMetaspace}});
        decoders.push_back(
            JsonValue::Object{{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
      }
      steps.push_back(ReplaceStep(" ", kMetaspace));
      normalizer = Sequence("normalizers", std::move(steps));
      decoder = Sequence("decoders", std::move(decoders));
    }
    JsonValue unknown;
    if (vocabulary_.unknown >= 0) unknown = Text(vocabulary_.unknown);
    const JsonValue json(JsonValue::Object{
        {"version", "1.0"},
        {"truncation", JsonValue()},
        {"padding", JsonValue()},
        {"added_tokens", AddedTokens()},
        {"normalizer", std::move(normalizer)},
        {"pre_tokenizer", std::move(pre_tokenizer)},
        {"post_processor", PostProcessor(byte_level)},
        {"decoder", std::move(decoder)},
        {"model", JsonValue::Object{{"type", "BPE"},
                                    {"dropout", JsonValue()},
                                    {"unk_token", std::move(unknown)},
                                    {"continuing_subword_prefix", JsonValue()},
                                    {"end_of_word_suffix", JsonValue()},
                                    {"fuse_unk", !byte_level},
                                    {"byte_fallback", !byte_level},
                                    {"ignore_merges", vocabulary_.pre == "llama-bpe"},
                                    {"vocab", Vocab()},
                                    {"merges", Merges()}}}});
    return json.ToText(2) + "\n";
  }

 private:
  [[noreturn]] void Fail(const std::string& message, ErrorCode code = ErrorCode::kCorrupt) const {
    throw Error(code, fmt::format("{}: {}", source_, message));
  }

  TokenType Type(size_t id) const {
    return vocabulary_.types.empty() ? TokenType::kNormal : vocabulary_.types[id];
  }
  const std::string& Text(int32_t id) const { return vocabulary_.tokens[static_cast<size_t>(id)]; }
  bool IsAdded(size_t id) const {
    return Type(id) == TokenType::kControl || Type(id) == TokenType::kUserDefined ||
           Type(id) == TokenType::kUnknown;
  }

  void Check() {
    const size_t count = vocabulary_.tokens.size();
    if (count == 0) Fail("the tokenizer has no tokens");
    const auto check_size = [&](size_t size, const char* what) {
      if (size != 0 && size != count) Fail(fmt::format("{} tokens, but {} {}", count, size, what));
    };
    check_size(vocabulary_.types.size(), "types of them");
    check_size(vocabulary_.scores.size(), "scores of them");
    const std::array<std::pair<int32_t, const char*>, 4> special = {
        {{vocabulary_.bos, "begin"},
         {vocabulary_.eos, "end"},
         {vocabulary_.unknown, "unknown"},
         {vocabulary_.padding, "padding"}}};
    for (const auto& [id, name] : special) {
      if (id < -1 || id >= static_cast<int64_t>(count)) {
        Fail(fmt::format("the {} token is {}, expected 0 to {} or none", name, id, count - 1));
      }
    }
    if ((vocabulary_.add_bos && vocabulary_.bos < 0) ||
        (vocabulary_.add_eos && vocabulary_.eos < 0)) {
      Fail("a begin or end token is to be added, but there is none");
    }
    for (size_t id = 0; id < count; ++id) {
      const std::string& text = vocabulary_.tokens[id];
      if (ValidUtf8Length(text) != text.size()) {
        Fail(fmt::format("token {} is not UTF-8", id));
      }
      if (Type(id) == TokenType::kUnused) continue;
      if (text.empty()) Fail(fmt::format("token {} is empty", id));
      if (!ids_.emplace(text, id).second) {
        Fail(fmt::format("the tokens {} and {} are both {}", ids_.at(text), id,
                         JsonQuote(text, 60)));
      }
    }
  }

  std::pair<JsonValue, JsonValue> ByteLevelCutting() const {
    const std::string& pre = vocabulary_.pre;
    const JsonValue nfc(JsonValue::Object{{"type", "NFC"}});
    if (pre.empty() || pre == "gpt-2") return {JsonValue(), ByteLevelStep(true)};
    if (pre == "gpt-neox" || pre == "mpt" || pre == "olmo" || pre == "mamba") {
      return {nfc, ByteLevelStep(true)};
    }
    const auto split = [](std::string_view pattern) {
      return Sequence("pretokenizers", {SplitStep(pattern), ByteLevelStep(false)});
    };
    if (pre == "llama-bpe") return {JsonValue(), split(kLlama3Pattern)};
    if (pre == "qwen2") return {nfc, split(kQwen2Pattern)};
    if (pre == "falcon") {
      const JsonValue punctuation(
          JsonValue::Object{{"type", "Punctuation"}, {"behavior", "Contiguous"}});
      const JsonValue digits(JsonValue::Object{{"type", "Digits"}, {"individual_digits", false}});
      return {JsonValue(), Sequence("pretokenizers", {punctuation, ByteLevelStep(true), digits,
                                                      SplitStep(kThreeDigitsPattern)})};
    }
    Fail(fmt::format("text is cut into words in the way {}, expected \"gpt-2\", \"gpt-neox\", "
                     "\"mpt\", \"olmo\", \"mamba\", \"falcon\", \"llama-bpe\" or \"qwen2\"",
                     JsonQuote(pre, 60)),
         ErrorCode::kUnsupported);
  }

  JsonValue AddedTokens() const {
    JsonValue::Array added;
    for (size_t id = 0; id < vocabulary_.tokens.size(); ++id) {
      if (!IsAdded(id)) continue;
      const bool special = Type(id) != TokenType::kUserDefined;
      added.push_back(JsonValue::Object{{"id", id},
                                        {"content", vocabulary_.tokens[id]},
                                        {"single_word", false},
                                        {"lstrip", false},
                                        {"rstrip", false},
                                        {"normalized", !special && vocabulary_.model == "gpt2"},
                                        {"special", special}});
    }
    return added;
  }

  JsonValue PostProcessor(bool byte_level) const {
    if (!vocabulary_.add_bos && !vocabulary_.add_eos) {
      return byte_level ? ByteLevelStep(true) : JsonValue();
    }
    const JsonValue text(
        JsonValue::Object{{"Sequence", JsonValue::Object{{"id", "A"}, {"type_id", 0}}}});
    JsonValue::Array single = {text};
    JsonValue::Object special;
    const auto add = [&](int32_t id, bool before) {
      const std::string& name = Text(id);
      const JsonValue part(
          JsonValue::Object{{"SpecialToken", JsonValue::Object{{"id", name}, {"type_id", 0}}}});
      single.insert(before ? single.begin() : single.end(), part);
      const auto same = [&](const JsonValue::Member& member) { return member.key == name; };
      if (std::any_of(special.begin(), special.end(), same)) return;
      special.push_back({name, JsonValue::Object{{"id", name},
                                                 {"ids", JsonValue::Array{id}},
                                                 {"tokens", JsonValue::Array{name}}}});
    };
    if (vocabulary_.add_bos) add(vocabulary_.bos, true);
    if (vocabulary_.add_eos) add(vocabulary_.eos, false);
    const JsonValue second(
        JsonValue::Object{{"Sequence", JsonValue::Object{{"id", "B"}, {"type_id", 0}}}});
    JsonValue::Array pair = single;
    pair.push_back(second);
    return JsonValue::Object{{"type", "TemplateProcessing"},
                             {"single", std::move(single)},
                             {"pair", std::move(pair)},
                             {"special_tokens", std::move(special)}};
  }

  // Tokens that are found in the text stand here too, for Hugging Face's tokenizers give those that
  // do not ids behind all others.
  JsonValue Vocab() const {
    JsonValue::Object vocab;
    for (size_t id = 0; id < vocabulary_.tokens.size(); ++id) {
      if (Type(id) != TokenType::kUnused) vocab.push_back({vocabulary_.tokens[id], id});
    }
    return vocab;
  }

  JsonValue Merges() const {
    JsonValue::Array merges;
    if (vocabulary_.merges.empty() && vocabulary_.model == "llama") return MergesByScore();
    for (const std::string& merge : vocabulary_.merges) merges.push_back(merge);
    return merges;
  }

  // Every way to make a token of two others, those of the highest score first; SentencePiece merges
  // in this order.
  JsonValue MergesByScore() const {
    struct Merge {
      float score;
      size_t left;
      size_t right;
    };
    std::vector<Merge> merges;
    if (vocabulary_.scores.empty()) return JsonValue::Array{};
    for (size_t id = 0; id < vocabulary_.tokens.size(); ++id) {
      if (Type(id) != TokenType::kNormal) continue;
      const std::string_view text = vocabulary_.tokens[id];
      const float score = vocabulary_.scores[id];
      if (!std::isfinite(score)) Fail(fmt::format("the score of token {} is {}", id, score));
      if (text.size() > kLongestPiece) {
        Fail(fmt::format("token {} has {} bytes, expected at most {}", id, text.size(),
                         kLongestPiece));
      }
      const auto begin = static_cast<std::ptrdiff_t>(merges.size());
      for (size_t at = ReadUtf8(text.data()).length; at < text.size();
           at += ReadUtf8(text.data() + at).length) {
        const auto left = ids_.find(text.substr(0, at));
        const auto right = ids_.find(text.substr(at));
        if (left != ids_.end() && right != ids_.end()) {
          merges.push_back({score, left->second, right->second});
        }
      }
      std::sort(merges.begin() + begin, merges.end(), [](const Merge& a, const Merge& b) {
        return std::tie(a.left, a.right) < std::tie(b.left, b.right);
      });
    }
    const auto size = [&](size_t id) { return vocabulary_.tokens[id].size(); };
    std::stable_sort(merges.begin(), merges.end(), [&](const Merge& a, const Merge& b) {
      return std::tuple(a.score, size(a.left), size(a.right)) >
             std::tuple(b.score, size(b.left), size(b.right));
    });
    JsonValue::Array pairs;
    pairs.reserve(merges.size());
    for (const Merge& merge : merges) {
      pairs.push_back(
          JsonValue::Array{vocabulary_.tokens[merge.left], vocabulary_.tokens[merge.right]});
    }
    return pairs;
  }

  const Vocabulary& vocabulary_;
  std::string_view source_;
  Ids ids_;
};

}  // namespace

std::string TokenizerJson(const Vocabulary& vocabulary, std::string_view source) {
  return Builder(vocabulary, source).Build();
}

std::string TokenizerConfigJson(const Vocabulary& vocabulary) {
  JsonValue::Object config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                              {"clean_up_tokenization_spaces", false},
                              {"model_max_length", int64_t{1} << 53}};
  const auto add = [&](const char* name, int32_t id) {
    if (id >= 0) config.push_back({name, vocabulary.tokens[static_cast<size_t>(id)]});
  };
  add("bos_token", vocabulary.bos);
  add("eos_token", vocabulary.eos);
  add("unk_token", vocabulary.unknown);
  add("pad_token", vocabulary.padding);
  return JsonValue(std::move(config)).ToText(2) + "\n";
}

}  // namespace adder
