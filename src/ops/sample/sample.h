// sample: from logits to the next token. Filters shape the distribution that the logits are, and a
// uniform random number u draws from what they leave:
//
//     tokens[r] = the first t with Σ_{i ≤ t} p_r[i] > u_r,    greedy: the first likeliest t
//
// -1 where the row has no token to draw: a logit is NaN or +∞, or all are -∞.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "adder/core/random.h"
#include "adder/core/tensor.h"

namespace adder {

// Applied in this order: repetition penalty, temperature, top-k, top-p, min-p.
struct SamplingOptions {
  // Logits are divided by it. 0: greedy, the most likely token, and the filters are not used.
  double temperature = 0.8;
  // Only the k most likely tokens. 0: all.
  int64_t top_k = 0;
  // Only the smallest set of most likely tokens whose probabilities sum to at least top_p
  // (nucleus sampling, arXiv 1904.09751). 1: all.
  double top_p = 0.95;
  // Only tokens at least min_p times as likely as the most likely one (arXiv 2407.01082). 0: all.
  double min_p = 0.0;
  // Positive logits of the recent tokens are divided by it, others multiplied (CTRL,
  // arXiv 1909.05858), and rounded to f32; the largest stay finite. 1: none.
  double repetition_penalty = 1.0;
  // How many of the last tokens, the prompt's included, are the recent ones.
  int64_t repetition_window = 64;
};

// The longest repetition_window: what a conversation remembers of its tokens.
inline constexpr int64_t kMaxRepetitionWindow = 1024;

// Throws kInvalidArgument naming the option that has no valid value.
void CheckSamplingOptions(const SamplingOptions& options);

struct Candidate {
  int32_t token;
  double probability;

  friend bool operator==(const Candidate&, const Candidate&) = default;
};

// The distribution that the options make of one row of logits: the tokens that can be drawn, by
// rising id, their probabilities summing to 1. Where equally likely tokens compete for the last
// place, the lower id wins; greedy leaves one token. `recent` may hold a token more than once.
// Throws kNumeric for a NaN, +infinity, or nothing but -infinity (a token that cannot be drawn).
std::vector<Candidate> SamplingDistribution(std::span<const float> logits,
                                            const SamplingOptions& options,
                                            std::span<const int32_t> recent = {});

// Draws from the distribution by `uniform` in [0, 1), which greedy does not look at.
int32_t SampleToken(std::span<const float> logits, const SamplingOptions& options,
                    std::span<const int32_t> recent, double uniform);

// The next number of `random` to draw a token by. Greedy takes nothing, all else takes one
// NextDouble(), however the distribution looks, so that a stream's position says how many tokens
// were drawn.
double UniformFor(const SamplingOptions& options, Random& random);

// How a row's token is drawn.
struct RowSampling {
  SamplingOptions options;
  std::span<const int32_t> recent;
  double uniform = 0.0;
};

// SampleToken of each row, with -1 instead of kNumeric. logits: f32 [rows, vocab], at most 2^31 - 1
// tokens. rows: how each is drawn. tokens: i32 [rows], dense. A device draws what the CPU draws,
// unless sums of probabilities lie within some 1e-9 of `uniform` or top_p. Throws kInvalidArgument
// when shapes or dtypes disagree or an option has no valid value, kUnsupported for a device without
// this operator.
void Sample(const Tensor& logits, std::span<const RowSampling> rows, const Tensor& tokens);

}  // namespace adder
