// softmax_cross_entropy over rows of logits: statistics in f32, two passes over a row that the
// cache holds.
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

// Σ exp(x[i] - most): NaN where an x is NaN, or where infinities leave no answer.
float SumOfExp(const float* x, int64_t count, float most) {
  F32 sums[kUnroll] = {};
  int64_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    for (int u = 0; u < kUnroll; ++u) sums[u] += Exp(Load(x + i + u * kLanes) - most);
  }
  for (; i < count; i += kLanes) {
    const int64_t n = count - i < kLanes ? count - i : kLanes;
    sums[0] += Select(FirstLanes(n), Exp(LoadPartial(x + i, n) - most), Zero());
  }
  return ReduceSum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

template <class T>
void GradientOfRow(const float* logits, float log_sum_exp, float d_loss, int64_t target,
                   int64_t vocab, T* d_logits) {
  // Before the row is overwritten, which may hold the logits.
  const float probability = Exp(Set(logits[target] - log_sum_exp))[0];
  int64_t v = 0;
  for (; v + kStep <= vocab; v += kStep) {
    F32 p[kUnroll];
    for (int u = 0; u < kUnroll; ++u) p[u] = Load(logits + v + u * kLanes) - log_sum_exp;
    for (int u = 0; u < kUnroll; ++u) p[u] = Exp(p[u]) * d_loss;
    for (int u = 0; u < kUnroll; ++u) Store(p[u], d_logits + v + u * kLanes);
  }
  for (; v < vocab; v += kLanes) {
    const int64_t n = vocab - v < kLanes ? vocab - v : kLanes;
    StorePartial(Exp(LoadPartial(logits + v, n) - log_sum_exp) * d_loss, d_logits + v, n);
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
      GradientOfRow(a.logits + t * a.logits_stride, a.log_sum_exp[t], a.d_loss[t], a.targets[t],
                    a.vocab, d_logits);
    }
  }
}

}  // namespace

void SoftmaxCrossEntropyKernel(const SoftmaxCrossEntropyArguments& a) {
  for (int64_t t = 0; t < a.rows; ++t) {
    const float* logits = a.logits + t * a.logits_stride;
    const float most = RowMax(logits, a.vocab);
    const float log_sum = Log(Set(SumOfExp(logits, a.vocab, most)))[0];
    // In this order a large common offset of the logits costs no precision.
    a.loss[t] = a.targets[t] < 0 ? 0.0f : log_sum + (most - logits[a.targets[t]]);
    if (a.log_sum_exp != nullptr) a.log_sum_exp[t] = most + log_sum;
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
