#include "adder/text/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/core.h>
#include <pcre2.h>

#include <array>
#include <utility>

#include "adder/core/error.h"
#include "adder/formats/json.h"
#include "adder/text/utf8.h"

namespace adder {
namespace {

constexpr size_t kLongestExpression = size_t{1} << 14;

PCRE2_SPTR Units(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

std::string MessageOf(int error) {
  std::array<PCRE2_UCHAR, 256> text = {};
  pcre2_get_error_message(error, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

// Writes \s and \w as the properties that Oniguruma, by which Hugging Face's tokenizers match,
// means by them; PCRE2 takes U+180E for a space, and no marks for word characters. False where it
// cannot be written: \W within brackets.
bool TranslateClasses(std::string_view expression, std::string* out) {
  constexpr std::string_view kWord = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";
  bool brackets = false;
  for (size_t i = 0; i < expression.size(); ++i) {
    const char c = expression[i];
    if (c != '\\' || i + 1 == expression.size()) {
      *out += c;
      if (c == ']') brackets = false;
      if (c != '[' || brackets) continue;
      brackets = true;
      // What ends the brackets does not as their first character.
      if (expression.substr(i + 1).starts_with('^')) *out += expression[++i];
      if (expression.substr(i + 1).starts_with(']')) *out += expression[++i];
      continue;
    }
    const char name = expression[++i];
    if (name == 's') {
      *out += R"(\p{White_Space})";
    } else if (name == 'S') {
      *out += R"(\P{White_Space})";
    } else if (name == 'w' && brackets) {
      out->append(kWord);
    } else if (name == 'w' || (name == 'W' && !brackets)) {
      out->append(name == 'w' ? "[" : "[^").append(kWord).append("]");
    } else if (name == 'W') {
      return false;
    } else {
      out->append(1, c).append(1, name);
    }
  }
  return true;
}

struct Freer {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};

}  // namespace

struct Pattern::Code {
  std::unique_ptr<pcre2_code, Freer> code;
};

struct Pattern::Search::Memory {
  std::unique_ptr<pcre2_match_data, Freer> data;
  std::unique_ptr<pcre2_match_context, Freer> context;
};

Pattern::Pattern(std::string source, std::unique_ptr<Code> code)
    : source_(std::move(source)), code_(std::move(code)) {}
Pattern::Pattern(Pattern&&) noexcept = default;
Pattern& Pattern::operator=(Pattern&&) noexcept = default;
Pattern::~Pattern() = default;

Pattern Pattern::Literal(std::string text) {
  if (text.empty()) throw Error(ErrorCode::kInvalidArgument, "an empty string as a pattern");
  return Pattern(std::move(text), nullptr);
}

Pattern Pattern::Regex(std::string expression, std::string_view where) {
  const auto refuse = [&](std::string_view reason) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: the regular expression {} cannot be used: {}", where,
                            JsonQuote(expression, 200), reason));
  };
  if (expression.size() > kLongestExpression) {
    refuse(fmt::format("it is longer than {} bytes", kLongestExpression));
  }
  std::string translated;
  if (!TranslateClasses(expression, &translated)) refuse("\\W within brackets");
  int error = 0;
  PCRE2_SIZE offset = 0;
  auto code = std::make_unique<Code>();
  code->code.reset(pcre2_compile(Units(translated), translated.size(),
                                 PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                                 &error, &offset, nullptr));
  if (code->code == nullptr) refuse(MessageOf(error));
  // Where there is no compiler for this processor the interpreter does the same.
  pcre2_jit_compile(code->code.get(), PCRE2_JIT_COMPLETE);
  return Pattern(std::move(expression), std::move(code));
}

Pattern::Search::Search(const Pattern& pattern, std::string_view text)
    : pattern_(pattern), text_(text) {
  if (pattern.is_literal()) return;
  memory_ = std::make_unique<Memory>();
  memory_->data.reset(pcre2_match_data_create_from_pattern(pattern.code_->code.get(), nullptr));
  memory_->context.reset(pcre2_match_context_create(nullptr));
  if (memory_->data == nullptr || memory_->context == nullptr) throw std::bad_alloc();
  // An honest expression looks at each character a few times.
  constexpr uint32_t kMostSteps = 10'000'000;
  pcre2_set_match_limit(memory_->context.get(), kMostSteps);
}

Pattern::Search::~Search() = default;

bool Pattern::Search::Next() {
  if (from_ > text_.size()) return false;
  if (pattern_.is_literal()) {
    const size_t found = text_.find(pattern_.source_, from_);
    if (found == std::string_view::npos) return false;
    match_ = {found, found + pattern_.source_.size()};
    from_ = match_.end;
    return true;
  }
  const auto search = [&](uint32_t options) {
    return pcre2_match(pattern_.code_->code.get(), Units(text_), text_.size(), from_,
                       PCRE2_NO_UTF_CHECK | options, memory_->data.get(), memory_->context.get());
  };
  int result = search(0);
  // The interpreter has all of the heap for what goes too deep for the compiled code's stack.
  if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = search(PCRE2_NO_JIT);
  if (result == PCRE2_ERROR_NOMATCH) return false;
  if (result < 0) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("the regular expression {} fails on the text: {}",
                            JsonQuote(pattern_.source_, 200), MessageOf(result)));
  }
  const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(memory_->data.get());
  // \K can put the beginning behind the end.
  match_ = {offsets[0] < offsets[1] ? offsets[0] : offsets[1], offsets[1]};
  if (match_.begin < from_) match_.begin = from_;
  if (match_.end > match_.begin) {
    from_ = match_.end;
  } else {
    // After an empty match the search goes on behind the next character.
    from_ = match_.end < text_.size() ? match_.end + ReadUtf8(text_.data() + match_.end).length
                                      : text_.size() + 1;
  }
  return true;
}

}  // namespace adder
