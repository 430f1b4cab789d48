// What Unicode says of characters: classes, lower case, normal forms. Over utf8proc.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace adder {

// General category L*, N*.
bool IsLetter(char32_t code);
bool IsNumber(char32_t code);
// The property White_Space.
bool IsWhiteSpace(char32_t code);
// What \w matches: letters, marks, decimal digits, connectors and other alphabetic characters.
bool IsWordCharacter(char32_t code);
// General category P*, and ASCII's symbols.
bool IsPunctuation(char32_t code);

// Appends valid UTF-8 in lower case, character by character (the full mapping, without context).
void AppendLowercase(std::string_view text, std::string* out);

// One of the four normal forms (Unicode Standard Annex 15).
class NormalForm {
 public:
  enum Kind { kNfc, kNfd, kNfkc, kNfkd };

  // The form, made at its first use.
  static const NormalForm& Get(Kind kind);

  // Brings valid UTF-8 into the form: appended to `out`. False, and nothing is appended, where the
  // text is in the form already as far as a look at each character alone can tell.
  bool Append(std::string_view text, std::string* out) const;

 private:
  explicit NormalForm(Kind kind);

  // Whether the character stays as it is in any text, and neither it nor what comes after it
  // changes what is before it.
  bool Stable(char32_t code) const { return code >= stable_.size() || stable_[code]; }
  void AppendNormalized(std::string_view text, std::string* out) const;

  Kind kind_;
  std::vector<bool> stable_;
};

}  // namespace adder
