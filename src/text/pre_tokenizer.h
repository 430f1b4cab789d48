// The pre-tokenizer of a tokenizer.json: how text is cut into the words within which merges happen.
#pragma once

#include <functional>
#include <string>
#include <variant>
#include <vector>

#include "adder/formats/json.h"
#include "adder/text/pattern.h"
#include "adder/text/text_piece.h"

namespace adder {

class PreTokenizer {
 public:
  // Leaves text whole.
  PreTokenizer() = default;
  // Reads the field "pre_tokenizer"; null leaves text whole. Known: ByteLevel, Split, Metaspace,
  // Digits, Punctuation, Whitespace, WhitespaceSplit, Sequence. Throws kUnsupported naming another
  // one, kCorrupt.
  static PreTokenizer Parse(const JsonObject& file);

  using Sink = std::function<void(const TextPiece&)>;
  // Gives the words of a piece (valid UTF-8) to `sink`, from left to right; none is empty, and
  // their text lives during the call only.
  void Apply(const TextPiece& piece, const Sink& sink) const;

  // There is a ByteLevel step. Its alphabet is left out where it comes last: words are then the
  // text's own bytes.
  bool byte_level() const { return byte_level_; }
  bool maps_bytes() const { return maps_bytes_; }
  // Nothing but GPT-2's words: ForEachGpt2Word does the same.
  bool is_gpt2() const { return style_ == Style::kGpt2; }
  // The well-known way of cutting that this is.
  enum class Style {
    kOther,
    kNone,
    kGpt2,
    kLlama3,
    kQwen2,
    kFalcon,
    kMetaspace,
    kMetaspaceNoPrefix
  };
  Style style() const { return style_; }
  bool empty() const { return steps_.empty(); }
  // Whether text that is cut before a space between two ASCII characters other than space gives the
  // words of the whole, but for words across the cut.
  bool local() const { return local_; }
  // Whether no word goes across such a cut.
  bool cuts_at_spaces() const { return cuts_at_spaces_; }

 private:
  // What becomes of the pattern's matches.
  enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

  struct ByteLevel {
    bool add_prefix_space;
    bool use_regex;
    bool map = true;  // into the alphabet of bytes
  };
  struct Split {
    Pattern pattern;
    Behavior behavior;
    bool invert;
    bool gpt2;  // the pattern is GPT-2's, isolated
  };
  struct CharacterSplit {
    bool (*matches)(char32_t);
    Behavior behavior;
  };
  struct Words {};  // runs of word characters and runs of what is neither word nor space
  struct Metaspace {
    enum Scheme { kAlways, kFirst, kNever };
    std::string replacement;
    Scheme scheme;
    bool split;
  };
  using Step = std::variant<ByteLevel, Split, CharacterSplit, Words, Metaspace>;

  template <class Emit>
  class Merger;
  template <class Emit>
  static void RunStep(const Step& step, const TextPiece& piece, const Emit& emit);

  static Behavior ParseBehavior(const JsonObject& step, const char* fallback);
  void ParseStep(const JsonObject& step);
  Style FindStyle() const;
  void Run(size_t index, const TextPiece& piece, const Sink& sink) const;

  std::vector<Step> steps_;
  bool byte_level_ = false;
  bool maps_bytes_ = false;
  Style style_ = Style::kNone;
  bool local_ = true;
  bool cuts_at_spaces_ = false;
};

}  // namespace adder
