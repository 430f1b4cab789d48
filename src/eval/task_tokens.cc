// Encoding and cutting of requests, and the beginning that they share.
#include "adder/eval/task_tokens.h"

#include <fmt/core.h>

#include <algorithm>
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

Choice EncodeRequest(const Tokenizer& tokenizer, const TaskDocument& document,
                     const TaskRequest& request, const TaskEncoding& encoding) {
  const std::string_view context = TrimEnd(request.context);
  if (context.empty()) {
    return EncodeWithoutContext(tokenizer, document, request.context + request.continuation,
                                encoding.prefix_token);
  }
  const std::vector<int32_t> whole = tokenizer.Encode(request.context + request.continuation);
  const std::vector<int32_t> before = tokenizer.Encode(context);
  // A token across the border belongs to the side where the context alone would have it.
  const auto border = static_cast<std::ptrdiff_t>(std::min(before.size(), whole.size()));
  Choice choice;
  choice.tokens = encoding.begin_tokens;
  choice.tokens.insert(choice.tokens.end(), before.begin(), before.end());
  choice.tokens.insert(choice.tokens.end(), whole.begin() + border, whole.end());
  choice.scored = static_cast<int64_t>(whole.size()) - border;
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
    Choice choice = EncodeRequest(tokenizer, document, request, encoding);
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
