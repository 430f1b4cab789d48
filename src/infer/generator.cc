// The memory of all conversations is one packed State, which new ones join at the next forward;
// those without rows in a forward are empty sequences of its layout.
#include "adder/infer/generator.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <optional>
#include <span>
#include <utility>

#include "adder/backend/devices.h"
#include "adder/core/error.h"

namespace adder {

const char* FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kLength:
      return "length";
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kEos:
      return "eos";
    case FinishReason::kStopped:
      return "interrupted";
  }
  return "unknown";
}

std::string Generated::FinalText() const { return ToUtf8(session.unshown); }

struct Generator::Sequence {
  Sequence(int64_t number, Session&& session, const GenerationOptions& chosen)
      : id(number),
        options(chosen),
        tokens(std::move(session.pending)),
        recent(std::move(session.recent)),
        seed(session.seed),
        stream(session.stream),
        random(session.seed, session.stream, session.random_offset),
        matcher(chosen.stop),
        prompt_tokens(static_cast<int64_t>(tokens.size())),
        text(utf8.Push(matcher.Push(session.unshown))) {}

  bool complete() const { return generated == options.max_tokens; }

  // Tokens to read before the next one can be drawn. Where none is wanted the last token stays
  // unread: it is what a continuation begins with.
  int64_t Unread() const {
    return static_cast<int64_t>(tokens.size() - read) - (complete() ? 1 : 0);
  }

  void Take(int32_t token, const Tokenizer& tokenizer) {
    tokens.assign(1, token);
    read = 0;
    PushRecent(recent, token);
    ++generated;
    ended_by_eos = std::find(options.eos_tokens.begin(), options.eos_tokens.end(), token) !=
                   options.eos_tokens.end();
    if (!ended_by_eos) text += utf8.Push(matcher.Push(tokenizer.Bytes(token)));
  }

  std::optional<FinishReason> Ended() const {
    if (ended_by_eos) return FinishReason::kEos;
    if (matcher.stopped()) return FinishReason::kStop;
    if (complete() && Unread() == 0) return FinishReason::kLength;
    return std::nullopt;
  }

  int64_t id;
  GenerationOptions options;
  std::vector<int32_t> tokens;  // the first `read` of them the model has read
  size_t read = 0;
  std::vector<int32_t> recent;
  uint64_t seed;
  uint64_t stream;
  Random random;
  StopMatcher matcher;
  Utf8Stream utf8;
  int64_t prompt_tokens;
  int64_t generated = 0;
  bool ended_by_eos = false;
  std::string text;  // certain, not yet given out
};

Generator::Generator(const LanguageModel& model, const Tokenizer& tokenizer)
    : Generator(model, tokenizer, UsualRows(model.device())) {}

Generator::Generator(const LanguageModel& model, const Tokenizer& tokenizer, int64_t max_rows)
    : model_(model), tokenizer_(tokenizer), max_rows_(max_rows), decoder_(model) {
  if (max_rows < 1) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("a forward of at most {} rows, expected at least 1", max_rows));
  }
}

Generator::~Generator() = default;

int64_t Generator::Add(Session session, const GenerationOptions& options) {
  CheckSamplingOptions(options.sampling);
  if (options.max_tokens < 0) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("max_tokens is {}, expected at least 0", options.max_tokens));
  }
  if (session.pending.empty()) {
    throw Error(ErrorCode::kInvalidArgument, "nothing to read: a generation needs a first token");
  }
  for (const int32_t token : session.pending) {
    if (token < 0 || token >= model_.vocab_size()) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("token {} of the prompt is outside the model's vocabulary of {}",
                              token, model_.vocab_size()));
    }
  }
  if (session.state.sequences() != 1 || session.state.fingerprint() != model_.fingerprint()) {
    throw Error(ErrorCode::kInvalidArgument,
                "a conversation that this model did not begin cannot go on with it");
  }
  State state = std::move(session.state).To(model_.device());
  auto sequence = std::make_unique<Sequence>(next_id_, std::move(session), options);
  joining_.push_back(std::move(state));
  sequences_.push_back(std::move(sequence));
  return next_id_++;
}

int64_t Generator::active() const { return static_cast<int64_t>(sequences_.size()); }

void Generator::Join() {
  if (joining_.empty()) return;
  if (state_.sequences() > 0) joining_.insert(joining_.begin(), std::move(state_));
  state_ = joining_.size() == 1 ? std::move(joining_.front()) : State::Stack(joining_);
  joining_.clear();
}

SequenceLayout Generator::PlanRows() const {
  std::vector<int64_t> lengths;
  for (const auto& sequence : sequences_) {
    lengths.push_back(sequence->Ended() ? 0 : sequence->Unread());
  }
  // A running text waits for its one row; prompts share the rows that are left, at least one.
  int64_t left = std::max<int64_t>(1, max_rows_ - std::count(lengths.begin(), lengths.end(), 1));
  for (int64_t& length : lengths) {
    if (length <= 1) continue;
    length = std::min(length, left);
    left -= length;
  }
  return SequenceLayout::FromLengths(lengths);
}

Tensor Generator::TakeTokens(const SequenceLayout& layout) {
  const Tensor tokens = Tensor::Empty({layout.rows()}, DType::kI32);
  for (size_t s = 0; s < sequences_.size(); ++s) {
    Sequence& sequence = *sequences_[s];
    const auto index = static_cast<int64_t>(s);
    std::copy_n(sequence.tokens.data() + sequence.read, layout.length(index),
                tokens.data<int32_t>() + layout.begin(index));
    sequence.read += static_cast<size_t>(layout.length(index));
  }
  return tokens;
}

Tensor Generator::Read(const SequenceLayout& layout, const Tensor& tokens,
                       const std::vector<size_t>& drawing) {
  const auto draws = static_cast<int64_t>(drawing.size());
  // Every sequence has rows, and none more than one.
  if (draws == layout.sequences() && draws == layout.rows()) return decoder_.Step(tokens, &state_);
  const Tensor hidden = model_.Forward(tokens, layout, &state_);
  if (draws == 0) return {};
  // The head sees only the rows that predict a token.
  const Tensor last = Tensor::Empty({draws, hidden.dim(1)}, hidden.dtype(), hidden.device());
  for (int64_t i = 0; i < draws; ++i) {
    const int64_t row = layout.end(static_cast<int64_t>(drawing[static_cast<size_t>(i)])) - 1;
    last.Rows(i, 1).CopyFrom(hidden.Rows(row, 1));
  }
  return model_.Logits(last);
}

void Generator::Draw(const std::vector<size_t>& drawing, const Tensor& logits,
                     const std::function<void(const TokenEvent&)>& on_token) {
  // A vocabulary padded for speed has ids that are no tokens.
  const int64_t known = std::min(model_.vocab_size(), tokenizer_.vocab_size());
  std::vector<RowSampling> rows;
  std::vector<Random> randoms;  // where the sequences' go on once they have their tokens
  for (const size_t s : drawing) {
    const Sequence& sequence = *sequences_[s];
    const SamplingOptions& options = sequence.options.sampling;
    randoms.push_back(sequence.random);
    rows.push_back({options, sequence.recent, UniformFor(options, randoms.back())});
  }
  // Where the logits are; only the tokens come to the host.
  const Tensor drawn = Tensor::Empty({logits.dim(0)}, DType::kI32, logits.device());
  Sample(logits.Columns(0, known), rows, drawn);
  const Tensor tokens = drawn.To(Device{});
  const auto token_of = [&](size_t i) { return tokens.data<int32_t>()[i]; };
  for (size_t i = 0; i < drawing.size(); ++i) {
    if (token_of(i) >= 0) continue;
    const Tensor row = logits.Rows(static_cast<int64_t>(i), 1).To(Device{});
    // Throws, saying which logit is wrong.
    SamplingDistribution({row.data<float>(), static_cast<size_t>(known)}, rows[i].options);
  }
  for (size_t i = 0; i < drawing.size(); ++i) {
    Sequence& sequence = *sequences_[drawing[i]];
    const int32_t token = token_of(i);
    sequence.random = randoms[i];
    sequence.Take(token, tokenizer_);
    if (on_token) on_token({sequence.id, token, sequence.text});
    sequence.text.clear();
  }
}

std::vector<Generated> Generator::Step(const std::function<void(const TokenEvent&)>& on_token) {
  try {
    return Advance(on_token);
  } catch (...) {
    sequences_.clear();
    joining_.clear();
    state_ = State();
    throw;
  }
}

std::vector<Generated> Generator::Advance(const std::function<void(const TokenEvent&)>& on_token) {
  Join();
  const SequenceLayout layout = PlanRows();
  if (layout.rows() > 0) {
    const Tensor tokens = TakeTokens(layout);
    // Only a sequence that has read all it was given gets another token.
    std::vector<size_t> drawing;
    for (size_t s = 0; s < sequences_.size(); ++s) {
      const bool has_rows = layout.length(static_cast<int64_t>(s)) > 0;
      if (has_rows && !sequences_[s]->complete() && sequences_[s]->Unread() == 0) {
        drawing.push_back(s);
      }
    }
    const Tensor logits = Read(layout, tokens, drawing);
    if (!drawing.empty()) Draw(drawing, logits, on_token);
  }

  std::vector<Generated> results;
  std::vector<int64_t> staying;
  std::vector<std::unique_ptr<Sequence>> left;
  for (size_t s = 0; s < sequences_.size(); ++s) {
    if (const auto reason = sequences_[s]->Ended()) {
      results.push_back(Result(s, *reason));
    } else {
      staying.push_back(static_cast<int64_t>(s));
    }
  }
  if (!results.empty()) {
    state_ = state_.Select(staying);
    for (const int64_t s : staying) left.push_back(std::move(sequences_[static_cast<size_t>(s)]));
    sequences_ = std::move(left);
  }
  return results;
}

std::vector<Generated> Generator::Finish() {
  Join();
  std::vector<Generated> results;
  for (size_t s = 0; s < sequences_.size(); ++s) {
    results.push_back(Result(s, FinishReason::kStopped));
  }
  sequences_.clear();
  state_ = State();
  return results;
}

Generated Generator::Result(size_t index, FinishReason reason) const {
  const Sequence& sequence = *sequences_[index];
  const int64_t number = static_cast<int64_t>(index);
  Generated result;
  result.id = sequence.id;
  result.reason = reason;
  result.prompt_tokens = sequence.prompt_tokens;
  result.generated_tokens = sequence.generated;
  Session& session = result.session;
  session.state = state_.Select({&number, 1});
  session.pending.assign(sequence.tokens.begin() + static_cast<std::ptrdiff_t>(sequence.read),
                         sequence.tokens.end());
  session.recent = sequence.recent;
  session.unshown = sequence.text;
  session.unshown += sequence.utf8.pending();
  session.unshown += sequence.matcher.held();
  session.seed = sequence.seed;
  session.stream = sequence.stream;
  session.random_offset = sequence.random.offset();
  return result;
}

}  // namespace adder
