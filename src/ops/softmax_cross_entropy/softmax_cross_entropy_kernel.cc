// softmax_cross_entropy over rows of logits: statistics in f32, two or three passes over a row that
// the cache holds.
#include "adder/ops/softmax_cross_entropy/softmax_cross_entropy_kernel.h"

#include "adder/backend/cpu/simd.h"

namespace adder::cpu::ADDER_ISA {
namespace {

// Vectors in flight: the exponential is a long chain of dependent instructions.
constexpr int kUnroll = 4;
constexpr int64_t kStep = kUnroll * kLanes;

float RowMax(const float* x, int64_t count) {
  F32 most[kUnroll];
  for (F32& lane : most) lane = Set(x[0]);
  int64_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    for (int u = 0; u < kUnroll; ++u) most[u] = Max(most[u], Load(x + i + u * kLanes));
  }
  for (; i < count; i += kLanes) {
    const int64_t n = count - i < kLanes ? count - i : kLanes;
    most[0] = Max(most[0], Select(FirstLanes(n), LoadPartial(x + i, n), most[0]));
  }
  return ReduceMax(Max(Max(most[0], most[1]), Max(most[2], most[3])));
}

// Σ exp(x[i] - most): NaN where an x is NaN, or where infinities leave no answer. `kept`, where
// given, gets the terms; it may be x.
template <bool kKeep>
float SumOfExp(const float* x, int64_t count, float most, float* kept) {
  F32 sums[kUnroll] = {};
  int64_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    F32 terms[kUnroll];
    for (int u = 0; u < kUnroll; ++u) terms[u] = Exp(Load(x + i + u * kLanes) - most);
    for (int u = 0; u < kUnroll; ++u) {
      sums[u] += terms[u];
      if constexpr (kKeep) Store(terms[u], kept + i + u * kLanes);
    }
  }
  for (; i < count; i += kLanes) {
    const int64_t n = count - i < kLanes ? count - i : kLanes;
    const F32 terms = Exp(LoadPartial(x + i, n) - most);
    sums[0] += Select(FirstLanes(n), terms, Zero());
    if constexpr (kKeep) StorePartial(terms, kept + i, n);
  }
  return ReduceSum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

template <class T>
void GradientOfRow(float* logits, float d_loss, int64_t target, int64_t vocab, T* d_logits) {
  const float sum = SumOfExp<true>(logits, vocab, RowMax(logits, vocab), logits);
  const float* terms = logits;
  // Before the row is overwritten, which may hold the terms.
  const float probability = terms[target] / sum;
  const float factor = d_loss / sum;
  int64_t v = 0;
  for (; v + kLanes <= vocab; v += kLanes) Store(Load(terms + v) * factor, d_logits + v);
  if (v < vocab) {
    StorePartial(LoadPartial(terms + v, vocab - v) * factor, d_logits + v, vocab - v);
  }
  StoreScalar((probability - 1.0f) * d_loss, d_logits + target);
}

template <class T>
void Gradient(const SoftmaxCrossEntropyBackwardArguments& a) {
  for (int64_t t = 0; t < a.rows; ++t) {
    T* d_logits = static_cast<T*>(a.d_logits) + t * a.d_logits_stride;
    if (a.targets[t] < 0) {
      __builtin_memset(static_cast<void*>(d_logits), 0, static_cast<size_t>(a.vocab) * sizeof(T));
    } else {
      GradientOfRow(a.logits + t * a.logits_stride, a.d_loss[t], a.targets[t], a.vocab, d_logits);
    }
  }
}

}  // namespace

void SoftmaxCrossEntropyKernel(const SoftmaxCrossEntropyArguments& a) {
  for (int64_t t = 0; t < a.rows; ++t) {
    const float* logits = a.logits + t * a.logits_stride;
    const float most = RowMax(logits, a.vocab);
    const float log_sum = Log(Set(SumOfExp<false>(logits, a.vocab, most, nullptr)))[0];
    // In this order a large common offset of the logits costs no precision.
    a.loss[t] = a.targets[t] < 0 ? 0.0f : log_sum + (most - logits[a.targets[t]]);
  }
}

void SoftmaxCrossEntropyBackwardKernel(const SoftmaxCrossEntropyBackwardArguments& a) {
  if (a.d_logits_dtype == DType::kBF16) {
    Gradient<BFloat16>(a);
  } else {
    Gradient<float>(a);
  }
}

}  // namespace adder::cpu::ADDER_ISA
