// Tokens that are found in the text itself, before it is cut into words: special tokens, and others
// that a tokenizer.json lists under "added_tokens".
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace adder {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and that behind it
  bool normalized = false;   // looked for in normalized text, itself normalized
};

// Finds a set of tokens in text: at each place the longest, from left to right.
class AddedTokenMatcher {
 public:
  // Adds a token under the text that is looked for, which is not empty. Of equal texts the first
  // counts.
  void Add(const AddedToken& token, std::string_view text);

  bool empty() const { return tokens_.empty(); }

  // Cuts valid UTF-8: calls token(id) for each token found and between(begin, end) for the
  // stretches between, none of which is empty, from left to right.
  template <class Token, class Between>
  void Split(std::string_view text, Token&& token, Between&& between) const {
    size_t done = 0;
    size_t at = 0;
    Match match = {};
    while (Find(text, at, &match)) {
      at = match.end;
      if (!Accept(text, done, &match)) continue;
      if (done < match.begin) between(done, match.begin);
      token(match.token->id);
      done = match.end;
    }
    if (done < text.size()) between(done, text.size());
  }

  // Whether text may be cut before a space between two ASCII characters other than space, and every
  // token is found in the parts that is found in the whole.
  bool local() const;
  // The bytes with which tokens end.
  const std::bitset<256>& last_bytes() const { return last_bytes_; }

 private:
  struct Token {
    int32_t id;
    bool single_word;
    bool lstrip;
    bool rstrip;
    std::string text;
  };
  struct Match {
    size_t begin;
    size_t end;
    const Token* token;
  };
  struct Node {
    int32_t token = -1;  // that ends here
    std::vector<std::pair<unsigned char, int32_t>> children;
  };

  // The first token at or after `from`.
  bool Find(std::string_view text, size_t from, Match* match) const;
  // Whether the token may stand there; widens it over white space, back to `done` at most.
  static bool Accept(std::string_view text, size_t done, Match* match);

  std::vector<Token> tokens_;
  std::vector<Node> nodes_ = {Node{}};
  // By their first two bytes, so that most places are passed by at a glance.
  std::array<bool, 256> first_ = {};
  std::bitset<65536> first_two_;
  std::bitset<256> alone_;  // tokens of one byte
  std::bitset<256> last_bytes_;
};

}  // namespace adder
