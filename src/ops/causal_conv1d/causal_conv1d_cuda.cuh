// What the forward's and the backward's kernels of causal_conv1d share: a thread's channels, and
// the kinds of arguments that kernels are made for.
#pragma once

#include <type_traits>

#include "adder/backend/cuda/numbers.cuh"
#include "adder/backend/cuda/runtime.cuh"
#include "adder/ops/causal_conv1d/causal_conv1d_cuda.h"

namespace adder::cuda {

// A thread's channels, kVector from `channel` on. kWidth is the width where kExact, or else at
// least it: earlier taps are left out.
template <class T, int kWidth, bool kExact, int kVector>
struct Channels {
  const CausalConv1dArguments& a;
  int64_t channel;
  float weight[kWidth][kVector];
  float bias[kVector];

  __device__ Channels(const CausalConv1dArguments& arguments, int64_t first)
      : a(arguments), channel(first) {
    if (a.bias != nullptr) {
      Load<kVector>(a.bias + channel, bias);
    } else {
#pragma unroll
      for (int i = 0; i < kVector; ++i) bias[i] = 0;
    }
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const float* from = a.weight + (channel + i) * a.width;
      float taps[kWidth];
      if constexpr (kExact && kVector > 1) {
        Load<kWidth>(from, taps);
      } else {
#pragma unroll
        for (int k = 0; k < kWidth; ++k) taps[k] = Taken(k) ? from[k - Skipped()] : 0.0f;
      }
#pragma unroll
      for (int k = 0; k < kWidth; ++k) weight[k][i] = taps[k];
    }
  }

  __device__ int Skipped() const { return kExact ? 0 : kWidth - static_cast<int>(a.width); }
  __device__ bool Taken(int k) const { return kExact || k >= Skipped(); }

  // Row `t` of the sequence whose first row is `first`; before it, the initial window.
  __device__ void Row(int64_t first, int64_t t, int64_t sequence, float (&to)[kVector]) const {
    if (t >= 0) {
      Load<kVector>(static_cast<const T*>(a.x.data) + (first + t) * a.x.stride + channel, to);
      return;
    }
    Before(t, sequence, to);
  }
  // Row t < 0.
  __device__ void Before(int64_t t, int64_t sequence, float (&to)[kVector]) const {
    const int64_t j = t + a.width - 1;
    if (j >= 0 && a.initial_window.data != nullptr) {
      Load<kVector>(a.initial_window.data + sequence * a.initial_window.sequence_stride +
                        j * a.initial_window.stride + channel,
                    to);
      return;
    }
#pragma unroll
    for (int i = 0; i < kVector; ++i) to[i] = 0;
  }

  // window[k]: row t - (kWidth - 1) + k.
  __device__ void Convolve(const float (&window)[kWidth][kVector], float (&to)[kVector]) const {
#pragma unroll
    for (int i = 0; i < kVector; ++i) to[i] = bias[i];
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      if (!Taken(k)) continue;
#pragma unroll
      for (int i = 0; i < kVector; ++i) to[i] = fmaf(weight[k][i], window[k][i], to[i]);
    }
  }
};

// A row further.
template <int kCount, int kVector>
__device__ inline void Shift(float (&window)[kCount][kVector]) {
#pragma unroll
  for (int k = 0; k + 1 < kCount; ++k) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) window[k][i] = window[k + 1][i];
  }
}

inline bool RowsAligned(const Rows& rows) {
  return AlignedTo(16, rows.data, rows.stride, rows.dtype == DType::kF32 ? 4 : 2);
}
inline bool WindowAligned(const ConvWindow& window) {
  return AlignedTo(16, window.data, window.stride, 4) && window.sequence_stride % 4 == 0;
}
// Whether the weights can be read by fours, where the width is the usual one.
inline bool WeightsAligned(const CausalConv1dArguments& a) {
  return AlignedTo(16, a.weight, 0, 4) && AlignedTo(16, a.bias, 0, 4);
}

// Calls visit(T{}, width, exact, vector), the latter three as integral constants: the usual width
// or any, and one channel a thread, or four where arguments are aligned (`vectors`).
template <int kValue>
using Constant = std::integral_constant<int, kValue>;
template <class Visit>
void VisitShape(const CausalConv1dArguments& a, bool vectors, Visit&& visit) {
  constexpr int kUsualWidth = 4;
  constexpr int kMostWidth = 8;
  VisitActivation(a.x.dtype, [&](auto type) {
    const bool fours = vectors && a.channels % 4 == 0;
    if (a.width == kUsualWidth && fours) {
      visit(type, Constant<kUsualWidth>(), std::true_type(), Constant<4>());
    } else if (a.width == kUsualWidth) {
      visit(type, Constant<kUsualWidth>(), std::true_type(), Constant<1>());
    } else if (fours) {
      visit(type, Constant<kMostWidth>(), std::false_type(), Constant<4>());
    } else {
      visit(type, Constant<kMostWidth>(), std::false_type(), Constant<1>());
    }
  });
}

}  // namespace adder::cuda
