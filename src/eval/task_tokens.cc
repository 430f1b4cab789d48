// Encoding and cutting of requests, and the beginning that they share.
#include "adder/eval/task_tokens.h"

#include <fmt/core.h>

#include <algorithm>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "adder/core/error.h"
#include "adder/eval/whitespace.h"

namespace adder {
namespace {

[[noreturn]] void Refuse(const TaskDocument& document, std::string_view reason) {
  throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: {}", document.source, reason));
}

using Choice = TokenDocument::Choice;

// Here and below a choice has all tokens of its request.
Choice EncodeWithoutContext(const Tokenizer& tokenizer, const TaskDocument& document,
                            const std::string& continuation, int64_t prefix_token) {
  if (prefix_token < 0) {
    Refuse(document,
           "nothing comes before the words to predict, and the model has no begin or end token "
           "that could stand there");
  }
  Choice choice;
  choice.tokens = tokenizer.Encode(continuation);
  const auto prefix = static_cast<int32_t>(prefix_token);
  if (choice.tokens.empty() || choice.tokens.front() != prefix) {
    choice.tokens.insert(choice.tokens.begin(), prefix);
  }
  choice.scored = static_cast<int64_t>(choice.tokens.size()) - 1;
  return choice;
}

// With what the tokenizer itself puts around a text.
std::vector<int32_t> EncodeText(const Tokenizer& tokenizer, std::string_view text) {
  const std::span<const int32_t> before = tokenizer.prefix_tokens();
  const std::span<const int32_t> behind = tokenizer.suffix_tokens();
  std::vector<int32_t> tokens = tokenizer.Encode(text);
  tokens.insert(tokens.begin(), before.begin(), before.end());
  tokens.insert(tokens.end(), behind.begin(), behind.end());
  return tokens;
}

Choice EncodeRequest(const Tokenizer& tokenizer, const TaskDocument& document,
                     const TaskRequest& request, int64_t prefix_token) {
  const std::string_view context = TrimEnd(request.context);
  if (context.empty()) {
    return EncodeWithoutContext(tokenizer, document, request.context + request.continuation,
                                prefix_token);
  }
  const std::vector<int32_t> whole = EncodeText(tokenizer, request.context + request.continuation);
  Choice choice;
  choice.tokens = EncodeText(tokenizer, context);
  // A token across the border belongs to the side where the context alone would have it.
  const auto border = static_cast<std::ptrdiff_t>(std::min(choice.tokens.size(), whole.size()));
  choice.scored = static_cast<int64_t>(whole.size()) - border;
  choice.tokens.insert(choice.tokens.end(), whole.begin() + border, whole.end());
  return choice;
}

}  // namespace

int64_t TokenDocument::rows() const {
  auto rows = static_cast<int64_t>(shared.size());
  for (const Choice& choice : choices) rows += static_cast<int64_t>(choice.tokens.size()) - 1;
  return rows;
}

TokenDocument EncodeDocument(const Tokenizer& tokenizer, const TaskDocument& document,
                             const TaskEncoding& encoding, int64_t vocab_size) {
  TokenDocument result;
  for (const TaskRequest& request : document.requests) {
    Choice choice = EncodeRequest(tokenizer, document, request, encoding.prefix_token);
    if (choice.scored == 0) Refuse(document, "a choice has no tokens to predict");
    if (choice.scored > encoding.max_length) {
      Refuse(document, fmt::format("a choice has {} tokens to predict, more than the {} that the "
                                   "model is to read",
                                   choice.scored, encoding.max_length));
    }
    for (const int32_t token : choice.tokens) {
      if (token < 0 || token >= vocab_size) {
        Refuse(document,
               fmt::format("token {} is outside the model's vocabulary of {}", token, vocab_size));
      }
    }
    const auto rows = static_cast<int64_t>(choice.tokens.size()) - 1;
    if (rows > encoding.max_length) {
      choice.tokens.erase(choice.tokens.begin(),
                          choice.tokens.begin() + (rows - encoding.max_length));
    }
    result.choices.push_back(std::move(choice));
  }
  if (result.choices.size() < 2) return result;

  // What all begin with, up to the row that predicts the first token asked for.
  const std::vector<int32_t>& first = result.choices.front().tokens;
  size_t shared = first.size();
  for (const Choice& choice : result.choices) {
    const size_t context = choice.tokens.size() - static_cast<size_t>(choice.scored) - 1;
    shared = std::min(shared, context);
    const auto differs = std::mismatch(
        first.begin(), first.begin() + static_cast<std::ptrdiff_t>(shared), choice.tokens.begin());
    shared = static_cast<size_t>(differs.first - first.begin());
  }
  const auto end = static_cast<std::ptrdiff_t>(shared);
  result.shared.assign(first.begin(), first.begin() + end);
  for (Choice& choice : result.choices) {
    choice.tokens.erase(choice.tokens.begin(), choice.tokens.begin() + end);
  }
  return result;
}

}  // namespace adder
