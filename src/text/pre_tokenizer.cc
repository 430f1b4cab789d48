// Each step cuts a piece into smaller ones; the pieces run through all steps one by one, so that
// text that a step makes lives only as long as its words are read.
#include "adder/text/pre_tokenizer.h"

#include <fmt/core.h>

#include <array>
#include <optional>
#include <utility>

#include "adder/core/error.h"
#include "adder/text/byte_level.h"
#include "adder/text/gpt2_words.h"
#include "adder/text/unicode.h"
#include "adder/text/utf8.h"
#include "adder/text/word_patterns.h"

namespace adder {
namespace {

// GPT-2's pattern as files write it.
constexpr std::array<std::string_view, 2> kGpt2Patterns = {
    kGpt2Pattern,
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
};

// Expressions that begin a new match at each space after another character, and match the same
// whatever is before and after such a place.
constexpr std::array<std::string_view, 2> kCuttingPatterns = {kLlama3Pattern, kQwen2Pattern};

// Expressions that match the same whatever is before and after such a place.
constexpr std::array<std::string_view, 4> kLocalPatterns = {kThreeDigitsPattern, R"(\p{N}{1,3})",
                                                            R"(\d)", R"(\d{1,3})"};

// Run() calls itself once for each.
constexpr size_t kMostSteps = 64;

template <size_t N>
bool Contains(const std::array<std::string_view, N>& list, std::string_view text) {
  for (const std::string_view entry : list) {
    if (entry == text) return true;
  }
  return false;
}

}  // namespace

// Puts stretches of a piece, matches and what is between them, together to words.
template <class Emit>
class PreTokenizer::Merger {
 public:
  Merger(const TextPiece& piece, Behavior behavior, const Emit& emit)
      : piece_(piece), behavior_(behavior), emit_(emit) {}

  void Add(size_t begin, size_t end, bool match) {
    switch (behavior_) {
      case Behavior::kRemoved:
        if (!match) Give(begin, end);
        return;
      case Behavior::kIsolated:
        Give(begin, end);
        return;
      case Behavior::kContiguous:
        if (held_ && match == previous_) {
          held_->end = end;
        } else {
          Hold(begin, end);
        }
        break;
      case Behavior::kMergedWithPrevious:
        if (held_ && match && !previous_) {
          held_->end = end;
        } else {
          Hold(begin, end);
        }
        break;
      case Behavior::kMergedWithNext:
        if (held_ && previous_ && !match) {
          held_->end = end;
        } else {
          Hold(begin, end);
        }
        break;
    }
    previous_ = match;
  }

  void Finish() {
    if (held_) Give(held_->begin, held_->end);
    held_.reset();
  }

 private:
  void Hold(size_t begin, size_t end) {
    Finish();
    held_ = {begin, end};
  }
  void Give(size_t begin, size_t end) {
    if (begin < end) emit_(piece_.Part(begin, end - begin));
  }

  const TextPiece& piece_;
  Behavior behavior_;
  const Emit& emit_;
  std::optional<Pattern::Match> held_;
  bool previous_ = false;
};

template <class Emit>
void PreTokenizer::RunStep(const Step& step, const TextPiece& piece, const Emit& emit) {
  struct Visitor {
    const TextPiece& piece;
    const Emit& emit;

    void Gpt2(const TextPiece& whole) const {
      ForEachGpt2Word(whole.text,
                      [&](size_t begin, size_t length) { emit(whole.Part(begin, length)); });
    }
    void CharacterRuns(const TextPiece& whole, bool (*matches)(char32_t), Behavior behavior) const {
      Merger<Emit> merger(whole, behavior, emit);
      size_t between = 0;  // where the stretch without matches begins
      for (size_t at = 0; at < whole.text.size();) {
        const Utf8Character character = ReadUtf8(whole.text.data() + at);
        const size_t end = at + character.length;
        if (matches(character.code)) {
          if (between < at) merger.Add(between, at, false);
          merger.Add(at, end, true);
          between = end;
        }
        at = end;
      }
      if (between < whole.text.size()) merger.Add(between, whole.text.size(), false);
      merger.Finish();
    }

    void operator()(const ByteLevel& bytes) const {
      TextPiece whole = piece;
      std::string prefixed;
      if (bytes.add_prefix_space && !whole.text.starts_with(' ')) {
        prefixed.append(1, ' ').append(whole.text);
        whole.text = prefixed;
      }
      const auto map = [&](const TextPiece& word) {
        std::string mapped;
        for (const char c : word.text) mapped += ByteLevelCharacter(static_cast<unsigned char>(c));
        emit({mapped, word.origin, word.continued});
      };
      if (!bytes.map) {
        bytes.use_regex ? Gpt2(whole) : emit(whole);
      } else if (bytes.use_regex) {
        ForEachGpt2Word(whole.text,
                        [&](size_t begin, size_t length) { map(whole.Part(begin, length)); });
      } else {
        map(whole);
      }
    }
    void operator()(const Split& split) const {
      if (split.gpt2) return Gpt2(piece);
      Merger<Emit> merger(piece, split.behavior, emit);
      size_t between = 0;
      split.pattern.ForEach(piece.text, [&](Pattern::Match match) {
        if (between < match.begin) merger.Add(between, match.begin, split.invert);
        merger.Add(match.begin, match.end, !split.invert);
        between = match.end;
      });
      if (between < piece.text.size()) merger.Add(between, piece.text.size(), split.invert);
      merger.Finish();
    }
    void operator()(const CharacterSplit& split) const {
      CharacterRuns(piece, split.matches, split.behavior);
    }
    void operator()(const Words&) const {
      const auto kind = [](char32_t code) {
        return IsWordCharacter(code) ? 1 : IsWhiteSpace(code) ? 0 : 2;
      };
      for (size_t begin = 0; begin < piece.text.size();) {
        Utf8Character character = ReadUtf8(piece.text.data() + begin);
        const int first = kind(character.code);
        size_t end = begin + character.length;
        while (end < piece.text.size()) {
          character = ReadUtf8(piece.text.data() + end);
          if (kind(character.code) != first) break;
          end += character.length;
        }
        if (first != 0) emit(piece.Part(begin, end - begin));
        begin = end;
      }
    }
    void operator()(const Metaspace& space) const {
      std::string replaced;
      for (const char c : piece.text) {
        if (c == ' ') {
          replaced += space.replacement;
        } else {
          replaced += c;
        }
      }
      const bool prepend = space.scheme == Metaspace::kAlways  ? !piece.continued
                           : space.scheme == Metaspace::kFirst ? piece.origin
                                                               : false;
      if (prepend && !replaced.starts_with(space.replacement)) {
        replaced.insert(0, space.replacement);
      }
      const TextPiece whole = {replaced, piece.origin, piece.continued};
      if (!space.split) return emit(whole);
      Merger<Emit> merger(whole, Behavior::kMergedWithNext, emit);
      size_t between = 0;
      for (size_t at = replaced.find(space.replacement); at != std::string::npos;
           at = replaced.find(space.replacement, between)) {
        if (between < at) merger.Add(between, at, false);
        between = at + space.replacement.size();
        merger.Add(at, between, true);
      }
      if (between < replaced.size()) merger.Add(between, replaced.size(), false);
      merger.Finish();
    }
  };
  std::visit(Visitor{piece, emit}, step);
}

PreTokenizer PreTokenizer::Parse(const JsonObject& file) {
  PreTokenizer result;
  if (file.Has("pre_tokenizer")) result.ParseStep(file.Object("pre_tokenizer"));
  if (result.steps_.size() > kMostSteps) {
    file.Fail("pre_tokenizer", fmt::format("at most {} steps", kMostSteps),
              ErrorCode::kUnsupported);
  }
  int byte_levels = 0;
  for (const Step& step : result.steps_) byte_levels += std::holds_alternative<ByteLevel>(step);
  if (byte_levels > 1) {
    file.Fail("pre_tokenizer", "at most one ByteLevel step", ErrorCode::kUnsupported);
  }
  result.byte_level_ = byte_levels == 1;
  result.maps_bytes_ = result.byte_level_;
  if (!result.steps_.empty()) {
    if (auto* last = std::get_if<ByteLevel>(&result.steps_.back())) {
      last->map = result.maps_bytes_ = false;
    }
  }
  result.style_ = result.FindStyle();
  return result;
}

PreTokenizer::Style PreTokenizer::FindStyle() const {
  if (steps_.empty()) return Style::kNone;
  const auto bytes = [&](size_t i, bool use_regex) {
    const auto* step = std::get_if<ByteLevel>(&steps_[i]);
    return step != nullptr && !step->add_prefix_space && step->use_regex == use_regex;
  };
  const auto split = [&](size_t i, std::string_view pattern) {
    const auto* step = std::get_if<Split>(&steps_[i]);
    return step != nullptr && !step->pattern.is_literal() && step->pattern.source() == pattern &&
           step->behavior == Behavior::kIsolated;
  };
  const auto runs = [&](size_t i, bool (*matches)(char32_t)) {
    const auto* step = std::get_if<CharacterSplit>(&steps_[i]);
    return step != nullptr && step->matches == matches && step->behavior == Behavior::kContiguous;
  };
  if (steps_.size() == 1) {
    if (bytes(0, true)) return Style::kGpt2;
    if (const auto* space = std::get_if<Metaspace>(&steps_[0])) {
      return space->scheme == Metaspace::kNever ? Style::kMetaspaceNoPrefix : Style::kMetaspace;
    }
  }
  if (steps_.size() == 2 && bytes(1, false)) {
    if (split(0, kLlama3Pattern)) return Style::kLlama3;
    if (split(0, kQwen2Pattern)) return Style::kQwen2;
  }
  if (steps_.size() == 4 && runs(0, IsPunctuation) && bytes(1, true) && runs(2, IsNumber) &&
      split(3, kThreeDigitsPattern)) {
    return Style::kFalcon;
  }
  return Style::kOther;
}

PreTokenizer::Behavior PreTokenizer::ParseBehavior(const JsonObject& step, const char* fallback) {
  const std::string name = step.StringOr("behavior", fallback);
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  step.Fail("behavior",
            "\"Removed\", \"Isolated\", \"MergedWithPrevious\", \"MergedWithNext\" or "
            "\"Contiguous\"");
}

void PreTokenizer::ParseStep(const JsonObject& step) {
  const std::string& type = step.String("type");
  if (type == "Sequence") {
    for (const JsonObject& inner : step.Objects("pretokenizers")) ParseStep(inner);
  } else if (type == "ByteLevel") {
    const ByteLevel bytes = {step.BoolOr("add_prefix_space", true), step.BoolOr("use_regex", true)};
    cuts_at_spaces_ = cuts_at_spaces_ || bytes.use_regex;
    steps_.emplace_back(bytes);
  } else if (type == "Split") {
    const JsonObject pattern = step.Object("pattern");
    const Behavior behavior = ParseBehavior(step, "");
    const bool invert = step.BoolOr("invert", false);
    const bool literal = pattern.Has("String");
    const std::string& source = pattern.String(literal ? "String" : "Regex");
    if (literal && source.empty()) pattern.Fail("String", "text");
    // With both words and spaces between them cut off, inverting changes nothing.
    const bool gpt2 =
        !literal && behavior == Behavior::kIsolated && Contains(kGpt2Patterns, source);
    const bool cuts =
        gpt2 || (!literal && behavior == Behavior::kIsolated && Contains(kCuttingPatterns, source));
    cuts_at_spaces_ = cuts_at_spaces_ || cuts;
    local_ = local_ && (cuts || (!literal && Contains(kLocalPatterns, source)));
    steps_.emplace_back(
        Split{literal ? Pattern::Literal(source) : Pattern::Regex(source, step.source()), behavior,
              invert, gpt2});
  } else if (type == "Metaspace") {
    Metaspace space = {step.StringOr("replacement", "\u2581"), Metaspace::kAlways,
                       step.BoolOr("split", true)};
    if (ReadUtf8(space.replacement.c_str()).length != space.replacement.size()) {
      step.Fail("replacement", "one character");
    }
    const std::string scheme = step.StringOr("prepend_scheme", "always");
    if (scheme == "first") {
      space.scheme = Metaspace::kFirst;
    } else if (scheme == "never" || !step.BoolOr("add_prefix_space", true)) {
      space.scheme = Metaspace::kNever;
    } else if (scheme != "always") {
      step.Fail("prepend_scheme", "\"always\", \"first\" or \"never\"");
    }
    cuts_at_spaces_ = cuts_at_spaces_ || space.split;
    steps_.emplace_back(std::move(space));
  } else if (type == "Digits") {
    steps_.emplace_back(CharacterSplit{IsNumber, step.BoolOr("individual_digits", false)
                                                     ? Behavior::kIsolated
                                                     : Behavior::kContiguous});
  } else if (type == "Punctuation") {
    steps_.emplace_back(CharacterSplit{IsPunctuation, ParseBehavior(step, "Isolated")});
  } else if (type == "WhitespaceSplit") {
    cuts_at_spaces_ = true;
    steps_.emplace_back(CharacterSplit{IsWhiteSpace, Behavior::kRemoved});
  } else if (type == "Whitespace") {
    cuts_at_spaces_ = true;
    steps_.emplace_back(Words{});
  } else {
    step.Fail("type",
              "\"ByteLevel\", \"Split\", \"Metaspace\", \"Digits\", \"Punctuation\", "
              "\"Whitespace\", \"WhitespaceSplit\" or \"Sequence\", the pre-tokenizers that are "
              "supported",
              ErrorCode::kUnsupported);
  }
}

void PreTokenizer::Apply(const TextPiece& piece, const Sink& sink) const {
  if (!piece.text.empty()) Run(0, piece, sink);
}

void PreTokenizer::Run(size_t index, const TextPiece& piece, const Sink& sink) const {
  if (index == steps_.size()) return sink(piece);
  RunStep(steps_[index], piece, [&](const TextPiece& word) { Run(index + 1, word, sink); });
}

}  // namespace adder
