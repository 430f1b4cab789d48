// The normalizer of a tokenizer.json: what is done to text before it is cut into words.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "adder/formats/json.h"
#include "adder/text/pattern.h"
#include "adder/text/text_piece.h"
#include "adder/text/unicode.h"

namespace adder {

class Normalizer {
 public:
  // Does nothing.
  Normalizer() = default;
  // Reads the field "normalizer"; null does nothing. Known: NFC, NFD, NFKC, NFKD, Lowercase,
  // Prepend, Replace (a string or a regular expression), Strip, Sequence. Throws kUnsupported
  // naming another one, kCorrupt.
  static Normalizer Parse(const JsonObject& file);

  // The well-known normalizer that this is: NFC, or SentencePiece's spaces with and without one
  // before the text.
  enum class Style { kOther, kNone, kNfc, kMetaspace, kMetaspaceNoPrefix };
  Style style() const;

  // The piece as it becomes. Its text is the given one or lies in `buffer`. Throws kUnsupported
  // where it would become many times as long.
  TextPiece Apply(const TextPiece& piece, std::string* buffer) const;

  // Whether text may be cut before a space that stands between two ASCII characters other than
  // space, and the parts normalized on their own, the later ones as `continued`.
  bool local() const { return local_; }

 private:
  struct Prepend {
    std::string text;
  };
  struct Lowercase {};
  struct Replace {
    Pattern pattern;
    std::string content;
  };
  struct Strip {
    bool left;
    bool right;
  };
  using Step = std::variant<const NormalForm*, Lowercase, Prepend, Replace, Strip>;

  void ParseStep(const JsonObject& step);
  // Appends what the step makes of the piece; false, with nothing appended: it stays as it is. Of
  // what becomes longer than `most` bytes a part longer than that.
  static bool Run(const Step& step, TextPiece* piece, size_t most, std::string* out);

  std::string source_;
  std::vector<Step> steps_;
  bool local_ = true;
};

}  // namespace adder
