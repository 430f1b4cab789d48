// Generation for any number of conversations at once. They lie packed one after the other: a
// forward mixes long pieces of new prompts with single tokens of running texts, without padding,
// and a conversation may join or leave between any two forwards.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "adder/infer/decoder.h"
#include "adder/infer/session.h"
#include "adder/infer/stop_matcher.h"
#include "adder/models/language_model.h"
#include "adder/ops/sample/sample.h"
#include "adder/text/tokenizer.h"

namespace adder {

struct GenerationOptions {
  SamplingOptions sampling;
  // Tokens to generate at most. 0: read the prompt, all but its last token.
  int64_t max_tokens = 256;
  // Texts that end the generation; they are not given out.
  std::vector<std::string> stop;
  // Tokens that end the generation.
  std::vector<int64_t> eos_tokens;
};

enum class FinishReason {
  kLength,   // max_tokens were generated
  kStop,     // a stop string was generated
  kEos,      // an end token was generated
  kStopped,  // Generator::Finish was called before
};

// "length", "stop", "eos", "interrupted": as printed.
const char* FinishReasonName(FinishReason reason);

// A token was generated.
struct TokenEvent {
  int64_t id;  // what Generator::Add returned
  int32_t token;
  // The text that became certain by it, whole UTF-8 characters; often empty or more than a token's.
  std::string_view text;
};

// A generation has ended.
struct Generated {
  int64_t id = -1;
  FinishReason reason = FinishReason::kLength;
  int64_t prompt_tokens = 0;  // pending when it was added
  int64_t generated_tokens = 0;
  // To go on from here. Its `unshown` are the last bytes of the text, given out by no event so that
  // a text continued later is the text that was never interrupted; to end here, print FinalText().
  Session session;

  // `unshown` as UTF-8.
  std::string FinalText() const;
};

class Generator {
 public:
  // Model and tokenizer must outlive the generator. Only tokens that both know are drawn.
  // `max_rows` bounds the rows of one forward, and so the memory that long prompts take: running
  // texts have a row each, whatever it is, and prompts what is left, at least one. Without it they
  // are UsualRows() of the model's device.
  Generator(const LanguageModel& model, const Tokenizer& tokenizer);
  Generator(const LanguageModel& model, const Tokenizer& tokenizer, int64_t max_rows);
  ~Generator();
  Generator(const Generator&) = delete;
  Generator& operator=(const Generator&) = delete;

  // Begins a generation that goes on from `session`, which must have something pending to read;
  // returns a number that names it. Throws kInvalidArgument for a token outside the model's
  // vocabulary or an option without a valid value.
  int64_t Add(Session session, const GenerationOptions& options);

  // Generations in progress.
  int64_t active() const;

  // One forward: every running text reads its last token and gets its next one, prompts are read
  // with the rows that are left, in the order in which they came. Calls on_token for each token
  // generated and returns the generations that ended, in the order of their numbers.
  // Throws kNumeric when the logits are not finite numbers, and what forward and on_token throw.
  // Then nothing is in progress any more: what the texts have read is no longer known.
  std::vector<Generated> Step(const std::function<void(const TokenEvent&)>& on_token = {});

  // Ends everything in progress where it stands.
  std::vector<Generated> Finish();

 private:
  struct Sequence;

  std::vector<Generated> Advance(const std::function<void(const TokenEvent&)>& on_token);
  // Puts the memory of what was added behind that of the others, all of it at once.
  void Join();
  // The rows of the next forward.
  SequenceLayout PlanRows() const;
  // Their tokens, which count as read from then on: i32 [rows].
  Tensor TakeTokens(const SequenceLayout& layout);
  // Reads them; returns the logits of the last row of each of the sequences `drawing`.
  Tensor Read(const SequenceLayout& layout, const Tensor& tokens,
              const std::vector<size_t>& drawing);
  // Draws their next tokens.
  void Draw(const std::vector<size_t>& drawing, const Tensor& logits,
            const std::function<void(const TokenEvent&)>& on_token);
  Generated Result(size_t index, FinishReason reason) const;

  const LanguageModel& model_;
  const Tokenizer& tokenizer_;
  int64_t max_rows_;
  int64_t next_id_ = 0;
  // sequences_[s] is the conversation whose memory is sequence s of state_; the memory of those
  // that were added since the last forward is in joining_.
  std::vector<std::unique_ptr<Sequence>> sequences_;
  State state_;
  std::vector<State> joining_;
  Decoder decoder_;
};

}  // namespace adder
