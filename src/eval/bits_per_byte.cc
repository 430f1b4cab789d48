// Reads the text part by part, the tokens chunk by chunk; only the state lives from one to the
// next.
#include "adder/eval/bits_per_byte.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numbers>
#include <span>
#include <vector>

#include "adder/core/error.h"

namespace adder {
namespace {

constexpr size_t kPartBytes = size_t{64} << 10;

// The model's memory of the text so far, and the token it predicts the next one from.
class Reader {
 public:
  Reader(const LanguageModel& model, int64_t start_token)
      : model_(model), state_(model.InitialState(1)), last_(start_token) {}

  // -ln p of all `tokens` (at least one), given everything read before.
  double Read(std::span<const int32_t> tokens) {
    double nats = 0.0;
    if (last_ < 0) {
      nats = std::log(static_cast<double>(model_.vocab_size()));
      last_ = tokens.front();
      tokens = tokens.subspan(1);
      if (tokens.empty()) return nats;
    }
    const auto rows = static_cast<int64_t>(tokens.size());
    const Tensor targets = Tensor::From<int32_t>({rows}, tokens);
    const Tensor inputs = Tensor::Empty({rows}, DType::kI32);
    inputs.data<int32_t>()[0] = static_cast<int32_t>(last_);
    std::copy(tokens.begin(), tokens.end() - 1, inputs.data<int32_t>() + 1);
    last_ = tokens.back();

    const Tensor hidden = model_.Forward(inputs, SequenceLayout::Single(rows), &state_);
    const Tensor loss = model_.Loss(nullptr, Variable(hidden), targets).value().To(Device{});
    for (const float value : std::span(loss.data<float>(), tokens.size())) {
      nats += static_cast<double>(value);
    }
    return nats;
  }

 private:
  const LanguageModel& model_;
  State state_;
  int64_t last_;
};

}  // namespace

double BitsPerByte::bits() const { return nats / std::numbers::ln2; }
double BitsPerByte::bits_per_byte() const { return bits() / static_cast<double>(bytes); }
double BitsPerByte::perplexity(int64_t units) const {
  return std::exp(nats / static_cast<double>(units));
}

BitsPerByte MeasureBitsPerByte(const LanguageModel& model, const Tokenizer& tokenizer,
                               std::string_view text, const BitsPerByteOptions& options) {
  if (text.empty()) {
    throw Error(ErrorCode::kInvalidArgument, "bits per byte of an empty text");
  }
  if (options.chunk_rows < 1 || options.start_token >= model.vocab_size()) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("bits per byte: chunk_rows {} (expected at least 1), start_token {} "
                            "(expected less than the vocabulary, {})",
                            options.chunk_rows, options.start_token, model.vocab_size()));
  }
  const auto begin = std::chrono::steady_clock::now();
  BitsPerByte result;
  Reader reader(model, options.start_token);
  const auto total = static_cast<int64_t>(text.size());
  tokenizer.EncodeParts(text, kPartBytes, [&](std::span<const int32_t> tokens, size_t bytes) {
    for (const int32_t token : tokens) {
      if (token < 0 || token >= model.vocab_size()) {
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("token {} of the text is outside the model's vocabulary of {}",
                                token, model.vocab_size()));
      }
    }
    const auto part_bytes = static_cast<int64_t>(bytes);
    int64_t read_bytes = 0;
    while (!tokens.empty()) {
      if (options.cancel != nullptr && options.cancel->load()) {
        throw Error(ErrorCode::kCancelled, fmt::format("evaluation stopped after {} of {} bytes",
                                                       result.bytes + read_bytes, total));
      }
      const std::span<const int32_t> chunk =
          tokens.first(std::min(tokens.size(), static_cast<size_t>(options.chunk_rows)));
      tokens = tokens.subspan(chunk.size());
      const double nats = reader.Read(chunk);
      if (!std::isfinite(nats)) {
        throw Error(ErrorCode::kNumeric,
                    fmt::format("the model's loss is {} between bytes {} and {} of the text", nats,
                                result.bytes + read_bytes, result.bytes + part_bytes));
      }
      result.nats += nats;
      result.tokens += static_cast<int64_t>(chunk.size());
      for (const int32_t token : chunk) {
        read_bytes += static_cast<int64_t>(tokenizer.Bytes(token).size());
      }
      // A tokenizer that normalises gives tokens of other lengths than the text's.
      read_bytes = std::min(read_bytes, part_bytes);
      if (options.progress) options.progress(result.bytes + read_bytes, total);
    }
    result.bytes += part_bytes;
  });
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return result;
}

}  // namespace adder
