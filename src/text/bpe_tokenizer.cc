#include "adder/text/bpe_tokenizer.h"

#include <fmt/core.h>
#include <xxhash.h>

#include <algorithm>
#include <utility>

#include "adder/core/error.h"
#include "adder/formats/file.h"
#include "adder/text/gpt2_words.h"
#include "adder/text/text_cut.h"
#include "adder/text/token_decoder.h"
#include "adder/text/utf8.h"

namespace adder {
namespace {

// Ids beyond the number of tokens leave holes; so many are bearable.
constexpr int64_t kMostHoles = 1 << 16;
// The merges of a word count its characters in 32 bits.
constexpr size_t kLongestText = size_t{1} << 31;

std::string Quote(std::string_view text) { return JsonQuote(text, 60); }

}  // namespace

class BpeTokenizer::Encoding {
 public:
  explicit Encoding(const BpeTokenizer& tokenizer)
      : tokenizer_(tokenizer),
        model_(*tokenizer.model_),
        lease_(model_),
        word_([this](const TextPiece& word) { model_.Encode(word.text, *lease_, &tokens_); }) {}

  // Any bytes.
  std::vector<int32_t> Run(std::string_view text, bool first) {
    tokens_.reserve(text.size() / 4 + 4);
    TextPiece piece = {text, first, !first};
    while (!piece.text.empty()) {
      const size_t valid = ValidUtf8Length(piece.text);
      if (valid > 0) Raw(piece.Part(0, valid));
      piece.text.remove_prefix(valid);
      if (piece.text.empty()) break;
      model_.EncodeByte(static_cast<unsigned char>(piece.text[0]), &tokens_);
      piece = {piece.text.substr(1), false, true};
    }
    return std::move(tokens_);
  }

 private:
  void Raw(const TextPiece& piece) {
    tokenizer_.raw_tokens_.Split(
        piece.text, [&](int32_t token) { tokens_.push_back(token); },
        [&](size_t begin, size_t end) { Normalize(piece.Part(begin, end - begin)); });
  }
  void Normalize(const TextPiece& raw) {
    const TextPiece piece = tokenizer_.normalizer_.Apply(raw, &normalized_);
    tokenizer_.normalized_tokens_.Split(
        piece.text, [&](int32_t token) { tokens_.push_back(token); },
        [&](size_t begin, size_t end) { Words(piece.Part(begin, end - begin)); });
  }
  void Words(const TextPiece& piece) {
    if (!tokenizer_.pre_tokenizer_.is_gpt2()) return tokenizer_.pre_tokenizer_.Apply(piece, word_);
    ForEachGpt2Word(piece.text, [&](size_t begin, size_t length) {
      model_.Encode(piece.text.substr(begin, length), *lease_, &tokens_);
    });
  }

  const BpeTokenizer& tokenizer_;
  const BpeModel& model_;
  BpeModel::Lease lease_;
  PreTokenizer::Sink word_;
  std::string normalized_;
  std::vector<int32_t> tokens_;
};

BpeTokenizer::BpeTokenizer(const JsonObject& file, std::string text) : source_(file.source()) {
  for (const char* key : {"truncation", "padding"}) {
    if (file.Has(key)) file.Fail(key, "null", ErrorCode::kUnsupported);
  }
  const JsonObject model = file.Object("model");
  if (model.StringOr("type", "BPE") != "BPE") {
    model.Fail("type", "\"BPE\", the model that is supported", ErrorCode::kUnsupported);
  }
  normalizer_ = Normalizer::Parse(file);
  pre_tokenizer_ = PreTokenizer::Parse(file);
  ReadVocabulary(model);
  ReadModel(model);
  const NormalizedTexts normalized_texts = ReadAddedTokens(file);
  if (file.Has("post_processor")) ReadPostProcessor(file.Object("post_processor"));
  ReadDecoder(file, normalized_texts);
  local_ = normalizer_.local() && pre_tokenizer_.local() &&
           (pre_tokenizer_.cuts_at_spaces() || model_->splits_at_spaces()) && raw_tokens_.local() &&
           normalized_tokens_.local();
  KeepFile("tokenizer.json", std::move(text));
}

void BpeTokenizer::KeepFile(std::string name, std::string content) {
  files_.push_back({std::move(name), std::move(content)});
}

void BpeTokenizer::ReadVocabulary(const JsonObject& model) {
  const JsonObject vocab = model.Object("vocab");
  const JsonValue::Object& entries = *vocab.value().AsObject();
  const int64_t limit = static_cast<int64_t>(entries.size()) + kMostHoles;
  for (const JsonValue::Member& entry : entries) {
    const int64_t* id = entry.value.AsInt();
    if (id == nullptr || *id < 0 || *id >= limit) {
      vocab.Fail(entry.key, fmt::format("an id from 0 to {}", limit - 1));
    }
    const auto index = static_cast<size_t>(*id);
    if (index >= texts_.size()) texts_.resize(index + 1);
    if (!texts_[index].empty()) {
      vocab.Fail(entry.key,
                 fmt::format("an id of its own, which {} has already", Quote(texts_[index])));
    }
    texts_[index] = entry.key;
  }
  ids_.reserve(texts_.size());
  for (size_t id = 0; id < texts_.size(); ++id) {
    if (!texts_[id].empty()) ids_.emplace(texts_[id], static_cast<int32_t>(id));
  }
}

std::vector<BpeModel::Merge> BpeTokenizer::ReadMerges(const JsonObject& model) const {
  const JsonValue::Array& entries = model.Array("merges");
  std::vector<BpeModel::Merge> merges;
  merges.reserve(entries.size());
  std::string merged;
  for (size_t i = 0; i < entries.size(); ++i) {
    const auto fail = [&](const std::string& what) {
      throw Error(ErrorCode::kCorrupt,
                  fmt::format("{}: merge {} of \"merges\" {}", source_, i, what));
    };
    std::string_view left;
    std::string_view right;
    if (const std::string* pair = entries[i].AsString()) {
      const size_t space = pair->find(' ');
      if (space == std::string::npos || pair->find(' ', space + 1) != std::string::npos) {
        fail(fmt::format("is {}, expected two tokens with a space between", Quote(*pair)));
      }
      left = std::string_view(*pair).substr(0, space);
      right = std::string_view(*pair).substr(space + 1);
    } else {
      const JsonValue::Array* both = entries[i].AsArray();
      if (both == nullptr || both->size() != 2 || (*both)[0].AsString() == nullptr ||
          (*both)[1].AsString() == nullptr) {
        fail("is no pair of tokens");
      }
      left = *(*both)[0].AsString();
      right = *(*both)[1].AsString();
    }
    const auto id_of = [&](std::string_view text) {
      const auto found = ids_.find(text);
      if (found == ids_.end()) {
        fail(fmt::format("is {} and {}, but the vocabulary has no token {}", Quote(left),
                         Quote(right), Quote(text)));
      }
      return found->second;
    };
    merged.assign(left).append(right);
    const int32_t left_id = id_of(left);
    merges.push_back({left_id, id_of(right), id_of(merged)});
  }
  return merges;
}

void BpeTokenizer::ReadModel(const JsonObject& model) {
  if (model.Has("dropout") && model.Double("dropout") != 0.0) {
    model.Fail("dropout", "null or 0", ErrorCode::kUnsupported);
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!model.StringOr(key, "").empty()) {
      model.Fail(key, "null or \"\"", ErrorCode::kUnsupported);
    }
  }
  BpeModel::Options options;
  options.byte_level = pre_tokenizer_.byte_level() && !pre_tokenizer_.maps_bytes();
  options.byte_fallback = model.BoolOr("byte_fallback", false);
  options.fuse_unknown = model.BoolOr("fuse_unk", false);
  options.ignore_merges = model.BoolOr("ignore_merges", false);
  if (model.Has("unk_token")) {
    const auto found = ids_.find(model.String("unk_token"));
    if (found == ids_.end()) model.Fail("unk_token", "a token of the vocabulary");
    options.unknown = found->second;
  }
  model_ = std::make_unique<BpeModel>(ids_, ReadMerges(model), options);
}

BpeTokenizer::NormalizedTexts BpeTokenizer::ReadAddedTokens(const JsonObject& file) {
  if (!file.Has("added_tokens")) return {};
  std::vector<AddedToken> tokens;
  const std::vector<JsonObject> entries = file.Objects("added_tokens");
  const auto limit = static_cast<int64_t>(texts_.size() + entries.size()) + kMostHoles;
  for (const JsonObject& entry : entries) {
    AddedToken token;
    token.content = entry.String("content");
    if (token.content.empty()) entry.Fail("content", "text");
    token.id = static_cast<int32_t>(entry.Int("id", 0, limit - 1));
    token.special = entry.BoolOr("special", false);
    token.single_word = entry.BoolOr("single_word", false);
    token.lstrip = entry.BoolOr("lstrip", false);
    token.rstrip = entry.BoolOr("rstrip", false);
    token.normalized = entry.BoolOr("normalized", !token.special);
    const auto index = static_cast<size_t>(token.id);
    const auto found = ids_.find(token.content);
    if (found != ids_.end() && found->second != token.id) {
      entry.Fail("id", fmt::format("{}, which the vocabulary gives {}", found->second,
                                   Quote(token.content)));
    }
    if (index >= texts_.size()) texts_.resize(index + 1);
    if (!texts_[index].empty() && texts_[index] != token.content) {
      entry.Fail("id", fmt::format("another one, since {} has it", Quote(texts_[index])));
    }
    if (texts_[index].empty()) texts_[index] = token.content;
    tokens.push_back(std::move(token));
  }
  special_.resize(texts_.size());
  added_.resize(texts_.size());
  // Of tokens that look the same a special one is found.
  std::stable_partition(tokens.begin(), tokens.end(),
                        [](const AddedToken& token) { return token.special; });
  NormalizedTexts normalized_texts;
  std::string buffer;
  for (const AddedToken& token : tokens) {
    special_[static_cast<size_t>(token.id)] = token.special;
    added_[static_cast<size_t>(token.id)] = true;
    if (!token.normalized) {
      raw_tokens_.Add(token, token.content);
      continue;
    }
    const TextPiece normal = normalizer_.Apply({token.content, true, false}, &buffer);
    if (normal.text.empty()) continue;
    normalized_tokens_.Add(token, normal.text);
    if (normal.text != token.content) normalized_texts[token.id] = normal.text;
  }
  return normalized_texts;
}

void BpeTokenizer::ReadPostProcessor(const JsonObject& processor) {
  const std::string& type = processor.String("type");
  if (type == "ByteLevel") return;  // changes offsets only
  if (type == "Sequence") {
    for (const JsonObject& inner : processor.Objects("processors")) ReadPostProcessor(inner);
    return;
  }
  if (type != "TemplateProcessing") {
    processor.Fail("type",
                   "\"ByteLevel\", \"TemplateProcessing\" or \"Sequence\", the post-processors "
                   "that are supported",
                   ErrorCode::kUnsupported);
  }
  std::vector<int32_t> before;
  std::vector<int32_t> after;
  bool text_seen = false;
  for (const JsonObject& part : processor.Objects("single")) {
    if (part.Has("Sequence")) {
      if (text_seen) part.Fail("Sequence", "the text once", ErrorCode::kUnsupported);
      text_seen = true;
      continue;
    }
    const std::string name = part.Object("SpecialToken").String("id");
    const JsonObject token = processor.Object("special_tokens").Object(name);
    for (const JsonValue& id : token.Array("ids")) {
      if (id.AsInt() == nullptr || *id.AsInt() < 0 || *id.AsInt() >= vocab_size()) {
        token.Fail("ids", fmt::format("token ids from 0 to {}", vocab_size() - 1));
      }
      (text_seen ? after : before).push_back(static_cast<int32_t>(*id.AsInt()));
    }
  }
  if (!text_seen) processor.Fail("single", "the text's place, {\"Sequence\": …}");
  prefix_.insert(prefix_.begin(), before.begin(), before.end());
  suffix_.insert(suffix_.end(), after.begin(), after.end());
}

void BpeTokenizer::ReadDecoder(const JsonObject& file, const NormalizedTexts& normalized_texts) {
  const TokenDecoder decoder = TokenDecoder::Parse(file);
  special_.resize(texts_.size());
  added_.resize(texts_.size());
  bytes_.reserve(texts_.size());
  first_bytes_.reserve(texts_.size());
  for (size_t id = 0; id < texts_.size(); ++id) {
    const auto normalized = normalized_texts.find(static_cast<int32_t>(id));
    const std::string& text =
        normalized == normalized_texts.end() ? texts_[id] : normalized->second;
    bytes_.push_back(text.empty() ? "" : decoder.Bytes(text));
    first_bytes_.push_back(text.empty() ? "" : decoder.FirstBytes(text));
  }
}

std::vector<int32_t> BpeTokenizer::Encode(std::string_view text) const {
  return EncodePart(text, true);
}

std::vector<int32_t> BpeTokenizer::EncodePart(std::string_view part, bool first) const {
  if (part.size() > kLongestText) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("a text of {} bytes to tokenize at once, expected at most {}",
                            part.size(), kLongestText));
  }
  return Encoding(*this).Run(part, first);
}

size_t BpeTokenizer::PartLength(std::string_view text, size_t bytes) const {
  // Not behind a token found in the text: normalizers treat what comes behind one as the beginning
  // of a text.
  return local_ ? LengthBeforeWord(text, bytes, raw_tokens_.last_bytes()) : text.size();
}

uint64_t BpeTokenizer::fingerprint() const {
  const std::string& description = files_.front().content;
  return XXH64(description.data(), description.size(), 0);
}

void BpeTokenizer::CheckToken(int32_t token) const {
  if (token < 0 || token >= vocab_size()) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("token {}, expected 0 to {}", token, vocab_size() - 1));
  }
}

std::string_view BpeTokenizer::Bytes(int32_t token) const {
  CheckToken(token);
  return bytes_[static_cast<size_t>(token)];
}

std::string BpeTokenizer::FirstBytes(int32_t token) const {
  CheckToken(token);
  return first_bytes_[static_cast<size_t>(token)];
}

bool BpeTokenizer::IsSpecial(int32_t token) const {
  CheckToken(token);
  return special_[static_cast<size_t>(token)];
}

void BpeTokenizer::Save(const std::filesystem::path& directory) const {
  for (const KeptFile& file : files_) WriteFileAtomically(directory / file.name, file.content);
}

}  // namespace adder
