// What text is searched for: a string, or a regular expression. Over PCRE2.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace adder {

class Pattern {
 public:
  // Text as it is; not empty.
  static Pattern Literal(std::string text);
  // A regular expression over Unicode characters, in which \s, \w and \d mean Unicode's classes and
  // ^ and $ match at lines. Throws kUnsupported for one that PCRE2 does not take; `where` begins
  // the message.
  static Pattern Regex(std::string expression, std::string_view where);

  Pattern(Pattern&&) noexcept;
  Pattern& operator=(Pattern&&) noexcept;
  ~Pattern();

  // The string or the expression.
  const std::string& source() const { return source_; }
  bool is_literal() const { return code_ == nullptr; }

  struct Match {
    size_t begin;
    size_t end;
  };
  // Calls found(Match) for every match in `text`, valid UTF-8, from left to right; matches do not
  // overlap. Throws kUnsupported where the expression takes too many steps on the text.
  template <class Found>
  void ForEach(std::string_view text, Found&& found) const {
    Search search(*this, text);
    while (search.Next()) found(search.match());
  }

 private:
  struct Code;

  class Search {
   public:
    Search(const Pattern& pattern, std::string_view text);
    ~Search();
    Search(const Search&) = delete;
    Search& operator=(const Search&) = delete;

    bool Next();
    Match match() const { return match_; }

   private:
    struct Memory;

    const Pattern& pattern_;
    std::string_view text_;
    size_t from_ = 0;
    Match match_ = {0, 0};
    std::unique_ptr<Memory> memory_;
  };

  Pattern(std::string source, std::unique_ptr<Code> code);

  std::string source_;
  std::unique_ptr<Code> code_;  // null: a string
};

}  // namespace adder
