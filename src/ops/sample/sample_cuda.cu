// sample on CUDA: a block for each row. Nothing is sorted: the last token that top-k or top-p keeps
// is found by its digits, with a histogram of the tokens' weights for each digit, and the token to
// draw by sums of weights over ranges of tokens, each a piece of the range before. Weights are
// whole numbers, so that sums do not depend on the order in which the threads add.
#include <cmath>
#include <cstdint>

#include "adder/backend/cuda/launch.cuh"
#include "adder/backend/cuda/numbers.cuh"
#include "adder/ops/most_likely/best_logit.cuh"
#include "adder/ops/sample/sample_cuda.h"

namespace adder::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarp = 32;
constexpr int kWarps = kThreads / kWarp;
constexpr unsigned kAllLanes = 0xffffffff;

// Digits of a number of 32 bits: 11, 11 and 10 of them.
constexpr int kDigits = 3;
constexpr int kBins = 1 << 11;

// A number that orders as the score does.
__device__ uint32_t OrderOf(float score) {
  if (score == 0.0f) score = 0.0f;  // both zeros are one
  const uint32_t bits = __float_as_uint(score);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

// visit(i, read(i)) for i = begin, begin + kStep, ... less than end. kAtOnce are read before the
// first of them is visited, because memory answers late.
template <int kStep, int kAtOnce, class Read, class Visit>
__device__ void VisitSteps(int64_t begin, int64_t end, const Read& read, const Visit& visit) {
  for (; begin < end; begin += kAtOnce * kStep) {
    decltype(read(begin)) values[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int64_t i = begin + j * kStep;
      values[j] = i < end ? read(i) : 0;
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int64_t i = begin + j * kStep;
      if (i < end) visit(i, values[j]);
    }
  }
}

struct Place {
  int64_t index;
  uint64_t rest;  // of the target, without the weights before the index
};

// The first i of `count` at which the sum of weight(i, read(i)) up to it is more than the target,
// in all threads of the block. `target_of` makes the target of the sum of all weights, less than
// that.
template <class Read, class Weight, class Target>
__device__ Place FirstPast(int64_t count, const Read& read, const Weight& weight,
                           const Target& target_of) {
  __shared__ uint64_t sums[kWarps];
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  int64_t begin = 0;
  int64_t end = count;
  uint64_t rest = 0;
  // Each warp adds up a piece of the range; the piece in which the target is becomes the range.
  for (bool whole = true; whole || end - begin > kWarp; whole = false) {
    const int64_t piece = (end - begin + kThreads - 1) / kThreads * kWarp;
    const int64_t from = begin + warp * piece;
    const int64_t to = from + piece < end ? from + piece : end;
    uint64_t sum = 0;
    VisitSteps<kWarp, 4>(from + lane, to, read,
                         [&](int64_t i, auto value) { sum += weight(i, value); });
    sum = WarpSum(sum);
    __syncthreads();  // the sums before have been read
    if (lane == 0) sums[warp] = sum;
    __syncthreads();
    if (whole) {
      uint64_t total = 0;
      for (int w = 0; w < kWarps; ++w) total += sums[w];
      rest = target_of(total);
    }
    int w = 0;
    for (; w < kWarps - 1 && rest >= sums[w]; ++w) rest -= sums[w];
    begin += w * piece;
    end = begin + piece < end ? begin + piece : end;
  }
  // At most a weight a lane is left; every warp does the same.
  const int64_t last = begin + lane;
  const uint64_t mine = last < end ? weight(last, read(last)) : 0;
  uint64_t upto = mine;
#pragma unroll
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const uint64_t below = __shfl_up_sync(kAllLanes, upto, distance);
    if (lane >= distance) upto += below;
  }
  const int first = __ffs(static_cast<int>(__ballot_sync(kAllLanes, upto > rest))) - 1;
  return {begin + first, rest - __shfl_sync(kAllLanes, upto - mine, first)};
}

// 64-bit sums as two words each: shared memory adds words.
struct Histogram {
  uint32_t low[kBins];
  uint32_t high[kBins];

  __device__ void Add(uint32_t bin, uint64_t weight) {
    const auto low_word = static_cast<uint32_t>(weight);
    const uint32_t before = atomicAdd(&low[bin], low_word);
    const uint32_t carry = before + low_word < before ? 1 : 0;
    const uint32_t high_word = static_cast<uint32_t>(weight >> 32) + carry;
    if (high_word != 0) atomicAdd(&high[bin], high_word);
  }
  __device__ uint64_t operator[](uint32_t bin) const {
    return static_cast<uint64_t>(high[bin]) << 32 | low[bin];
  }
};

// The likeliest tokens up to one of them; of equally likely ones the lower id is the likelier.
struct Kept {
  uint32_t order = 0;  // its place in the order of scores, of which all are more than 0
  int64_t token = 0;

  __device__ bool operator()(uint32_t other_order, int64_t other) const {
    return other_order > order || (other_order == order && other <= token);
  }
};

// Up to the first token at which the sum of the weights from the likeliest on is more than the
// target.
template <class Read, class Weight, class Target>
__device__ Kept KeepLikeliest(int64_t vocab, const Read& read, Histogram& histogram,
                              const Weight& weight, const Target& target_of) {
  uint32_t order = 0;  // the digits found so far
  uint64_t rest = 0;
  for (int digit = kDigits - 1; digit >= 0; --digit) {
    const int shift = digit == 0 ? 0 : 11 * digit - 1;
    const int bits = digit == 0 ? 10 : 11;
    for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kThreads) {
      histogram.low[bin] = histogram.high[bin] = 0;
    }
    __syncthreads();
    VisitSteps<kThreads, 4>(threadIdx.x, vocab, read, [&](int64_t i, float score) {
      const uint32_t digits = OrderOf(score) >> shift;
      if (digits >> bits != order) return;
      const uint64_t w = weight(i, score);
      if (w != 0) histogram.Add(digits & ((1u << bits) - 1), w);
    });
    __syncthreads();
    const Place place = FirstPast(
        kBins, [&](int64_t i) { return histogram[static_cast<uint32_t>(kBins - 1 - i)]; },
        [](int64_t, uint64_t sum) { return sum; },
        [&](uint64_t total) { return digit == kDigits - 1 ? target_of(total) : rest; });
    order = order << bits | static_cast<uint32_t>(kBins - 1 - place.index);
    rest = place.rest;
    __syncthreads();  // the histogram has been read
  }
  const Place place = FirstPast(
      vocab, read,
      [&](int64_t i, float score) { return OrderOf(score) == order ? weight(i, score) : 0; },
      [&](uint64_t) { return rest; });
  return {order, place.index};
}

// The likeliest token's weight as a whole number: such that the sum of all is less than 2^63.
__device__ double ScaleOf(int64_t vocab) {
  const int bits = 64 - __clzll(static_cast<long long>(vocab));  // vocab < 2^bits
  return static_cast<double>(1ull << (62 - bits));
}

// One copy of a long function that many places call.
__device__ __noinline__ double ExpOf(double x) { return exp(x); }

// A part of the total that rounding may have made as large as that.
__device__ uint64_t LessThan(uint64_t total, uint64_t part) {
  return part < total ? part : total - 1;
}

__global__ void __launch_bounds__(kThreads) SampleKernel(const SampleArguments a) {
  __shared__ Histogram histogram;
  const int64_t row = blockIdx.x;
  const int64_t vocab = a.vocab;
  LetNextKernelBegin();
  WaitForKernelsBefore();
  const SampleRow options = a.options[row];
  const float* logits = static_cast<const float*>(a.logits.data) + row * a.logits.stride;
  const float* scores = logits;
  if (options.recent_count > 0) {
    float* penalised = a.scores + row * vocab;
    VisitSteps<kThreads, 4>(
        threadIdx.x, vocab, [logits](int64_t i) { return logits[i]; },
        [&](int64_t i, float logit) { penalised[i] = logit; });
    __syncthreads();
    const int32_t* recent = a.recent + options.recent_begin;
    for (int64_t i = threadIdx.x; i < options.recent_count; i += kThreads) {
      const int32_t token = recent[i];
      if (token < 0 || token >= vocab) continue;
      // From the logits, not from the score: a token that occurs twice is penalised once.
      const double logit = logits[token];
      if (isinf(logit) || isnan(logit)) continue;
      constexpr double kMost = 3.4028234663852886e38;  // of f32
      const double score =
          logit > 0.0 ? logit / options.repetition_penalty : logit * options.repetition_penalty;
      penalised[token] = static_cast<float>(fmin(fmax(score, -kMost), kMost));
    }
    __syncthreads();
    scores = penalised;
  }
  const BestLogit best = BestOfRow<kThreads>(scores, vocab);
  if (best.token < 0 || options.temperature == 0.0) {
    if (threadIdx.x == 0) a.tokens[row] = best.token;
    return;
  }

  const auto read = [scores](int64_t i) { return scores[i]; };
  const double inverse_temperature = 1.0 / options.temperature;
  const double scale = ScaleOf(vocab);
  // Of the likeliest token's probability.
  const auto share_of = [&](float score) {
    const double below = static_cast<double>(score) - static_cast<double>(best.logit);
    if (below == 0.0) return 1.0;  // the inverse may be infinite
    const double exponent = below * inverse_temperature;
    return exponent < -45.0 ? 0.0 : ExpOf(exponent);  // less than half of 1 / scale
  };
  const auto weight_of = [&](double share) {
    return static_cast<uint64_t>(__double2ull_rn(share * scale));
  };

  Kept top_k;
  if (options.top_k < vocab) {
    top_k = KeepLikeliest(
        vocab, read, histogram, [](int64_t, float) { return uint64_t{1}; },
        [&](uint64_t) { return static_cast<uint64_t>(options.top_k - 1); });
  }
  Kept kept = top_k;
  if (options.top_p < 1.0) {
    kept = KeepLikeliest(
        vocab, read, histogram,
        [&](int64_t i, float score) {
          return top_k(OrderOf(score), i) ? weight_of(share_of(score)) : uint64_t{0};
        },
        [&](uint64_t total) {
          // More than this is at least top_p.
          const double part = ceil(options.top_p * static_cast<double>(total));
          return LessThan(total, static_cast<uint64_t>(part) - 1);
        });
  }
  const Place drawn = FirstPast(
      vocab, read,
      [&](int64_t i, float score) {
        if (!kept(OrderOf(score), i)) return uint64_t{0};
        const double share = share_of(score);
        return share < options.min_p ? 0 : weight_of(share);
      },
      [&](uint64_t total) {
        const double part = options.uniform * static_cast<double>(total);
        return LessThan(total, static_cast<uint64_t>(part));
      });
  if (threadIdx.x == 0) a.tokens[row] = static_cast<int32_t>(drawn.index);
}

}  // namespace

void Sample(const SampleArguments& a) {
  if (a.rows == 0) return;
  Context& context = ContextOf(a.device);
  const ProfilerRange range("sample");
  LaunchOverlapped(context,
                   {.name = "sample", .grid = static_cast<unsigned>(a.rows), .block = kThreads},
                   SampleKernel, a);
}

}  // namespace adder::cuda
