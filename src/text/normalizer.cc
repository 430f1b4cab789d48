#include "adder/text/normalizer.h"

#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "adder/core/error.h"
#include "adder/text/utf8.h"

namespace adder {
namespace {

// Each may have a compiled expression many times the size of what stands in the file.
constexpr size_t kMostSteps = 64;

// Bytes that a text may become. Honest steps make it a few times as long; others could fill the
// memory from a short one. The merges of a word count its characters in 32 bits.
size_t MostBytes(size_t given) { return std::min(size_t{1} << 31, 64 * given + 256); }

size_t WhiteSpaceAtStart(std::string_view text) {
  size_t length = 0;
  while (length < text.size()) {
    const Utf8Character character = ReadUtf8(text.data() + length);
    if (!IsWhiteSpace(character.code)) break;
    length += character.length;
  }
  return length;
}

size_t WhiteSpaceAtEnd(std::string_view text) {
  size_t length = 0;
  while (length < text.size()) {
    const Utf8Character character = ReadLastUtf8(text.substr(0, text.size() - length));
    if (!IsWhiteSpace(character.code)) break;
    length += character.length;
  }
  return length;
}

}  // namespace

Normalizer Normalizer::Parse(const JsonObject& file) {
  Normalizer normalizer;
  normalizer.source_ = file.source();
  if (file.Has("normalizer")) normalizer.ParseStep(file.Object("normalizer"));
  if (normalizer.steps_.size() > kMostSteps) {
    file.Fail("normalizer", fmt::format("at most {} steps", kMostSteps), ErrorCode::kUnsupported);
  }
  return normalizer;
}

Normalizer::Style Normalizer::style() const {
  constexpr std::string_view kSpace = "\u2581";
  const auto replaces = [&](const Step& step) {
    const auto* replace = std::get_if<Replace>(&step);
    return replace != nullptr && replace->pattern.is_literal() &&
           replace->pattern.source() == " " && replace->content == kSpace;
  };
  if (steps_.empty()) return Style::kNone;
  if (steps_.size() == 1) {
    const auto* form = std::get_if<const NormalForm*>(&steps_[0]);
    if (form != nullptr && *form == &NormalForm::Get(NormalForm::kNfc)) return Style::kNfc;
    if (replaces(steps_[0])) return Style::kMetaspaceNoPrefix;
  }
  if (steps_.size() == 2 && replaces(steps_[1])) {
    const auto* prepend = std::get_if<Prepend>(&steps_[0]);
    if (prepend != nullptr && prepend->text == kSpace) return Style::kMetaspace;
  }
  return Style::kOther;
}

void Normalizer::ParseStep(const JsonObject& step) {
  const std::string& type = step.String("type");
  if (type == "Sequence") {
    for (const JsonObject& inner : step.Objects("normalizers")) ParseStep(inner);
  } else if (type == "NFC") {
    steps_.emplace_back(&NormalForm::Get(NormalForm::kNfc));
  } else if (type == "NFD") {
    steps_.emplace_back(&NormalForm::Get(NormalForm::kNfd));
  } else if (type == "NFKC") {
    steps_.emplace_back(&NormalForm::Get(NormalForm::kNfkc));
  } else if (type == "NFKD") {
    steps_.emplace_back(&NormalForm::Get(NormalForm::kNfkd));
  } else if (type == "Lowercase") {
    steps_.emplace_back(Lowercase{});
  } else if (type == "Prepend") {
    steps_.emplace_back(Prepend{step.String("prepend")});
  } else if (type == "Strip") {
    const Strip strip = {step.Bool("strip_left"), step.Bool("strip_right")};
    if (strip.left || strip.right) local_ = false;
    steps_.emplace_back(strip);
  } else if (type == "Replace") {
    const JsonObject pattern = step.Object("pattern");
    const std::string& content = step.String("content");
    if (pattern.Has("String")) {
      const std::string& text = pattern.String("String");
      if (text.empty()) pattern.Fail("String", "text");
      if (text != " ") local_ = false;
      steps_.emplace_back(Replace{Pattern::Literal(text), content});
    } else {
      local_ = false;
      steps_.emplace_back(Replace{Pattern::Regex(pattern.String("Regex"), step.source()), content});
    }
  } else {
    step.Fail("type",
              "\"NFC\", \"NFD\", \"NFKC\", \"NFKD\", \"Lowercase\", \"Prepend\", \"Replace\", "
              "\"Strip\" or \"Sequence\", the normalizers that are supported",
              ErrorCode::kUnsupported);
  }
}

bool Normalizer::Run(const Step& step, TextPiece* piece, size_t most, std::string* out) {
  struct Visitor {
    TextPiece* piece;
    size_t most;
    std::string* out;

    bool operator()(const NormalForm* form) const { return form->Append(piece->text, out); }
    bool operator()(const Lowercase&) const {
      AppendLowercase(piece->text, out);
      return true;
    }
    bool operator()(const Prepend& prepend) const {
      if (piece->continued || piece->text.empty()) return false;
      out->append(prepend.text).append(piece->text);
      return true;
    }
    bool operator()(const Replace& replace) const {
      size_t copied = 0;
      bool changed = false;
      replace.pattern.ForEach(piece->text, [&](Pattern::Match match) {
        changed = true;
        if (out->size() > most) return;
        out->append(piece->text.substr(copied, match.begin - copied)).append(replace.content);
        if (match.begin == 0 && match.end > 0 && replace.content.empty()) piece->origin = false;
        copied = match.end;
      });
      if (changed) out->append(piece->text.substr(copied));
      return changed;
    }
    bool operator()(const Strip& strip) const {
      std::string_view text = piece->text;
      if (strip.left) text.remove_prefix(WhiteSpaceAtStart(text));
      if (text.size() < piece->text.size()) piece->origin = false;
      if (strip.right) text.remove_suffix(WhiteSpaceAtEnd(text));
      if (text.size() == piece->text.size()) return false;
      out->append(text);
      return true;
    }
  };
  return std::visit(Visitor{piece, most, out}, step);
}

TextPiece Normalizer::Apply(const TextPiece& given, std::string* buffer) const {
  TextPiece piece = given;
  const size_t most = MostBytes(given.text.size());
  std::string next;
  for (const Step& step : steps_) {
    next.clear();
    if (!Run(step, &piece, most, &next)) continue;
    if (next.size() > most) {
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("{}: the normalizer makes more than {} bytes of a text of {}",
                              source_, most, given.text.size()));
    }
    std::swap(*buffer, next);
    piece.text = *buffer;
  }
  return piece;
}

}  // namespace adder
