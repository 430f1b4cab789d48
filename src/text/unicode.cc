#include "adder/text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdint>

#include "adder/core/error.h"
#include "adder/text/unicode_versions.h"
#include "adder/text/utf8.h"

namespace adder {
namespace {

// Beyond these planes nothing decomposes, combines or changes its case.
constexpr char32_t kNormalizedCodes = 0x30000;

utf8proc_category_t CategoryOf(char32_t code) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(code));
}

int CombiningClass(char32_t code) {
  if (InRanges(kNotNormalized, code)) return 0;
  return utf8proc_get_property(static_cast<utf8proc_int32_t>(code))->combining_class;
}

// The full decomposition of one character, in canonical order as Unicode lists it.
void Decompose(char32_t code, bool compatibility, std::vector<utf8proc_int32_t>* out) {
  if (InRanges(kNotNormalized, code)) return out->push_back(static_cast<utf8proc_int32_t>(code));
  constexpr utf8proc_ssize_t kLongest = 32;  // U+FDFA has 18
  const int options = UTF8PROC_DECOMPOSE | UTF8PROC_STABLE | (compatibility ? UTF8PROC_COMPAT : 0);
  const size_t size = out->size();
  out->resize(size + kLongest);
  int boundary = 0;
  const utf8proc_ssize_t count =
      utf8proc_decompose_char(static_cast<utf8proc_int32_t>(code), out->data() + size, kLongest,
                              static_cast<utf8proc_option_t>(options), &boundary);
  if (count < 0 || count > kLongest) {
    throw Error(ErrorCode::kUnsupported, "a character cannot be decomposed");
  }
  out->resize(size + static_cast<size_t>(count));
}

void Compose(std::vector<utf8proc_int32_t>* codes) {
  const utf8proc_ssize_t count =
      utf8proc_normalize_utf32(codes->data(), static_cast<utf8proc_ssize_t>(codes->size()),
                               static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
  if (count >= 0) codes->resize(static_cast<size_t>(count));
}

bool Composes(NormalForm::Kind kind) {
  return kind == NormalForm::kNfc || kind == NormalForm::kNfkc;
}

bool IsCompatibility(NormalForm::Kind kind) {
  return kind == NormalForm::kNfkc || kind == NormalForm::kNfkd;
}

}  // namespace

bool IsLetter(char32_t code) {
  const utf8proc_category_t category = CategoryOf(code);
  if (category == UTF8PROC_CATEGORY_CN) return InRanges(kNewLetters, code);
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

bool IsNumber(char32_t code) {
  const utf8proc_category_t category = CategoryOf(code);
  if (category == UTF8PROC_CATEGORY_CN) return InRanges(kNewNumbers, code);
  return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
}

bool IsWhiteSpace(char32_t code) {
  if (code < 0x80) return code == ' ' || (code >= '\t' && code <= '\r');
  return code == 0x85 || code == 0xa0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200a) ||
         code == 0x2028 || code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

bool IsWordCharacter(char32_t code) {
  const utf8proc_category_t category = CategoryOf(code);
  if (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL) return true;
  if (category == UTF8PROC_CATEGORY_PC) return true;
  if (category == UTF8PROC_CATEGORY_CN) {
    return InRanges(kNewLetters, code) || InRanges(kNewNumbers, code) || InRanges(kNewMarks, code);
  }
  // Join_Control, and letters in circles and squares (Other_Alphabetic).
  return code == 0x200c || code == 0x200d || (code >= 0x24b6 && code <= 0x24e9) ||
         (code >= 0x1f130 && code <= 0x1f149) || (code >= 0x1f150 && code <= 0x1f169) ||
         (code >= 0x1f170 && code <= 0x1f189);
}

bool IsPunctuation(char32_t code) {
  if (code < 0x80) {
    const bool alphanumeric = (code >= '0' && code <= '9') || (code >= 'A' && code <= 'Z') ||
                              (code >= 'a' && code <= 'z');
    return code > ' ' && code < 0x7f && !alphanumeric;
  }
  const utf8proc_category_t category = CategoryOf(code);
  if (category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO) {
    return !InRanges(kNewPunctuation, code);
  }
  return InRanges(kFormerPunctuation, code);
}

void AppendLowercase(std::string_view text, std::string* out) {
  while (!text.empty()) {
    const Utf8Character character = ReadUtf8(text.data());
    if (character.code < 0x80) {
      const bool upper = character.code >= 'A' && character.code <= 'Z';
      *out += static_cast<char>(character.code + (upper ? 'a' - 'A' : 0));
    } else if (character.code == 0x130) {
      *out += "i\xcc\x87";  // the one lower case of two characters: i and a dot above
    } else {
      AppendUtf8(
          static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(character.code))),
          out);
    }
    text.remove_prefix(character.length);
  }
}

const NormalForm& NormalForm::Get(Kind kind) {
  switch (kind) {
    case kNfc: {
      static const NormalForm kForm(kNfc);
      return kForm;
    }
    case kNfd: {
      static const NormalForm kForm(kNfd);
      return kForm;
    }
    case kNfkc: {
      static const NormalForm kForm(kNfkc);
      return kForm;
    }
    case kNfkd:
      break;
  }
  static const NormalForm kForm(kNfkd);
  return kForm;
}

NormalForm::NormalForm(Kind kind) : kind_(kind), stable_(kNormalizedCodes, true) {
  std::vector<utf8proc_int32_t> parts;
  for (char32_t code = 0x80; code < kNormalizedCodes; ++code) {
    if (code >= 0xd800 && code < 0xe000) continue;
    parts.clear();
    Decompose(code, IsCompatibility(kind), &parts);
    if (Composes(kind) && parts.size() > 1) Compose(&parts);
    const bool itself = parts.size() == 1 && parts[0] == static_cast<utf8proc_int32_t>(code);
    if (!itself || CombiningClass(code) != 0) stable_[code] = false;
    if (!Composes(kind)) continue;
    // What may become one character with what is before it.
    parts.clear();
    Decompose(code, false, &parts);
    for (size_t i = 1; i < parts.size(); ++i) stable_[static_cast<size_t>(parts[i])] = false;
  }
}

bool NormalForm::Append(std::string_view text, std::string* out) const {
  size_t copied = 0;    // of the text, into `out`
  size_t previous = 0;  // where the character before begins
  bool changed = false;
  size_t at = 0;
  while (at < text.size()) {
    const auto first = static_cast<unsigned char>(text[at]);
    if (first < 0x80) {
      previous = at++;
      continue;
    }
    Utf8Character character = ReadUtf8(text.data() + at);
    if (Stable(character.code)) {
      previous = at;
      at += character.length;
      continue;
    }
    // From the stable character before, which may take some of them in, to the next stable one.
    size_t end = at;
    while (end < text.size()) {
      character = ReadUtf8(text.data() + end);
      if (Stable(character.code)) break;
      end += character.length;
    }
    changed = true;
    out->append(text.substr(copied, previous - copied));
    AppendNormalized(text.substr(previous, end - previous), out);
    copied = previous = at = end;
  }
  if (!changed) return false;
  out->append(text.substr(copied));
  return true;
}

void NormalForm::AppendNormalized(std::string_view text, std::string* out) const {
  std::vector<utf8proc_int32_t> codes;
  while (!text.empty()) {
    const Utf8Character character = ReadUtf8(text.data());
    Decompose(character.code, IsCompatibility(kind_), &codes);
    text.remove_prefix(character.length);
  }
  // Canonical order: marks between two starters by their classes. utf8proc's own sorting takes
  // quadratic time.
  const auto is_starter = [](utf8proc_int32_t code) {
    return CombiningClass(static_cast<char32_t>(code)) == 0;
  };
  for (auto begin = codes.begin(); begin != codes.end();) {
    begin = std::find_if_not(begin, codes.end(), is_starter);
    const auto end = std::find_if(begin, codes.end(), is_starter);
    std::stable_sort(begin, end, [](utf8proc_int32_t a, utf8proc_int32_t b) {
      return CombiningClass(static_cast<char32_t>(a)) < CombiningClass(static_cast<char32_t>(b));
    });
    begin = end;
  }
  if (Composes(kind_)) Compose(&codes);
  for (const utf8proc_int32_t code : codes) AppendUtf8(static_cast<char32_t>(code), out);
}

}  // namespace adder
