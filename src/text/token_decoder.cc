#include "adder/text/token_decoder.h"

#include <fmt/core.h>

#include <charconv>
#include <limits>

#include "adder/core/error.h"
#include "adder/text/byte_level.h"

namespace adder {
namespace {

// Stops when the result has more than `most` bytes.
std::string ReplaceAll(std::string_view text, std::string_view pattern, std::string_view content,
                       size_t most = std::string::npos) {
  std::string result;
  while (result.size() <= most) {
    const size_t found = text.find(pattern);
    if (found == std::string_view::npos) return result.append(text);
    result.append(text.substr(0, found)).append(content);
    text.remove_prefix(found + pattern.size());
  }
  return result;
}

// The byte of a token "<0xHH>".
bool ParseByte(std::string_view token, char* byte) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return false;
  unsigned value = 0;
  const auto result = std::from_chars(token.data() + 3, token.data() + 5, value, 16);
  *byte = static_cast<char>(value);
  return result.ec == std::errc() && result.ptr == token.data() + 5;
}

}  // namespace

TokenDecoder TokenDecoder::Parse(const JsonObject& file) {
  TokenDecoder decoder;
  decoder.source_ = file.source();
  if (!file.Has("decoder")) return decoder;
  const JsonObject description = file.Object("decoder");
  const std::string& type = description.String("type");
  if (type == "ByteLevel") {
    decoder.kind_ = Kind::kByteLevel;
  } else if (type == "Metaspace") {
    decoder.kind_ = Kind::kMetaspace;
    decoder.metaspace_ = description.StringOr("replacement", "\u2581");
    if (decoder.metaspace_.empty()) description.Fail("replacement", "a character");
    decoder.drop_first_metaspace_ = description.StringOr("prepend_scheme", "always") != "never" &&
                                    description.BoolOr("add_prefix_space", true);
  } else if (type == "Sequence") {
    const std::vector<JsonObject> steps = description.Objects("decoders");
    if (steps.size() == 1 && steps[0].String("type") == "ByteLevel") {
      decoder.kind_ = Kind::kByteLevel;
      return decoder;
    }
    decoder.kind_ = Kind::kSteps;
    for (const JsonObject& step : steps) decoder.ParseStep(step);
  } else {
    decoder.kind_ = Kind::kSteps;
    decoder.ParseStep(description);
  }
  return decoder;
}

void TokenDecoder::ParseStep(const JsonObject& description) {
  const std::string& type = description.String("type");
  if (type == "Fuse") {
    fused_ = true;
    return;
  }
  Step step = {};
  if (type == "Replace") {
    step.kind = Step::kReplace;
    const JsonObject pattern = description.Object("pattern");
    if (!pattern.Has("String")) {
      description.Fail("pattern", "a string as the pattern", ErrorCode::kUnsupported);
    }
    step.pattern = pattern.String("String");
    if (step.pattern.empty()) pattern.Fail("String", "text");
    step.content = description.String("content");
  } else if (type == "ByteFallback") {
    step.kind = Step::kByteFallback;
  } else if (type == "Strip") {
    step.kind = Step::kStrip;
    step.pattern = description.String("content");
    if (step.pattern.empty()) description.Fail("content", "a character");
    step.start = description.Int("start", 0);
    step.stop = description.Int("stop", 0);
  } else {
    description.Fail("type",
                     "\"ByteLevel\", \"Metaspace\", \"Replace\", \"ByteFallback\", \"Strip\", "
                     "\"Fuse\" or a \"Sequence\" of the last four, the decoders that are supported",
                     ErrorCode::kUnsupported);
  }
  if (!fused_) {
    steps_.push_back(std::move(step));
    return;
  }
  // Behind Fuse the text is one: what is done to it cannot be told token by token, but for one
  // character at its beginning.
  if (step.kind != Step::kStrip || step.start != 1 || step.stop != 0 || !first_.empty()) {
    description.Fail("type", "no step but one Strip of 1 at the start behind Fuse",
                     ErrorCode::kUnsupported);
  }
  first_ = step.pattern;
}

std::string TokenDecoder::Bytes(std::string_view token) const {
  if (kind_ == Kind::kSpaces) return std::string(1, ' ').append(token);
  if (kind_ == Kind::kMetaspace) return ReplaceAll(token, metaspace_, " ");
  if (kind_ == Kind::kByteLevel) {
    std::string bytes;
    return ByteLevelDecode(token, &bytes) ? bytes : std::string(token);
  }
  std::string text(token);
  // Honest steps make it hardly longer; others could fill the memory from a small file.
  const size_t most = 64 * token.size() + 256;
  for (const Step& step : steps_) {
    char byte = 0;
    if (step.kind == Step::kReplace) {
      text = ReplaceAll(text, step.pattern, step.content, most);
      if (text.size() > most) {
        throw Error(ErrorCode::kUnsupported,
                    fmt::format("{}: the decoder makes more than {} bytes of the token {}", source_,
                                most, JsonQuote(token, 60)));
      }
    } else if (step.kind == Step::kByteFallback) {
      if (ParseByte(text, &byte)) text.assign(1, byte);
    } else {
      std::string_view kept = text;
      for (int64_t i = 0; i < step.start && kept.starts_with(step.pattern); ++i) {
        kept.remove_prefix(step.pattern.size());
      }
      for (int64_t i = 0; i < step.stop && kept.ends_with(step.pattern); ++i) {
        kept.remove_suffix(step.pattern.size());
      }
      text = std::string(kept);
    }
  }
  return text;
}

std::string TokenDecoder::FirstBytes(std::string_view token) const {
  if (kind_ == Kind::kSpaces) return std::string(token);
  if (kind_ == Kind::kMetaspace && drop_first_metaspace_) return ReplaceAll(token, metaspace_, "");
  std::string bytes = Bytes(token);
  if (!first_.empty() && bytes.starts_with(first_)) bytes.erase(0, first_.size());
  return bytes;
}

}  // namespace adder
