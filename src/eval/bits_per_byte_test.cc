// Bits per byte against a plain loop over the whole text, whatever the pieces are.
#include "adder/eval/bits_per_byte.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "adder/core/error.h"
#include "adder/infer/toy_model_test.h"

namespace adder {
namespace {

using test::ToyModel;
using test::ToyTokenizer;

std::string RandomText(size_t length, int letters) {
  Random random(3);
  std::string text;
  while (text.size() < length) {
    text += static_cast<char>('a' + random.NextBelow(static_cast<uint64_t>(letters)));
  }
  return text;
}

// The definition: -Σ ln p(token | all before), the first token uniform unless a start is given.
double Nats(const LanguageModel& model, std::vector<int32_t> tokens, int32_t start) {
  double nats = 0.0;
  if (start >= 0) {
    tokens.insert(tokens.begin(), start);
  } else {
    nats = std::log(static_cast<double>(model.vocab_size()));
  }
  const auto rows = static_cast<int64_t>(tokens.size()) - 1;
  State state;
  const Tensor inputs = Tensor::From<int32_t>({rows}, std::span(tokens).first(tokens.size() - 1));
  const Tensor targets = Tensor::From<int32_t>({rows}, std::span(tokens).subspan(1));
  const Tensor hidden = model.Forward(inputs, SequenceLayout::Single(rows), &state);
  const Tensor loss = model.Loss(nullptr, Variable(hidden), targets).value();
  for (int64_t i = 0; i < rows; ++i) nats += static_cast<double>(loss.data<float>()[i]);
  return nats;
}

TEST(BitsPerByte, IsTheCrossEntropyOfTheWholeText) {
  const ToyModel model(6);
  const ToyTokenizer tokenizer = ToyTokenizer::Letters(6);
  const std::string text = RandomText(500, 6);
  for (const int32_t start : {-1, 4}) {
    const double expected = Nats(model, tokenizer.Encode(text), start);
    for (const int64_t chunk : {1, 2, 7, 499, 500, 1000}) {
      BitsPerByteOptions options;
      options.start_token = start;
      options.chunk_rows = chunk;
      const BitsPerByte result = MeasureBitsPerByte(model, tokenizer, text, options);
      // The toy model's memory is exact in any chunks; sums in double differ by their order.
      EXPECT_NEAR(result.nats, expected, 1e-9 * expected);
      EXPECT_EQ(result.bytes, 500);
      EXPECT_EQ(result.tokens, 500);
      EXPECT_DOUBLE_EQ(result.bits_per_byte(), result.nats / std::numbers::ln2 / 500);
      EXPECT_DOUBLE_EQ(result.perplexity(250), std::exp(result.nats / 250));
    }
  }
}

TEST(BitsPerByte, CountsBytesAndNotTokens) {
  const ToyModel model(3);
  const ToyTokenizer tokenizer({"ab", "abcd", "x"});
  const BitsPerByte result = MeasureBitsPerByte(model, tokenizer, "abcdabxab");
  EXPECT_EQ(result.bytes, 9);
  EXPECT_EQ(result.tokens, 4);
}

TEST(BitsPerByte, ASingleByteIsUniform) {
  const ToyModel model(8);
  const BitsPerByte result = MeasureBitsPerByte(model, ToyTokenizer::Letters(8), "c");
  EXPECT_NEAR(result.bits_per_byte(), 3.0, 1e-12);
  EXPECT_EQ(model.forwards(), 0);
}

// A tokenizer whose tokens are those of any parts that cut no character.
class InParts : public ToyTokenizer {
 public:
  InParts() : ToyTokenizer({"a", "b", " ", "é"}) {}
  size_t PartLength(std::string_view text, size_t bytes) const override {
    if (text.size() <= bytes) return text.size();
    return (static_cast<unsigned char>(text[bytes]) & 0xC0) == 0x80 ? bytes - 1 : bytes;
  }
};

// Text longer than the parts in which it is tokenized.
TEST(BitsPerByte, LongTextsAreReadInPartsWithTheStateCarried) {
  const InParts parts;
  const ToyTokenizer whole({"a", "b", " ", "é"});
  for (const ToyTokenizer* given : {static_cast<const ToyTokenizer*>(&parts), &whole}) {
    const ToyTokenizer& tokenizer = *given;
    const ToyModel model(4);
    std::string text;
    Random random(8);
    while (text.size() < 150000) {
      text += tokenizer.Bytes(static_cast<int32_t>(random.NextBelow(4)));
    }
    int64_t last = 0;
    int64_t calls = 0;
    BitsPerByteOptions options;
    options.progress = [&](int64_t bytes, int64_t total) {
      EXPECT_GT(bytes, last);
      EXPECT_EQ(total, static_cast<int64_t>(text.size()));
      last = bytes;
      ++calls;
    };
    const BitsPerByte result = MeasureBitsPerByte(model, tokenizer, text, options);
    EXPECT_EQ(model.most_rows(), options.chunk_rows);
    const double expected = Nats(model, tokenizer.Encode(text), -1);
    EXPECT_NEAR(result.nats, expected, 1e-9 * expected);
    EXPECT_EQ(last, static_cast<int64_t>(text.size()));
    EXPECT_LE(calls, 180);  // no crumbs
  }
}

ErrorCode CodeOf(const LanguageModel& model, std::string_view text,
                 const BitsPerByteOptions& options = {}) {
  try {
    MeasureBitsPerByte(model, ToyTokenizer::Letters(8), text, options);
  } catch (const Error& error) {
    return error.code();
  }
  ADD_FAILURE() << "no error was thrown";
  return ErrorCode::kIo;
}

TEST(BitsPerByte, RefusesWhatHasNoAnswer) {
  ToyModel model(5);
  EXPECT_EQ(CodeOf(model, ""), ErrorCode::kInvalidArgument);
  EXPECT_EQ(CodeOf(model, "abcf"), ErrorCode::kInvalidArgument);  // f is 5
  BitsPerByteOptions options;
  options.start_token = 5;
  EXPECT_EQ(CodeOf(model, "abc", options), ErrorCode::kInvalidArgument);
  model.BreakAfter(2);
  EXPECT_EQ(CodeOf(model, "abcabc"), ErrorCode::kNumeric);
}

TEST(BitsPerByte, StopsWhenAskedTo) {
  const ToyModel model(5);
  std::atomic<bool> cancel = false;
  BitsPerByteOptions options;
  options.chunk_rows = 10;
  options.cancel = &cancel;
  int64_t reached = 0;
  options.progress = [&](int64_t bytes, int64_t) {
    reached = bytes;
    cancel = bytes >= 30;
  };
  EXPECT_EQ(CodeOf(model, RandomText(100, 5), options), ErrorCode::kCancelled);
  EXPECT_EQ(reached, 30);
}

}  // namespace
}  // namespace adder
