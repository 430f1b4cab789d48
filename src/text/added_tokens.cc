#include "adder/text/added_tokens.h"

#include <algorithm>

#include "adder/text/unicode.h"
#include "adder/text/utf8.h"

namespace adder {
namespace {

bool IsAsciiSpace(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

}  // namespace

void AddedTokenMatcher::Add(const AddedToken& token, std::string_view text) {
  size_t node = 0;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    auto& children = nodes_[node].children;
    const auto child = std::find_if(children.begin(), children.end(),
                                    [&](const auto& entry) { return entry.first == byte; });
    if (child != children.end()) {
      node = static_cast<size_t>(child->second);
      continue;
    }
    const size_t made = nodes_.size();
    children.emplace_back(byte, static_cast<int32_t>(made));
    nodes_.emplace_back();  // `children` is gone
    node = made;
  }
  if (nodes_[node].token >= 0) return;
  nodes_[node].token = static_cast<int32_t>(tokens_.size());
  tokens_.push_back({token.id, token.single_word, token.lstrip, token.rstrip, std::string(text)});
  const auto first = static_cast<unsigned char>(text[0]);
  first_[first] = true;
  last_bytes_[static_cast<unsigned char>(text.back())] = true;
  if (text.size() == 1) {
    alone_[first] = true;
  } else {
    first_two_[first << 8 | static_cast<unsigned char>(text[1])] = true;
  }
}

bool AddedTokenMatcher::Find(std::string_view text, size_t from, Match* match) const {
  if (tokens_.empty()) return false;
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  for (size_t begin = from; begin < text.size(); ++begin) {
    if (!first_[byte(begin)]) continue;
    const bool two = begin + 1 < text.size() && first_two_[byte(begin) << 8 | byte(begin + 1)];
    if (!two && !alone_[byte(begin)]) continue;
    size_t node = 0;
    bool found = false;
    for (size_t end = begin; end < text.size();) {
      const auto& children = nodes_[node].children;
      const auto child = std::find_if(children.begin(), children.end(),
                                      [&](const auto& entry) { return entry.first == byte(end); });
      if (child == children.end()) break;
      node = static_cast<size_t>(child->second);
      ++end;
      if (nodes_[node].token >= 0) {
        *match = {begin, end, &tokens_[static_cast<size_t>(nodes_[node].token)]};
        found = true;
      }
    }
    if (found) return true;
  }
  return false;
}

bool AddedTokenMatcher::Accept(std::string_view text, size_t done, Match* match) {
  const Token& token = *match->token;
  const std::string_view before = text.substr(0, match->begin);
  std::string_view after = text.substr(match->end);
  if (token.single_word) {
    if (!before.empty() && IsWordCharacter(ReadLastUtf8(before).code)) return false;
    if (!after.empty() && IsWordCharacter(ReadUtf8(after.data()).code)) return false;
  }
  if (token.lstrip) {
    size_t begin = match->begin;
    while (begin > 0) {
      const Utf8Character character = ReadLastUtf8(text.substr(0, begin));
      if (!IsWhiteSpace(character.code)) break;
      begin -= character.length;
    }
    match->begin = std::max(begin, done);
  }
  while (token.rstrip && !after.empty()) {
    const Utf8Character character = ReadUtf8(after.data());
    if (!IsWhiteSpace(character.code)) break;
    match->end += character.length;
    after.remove_prefix(character.length);
  }
  return true;
}

bool AddedTokenMatcher::local() const {
  for (const Token& token : tokens_) {
    if (token.rstrip || (token.single_word && token.text.starts_with(' '))) return false;
    for (size_t i = 1; i < token.text.size(); ++i) {
      if (token.text[i] == ' ' && !IsAsciiSpace(token.text[i - 1])) return false;
    }
  }
  return true;
}

}  // namespace adder
