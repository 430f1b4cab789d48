// The decoder of a tokenizer.json, worked out for every token: the bytes that it adds to a text.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "adder/formats/json.h"

namespace adder {

class TokenDecoder {
 public:
  // Reads the field "decoder". Known: ByteLevel, Metaspace, and Sequences of Replace (a string),
  // ByteFallback, Strip and Fuse; null puts spaces between the tokens. Throws kUnsupported naming
  // what cannot be done token by token, kCorrupt.
  static TokenDecoder Parse(const JsonObject& file);

  // What a token with this text (valid UTF-8) adds behind others. Throws kUnsupported where that is
  // many times as long.
  std::string Bytes(std::string_view token) const;
  // What it is as the first one: the space that encoding put before the text is gone.
  std::string FirstBytes(std::string_view token) const;

 private:
  enum class Kind { kSpaces, kByteLevel, kMetaspace, kSteps };
  struct Step {
    enum Kind { kReplace, kByteFallback, kStrip } kind;
    std::string pattern;  // kReplace; kStrip: the character
    std::string content;
    int64_t start = 0;  // kStrip: how many at most
    int64_t stop = 0;
  };

  void ParseStep(const JsonObject& step);

  std::string source_;
  Kind kind_ = Kind::kSpaces;
  std::string metaspace_;
  bool drop_first_metaspace_ = false;
  std::vector<Step> steps_;
  bool fused_ = false;
  std::string first_;  // a character that the text loses at its beginning; empty: none
};

}  // namespace adder
