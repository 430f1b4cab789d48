// causal_conv1d on CUDA for sequences of one row each, as in generation. Memory-bound by the
// windows, which are read once, convolved and written a row further, in place where they are the
// same. Results are, bit for bit, those of the kernels for many rows.
#include "adder/backend/cuda/launch.cuh"
#include "adder/backend/cuda/numbers.cuh"
#include "adder/ops/causal_conv1d/causal_conv1d_step_cuda.cuh"

namespace adder::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kMostWidth = 8;
constexpr int64_t kManySequences = 32;  // from here on threads take several and share weights

// The weights of kVector channels, weight[k][i] of tap k.
template <int kWidth, int kVector>
__device__ void LoadWeights(const CausalConv1dArguments& a, int width, int64_t channel,
                            bool in_fours, float (&weight)[kWidth][kVector]) {
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    const float* from = a.weight + (channel + i) * width;
    if (kWidth == 4 && in_fours) {
      float four[4];
      Load<4>(from, four);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) weight[k][i] = four[k % 4];
    } else {
#pragma unroll
      for (int k = 0; k < kWidth; ++k) weight[k][i] = k < width ? from[k] : 0.0f;
    }
  }
}

// kWidth: the width where kExact, else at least it. kTogether: sequences of a thread.
template <class T, int kWidth, bool kExact, int kVector, int kTogether>
__global__ void __launch_bounds__(kThreads)
    StepKernel(const __grid_constant__ CausalConv1dArguments a, bool weights_in_fours) {
  const int64_t channel = (static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x) * kVector;
  const bool owns = channel < a.channels;
  LetNextKernelBegin();
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kTogether;
  if (owns) {
    // What was not written just before may have left the cache long ago.
    Prefetch(a.weight + channel * a.width);
    if (a.bias != nullptr) Prefetch(a.bias + channel);
    if (a.initial_window.data != nullptr) {
      for (int64_t k = 0; k + 1 < a.width; ++k) {
        Prefetch(a.initial_window.data + first * a.initial_window.sequence_stride +
                 k * a.initial_window.stride + channel);
      }
    }
  }
  WaitForKernelsBefore();
  if (!owns) return;
  const int width = kExact ? kWidth : static_cast<int>(a.width);
  // What lies past the last sequence is computed as the last one, and not written.
  const auto sequence_of = [&](int j) { return min(first + j, a.sequences - 1); };

  // Of taps beyond the width nothing is read, nor multiplied.
  Bits<T, kVector> rows[kTogether];
  float window[kTogether][kWidth][kVector];
#pragma unroll
  for (int j = 0; j < kTogether; ++j) {
    const int64_t sequence = sequence_of(j);
    rows[j] = LoadBits<kVector>(static_cast<const T*>(a.x.data) + sequence * a.x.stride + channel);
#pragma unroll
    for (int k = 0; k + 1 < kWidth; ++k) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) window[j][k][i] = 0;
      if (k < width - 1 && a.initial_window.data != nullptr) {
        Load<kVector>(a.initial_window.data + sequence * a.initial_window.sequence_stride +
                          k * a.initial_window.stride + channel,
                      window[j][k]);
      }
    }
  }
  float weight[kWidth][kVector];
  LoadWeights(a, width, channel, weights_in_fours, weight);
  float bias[kVector] = {};
  if (a.bias != nullptr) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) bias[i] = a.bias[channel + i];
  }

#pragma unroll
  for (int j = 0; j < kTogether; ++j) {
    if (first + j >= a.sequences) break;
    float row[kVector];
    Unpack<T, kVector>(rows[j], row);
    float sum[kVector];
#pragma unroll
    for (int i = 0; i < kVector; ++i) sum[i] = bias[i];
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      if (k >= width) continue;
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        const float tap = k == width - 1 ? row[i] : window[j][k][i];
        sum[i] = fmaf(weight[k][i], tap, sum[i]);
      }
    }
    if (a.silu) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) sum[i] *= Sigmoid(sum[i]);
    }
    Store<kVector>(sum, static_cast<T*>(a.y.data) + (first + j) * a.y.stride + channel);
    if (a.final_window.data == nullptr) continue;
    float* to = a.final_window.data + (first + j) * a.final_window.sequence_stride + channel;
#pragma unroll
    for (int k = 0; k + 1 < kWidth; ++k) {
      if (k >= width - 1) continue;
      Store<kVector>(k == width - 2 ? row : window[j][(k + 1) % kWidth],
                     to + k * a.final_window.stride);
    }
  }
}

template <class T, int kWidth, bool kExact, int kVector, int kTogether>
void Launch(Context& context, const CausalConv1dArguments& a) {
  const auto blocks = static_cast<unsigned>((a.sequences + kTogether - 1) / kTogether);
  const auto across =
      static_cast<unsigned>((a.channels + kThreads * kVector - 1) / (kThreads * kVector));
  LaunchOverlapped(
      context, {.name = "causal_conv1d's step", .grid = dim3(blocks, across), .block = kThreads},
      StepKernel<T, kWidth, kExact, kVector, kTogether>, a, AlignedTo(16, a.weight, a.width, 4));
}

}  // namespace

bool IsConvStep(const CausalConv1dArguments& a) {
  for (int64_t s = 0; s <= a.sequences; ++s) {
    if (a.offsets[s] != s) return false;
  }
  return true;
}

void CausalConv1dStep(Context& context, const CausalConv1dArguments& a, bool vectors) {
  VisitActivation(a.x.dtype, [&](auto type) {
    using T = decltype(type);
    if (a.width == 4 && vectors && a.channels % 4 == 0) {
      if (a.sequences < kManySequences) {
        Launch<T, 4, true, 4, 1>(context, a);
      } else {
        Launch<T, 4, true, 4, 2>(context, a);
      }
    } else {
      Launch<T, kMostWidth, false, 1, 1>(context, a);
    }
  });
}

}  // namespace adder::cuda
