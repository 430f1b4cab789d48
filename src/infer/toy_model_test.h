// A language model for the tests of jobs: a few lines of arithmetic with a memory, exact whatever
// the batch and the chunks are, so that expectations can be equalities.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "adder/core/error.h"
#include "adder/core/random.h"
#include "adder/models/language_model.h"
#include "adder/text/tokenizer.h"

namespace adder::test {

// The memory m is f32 [sequences, vocab]: each token halves it and adds 1 in its own place. The
// logits are W·m with a random W.
class ToyModel : public LanguageModel {
 public:
  explicit ToyModel(int64_t vocab_size, uint64_t seed = 1)
      : vocab_(vocab_size), weights_(Tensor::Empty({vocab_size, vocab_size}, DType::kF32)) {
    Random random(seed);
    FillNormal(weights_, random, 0.0, 1.5);
  }

  // Logits become NaN once this token was read last.
  void BreakAfter(int32_t token) { breaking_ = token; }
  // The most rows that one forward was given, and the number of forwards.
  int64_t most_rows() const { return most_rows_; }
  int64_t forwards() const { return forwards_; }

  int64_t vocab_size() const override { return vocab_; }
  int64_t n_layer() const override { return 1; }
  DType compute_dtype() const override { return DType::kF32; }
  std::span<Parameter> parameters() override { return {}; }
  uint64_t fingerprint() const override { return 0x70f0 + static_cast<uint64_t>(vocab_); }
  void ParametersChanged() override {}

  State InitialState(int64_t sequences) const override {
    return State(fingerprint(), std::vector<int64_t>(static_cast<size_t>(sequences), 0),
                 {{"memory", Tensor::Zeros({sequences, vocab_}, DType::kF32)}});
  }

  Variable Hidden(Tape*, const Tensor& tokens, const SequenceLayout& layout, Memory* memory,
                  Recompute, SelectionTrace*) const override {
    ++forwards_;
    most_rows_ = std::max(most_rows_, layout.rows());
    const Tensor entry = memory->entries.front().value();
    const Tensor hidden = Tensor::Empty({layout.rows(), vocab_}, DType::kF32);
    for (int64_t s = 0; s < layout.sequences(); ++s) {
      memory->positions[static_cast<size_t>(s)] += layout.length(s);
      float* m = entry.data<float>() + s * vocab_;
      for (int64_t row = layout.begin(s); row < layout.end(s); ++row) {
        for (int64_t v = 0; v < vocab_; ++v) m[v] *= 0.5f;
        const int32_t token = tokens.data<int32_t>()[row];
        m[token] += 1.0f;
        float* h = hidden.data<float>() + row * vocab_;
        std::copy_n(m, vocab_, h);
        if (token == breaking_) h[0] = std::numeric_limits<float>::quiet_NaN();
      }
    }
    return Variable(hidden);
  }

  Tensor Logits(const Tensor& hidden) const override {
    const Tensor logits = Tensor::Empty({hidden.dim(0), vocab_}, DType::kF32);
    for (int64_t row = 0; row < hidden.dim(0); ++row) {
      for (int64_t v = 0; v < vocab_; ++v) {
        float sum = 0.0f;
        for (int64_t j = 0; j < vocab_; ++j) {
          sum += weights_.data<float>()[v * vocab_ + j] * hidden.data<float>()[row * vocab_ + j];
        }
        logits.data<float>()[row * vocab_ + v] = sum;
      }
    }
    return logits;
  }

  Variable Loss(Tape*, const Variable& hidden, const Tensor& targets) const override {
    const Tensor logits = Logits(hidden.value());
    const Tensor loss = Tensor::Empty({logits.dim(0)}, DType::kF32);
    for (int64_t row = 0; row < logits.dim(0); ++row) {
      const float* l = logits.data<float>() + row * vocab_;
      double sum = 0.0;
      for (int64_t v = 0; v < vocab_; ++v) sum += std::exp(static_cast<double>(l[v]));
      loss.data<float>()[row] =
          static_cast<float>(std::log(sum) - static_cast<double>(l[targets.data<int32_t>()[row]]));
    }
    return Variable(loss);
  }

 private:
  int64_t vocab_;
  Tensor weights_;
  int32_t breaking_ = -1;
  mutable int64_t most_rows_ = 0;
  mutable int64_t forwards_ = 0;
};

// Tokens 0, 1, 2, … stand for the given texts; of texts that match, the longest is taken.
class ToyTokenizer : public Tokenizer {
 public:
  explicit ToyTokenizer(std::vector<std::string> texts) : texts_(std::move(texts)) {}

  // "a", "b", "c", …
  static ToyTokenizer Letters(int count) {
    std::vector<std::string> texts;
    texts.reserve(static_cast<size_t>(count));
    for (int i = 0; i < count; ++i) texts.emplace_back(1, static_cast<char>('a' + i));
    return ToyTokenizer(texts);
  }

  int64_t vocab_size() const override { return static_cast<int64_t>(texts_.size()); }
  std::vector<int32_t> Encode(std::string_view text) const override {
    std::vector<int32_t> tokens;
    while (!text.empty()) {
      size_t best = texts_.size();
      for (size_t i = 0; i < texts_.size(); ++i) {
        if (text.starts_with(texts_[i]) &&
            (best == texts_.size() || texts_[i].size() > texts_[best].size())) {
          best = i;
        }
      }
      if (best == texts_.size()) throw Error(ErrorCode::kInvalidArgument, "no such token");
      tokens.push_back(static_cast<int32_t>(best));
      text.remove_prefix(texts_[best].size());
    }
    return tokens;
  }
  std::string_view Bytes(int32_t token) const override {
    return texts_.at(static_cast<size_t>(token));
  }
  void Save(const std::filesystem::path&) const override {}

 private:
  std::vector<std::string> texts_;
};

}  // namespace adder::test
