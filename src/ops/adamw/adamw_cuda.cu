// adamw on CUDA: one launch for all tensors, which are cut into pieces that blocks take in turn.
// Memory-bound.
#include <algorithm>
#include <type_traits>
#include <vector>

#include "adder/backend/cuda/caching_memory.h"
#include "adder/backend/cuda/numbers.cuh"
#include "adder/backend/cuda/row_access.cuh"
#include "adder/backend/cuda/runtime.cuh"
#include "adder/ops/adamw/adamw_cuda.h"

namespace adder::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kVector = 4;
constexpr int64_t kPiece = 8192;  // elements

int64_t Pieces(int64_t elements) { return (elements + kPiece - 1) / kPiece; }

// What a kernel gets of the tensors: their table on the device, numbered pieces.
template <class Each>
struct Pieced {
  const Each* tensors;
  int64_t count;
  int64_t pieces;

  // The last tensor that begins at or before the piece: an empty one begins where its successor
  // does.
  __device__ const Each& TensorOf(int64_t piece) const {
    int64_t low = 0;
    int64_t high = count;
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      if (tensors[middle].first_piece <= piece) {
        low = middle;
      } else {
        high = middle;
      }
    }
    return tensors[low];
  }
};

template <class Each>
Pieced<Each> CutIntoPieces(Context& context, const Each* tensors, int64_t count) {
  std::vector<Each> table(tensors, tensors + count);
  int64_t pieces = 0;
  for (Each& each : table) {
    each.first_piece = pieces;
    pieces += Pieces(each.elements);
  }
  if (pieces == 0) return {nullptr, 0, 0};
  const auto bytes = static_cast<int64_t>(table.size() * sizeof(Each));
  return {static_cast<const Each*>(context.Table(table.data(), bytes)), count, pieces};
}

unsigned BlocksFor(const Context& context, int64_t pieces) {
  return static_cast<unsigned>(std::min<int64_t>(pieces, 8 * context.multiprocessors()));
}

__device__ bool Aligned(const void* data, int bytes) {
  return reinterpret_cast<uintptr_t>(data) % static_cast<unsigned>(bytes) == 0;
}

// Calls visit(i, n) for the thread's share of [begin, end): n = kVector elements from i on where
// vectors can be used, one otherwise.
template <class Visit>
__device__ void ForEachOfPiece(int64_t begin, int64_t end, bool vectors, const Visit& visit) {
  if (!vectors) {
    for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
      visit(i, std::integral_constant<int, 1>());
    }
    return;
  }
  const int64_t whole = begin + (end - begin) / kVector * kVector;
#pragma unroll 2
  for (int64_t i = begin + threadIdx.x * kVector; i < whole; i += kThreads * kVector) {
    visit(i, std::integral_constant<int, kVector>());
  }
  if (whole + threadIdx.x < end) visit(whole + threadIdx.x, std::integral_constant<int, 1>());
}

constexpr float kMostGradient = 0x1p63f;

// The step's scalars: given, or on the device where a kernel before this one left them.
__device__ const AdamWStep& Scalars(const AdamWStep& given) { return given; }
__device__ const AdamWStep& Scalars(const AdamWStep* left) { return *left; }

template <class Step>
__global__ void __launch_bounds__(kThreads)
    AdamWKernel(AdamWArguments a, Step scalars, Pieced<AdamWTensor> all) {
  const AdamWStep step = Scalars(scalars);
  if (!step.applied) return;
  for (int64_t piece = blockIdx.x; piece < all.pieces; piece += gridDim.x) {
    const AdamWTensor t = all.TensorOf(piece);
    const int64_t begin = (piece - t.first_piece) * kPiece;
    const int64_t end = begin + kPiece < t.elements ? begin + kPiece : t.elements;
    const double lr = step.lr * t.lr_scale;
    const auto decay = static_cast<float>(lr * t.weight_decay);
    const auto rate = static_cast<float>(lr * step.first_correction);
    const bool vectors = Aligned(t.gradient, 16) && Aligned(t.weight, 16) && Aligned(t.m, 16) &&
                         Aligned(t.v, 16) && Aligned(t.compute_weight, 8);
    ForEachOfPiece(begin, end, vectors, [&](int64_t i, auto count) {
      constexpr int kCount = decltype(count)::value;
      float g[kCount], w[kCount], m[kCount], v[kCount];
      Load<kCount>(t.gradient + i, g);
      Load<kCount>(t.weight + i, w);
      Load<kCount>(t.m + i, m);
      Load<kCount>(t.v + i, v);
#pragma unroll
      for (int k = 0; k < kCount; ++k) {
        float scaled = g[k] * step.gradient_scale;
        // A finite gradient's square stays finite; NaN and infinity go through.
        if (fabsf(scaled) < INFINITY) {
          scaled = fmaxf(-kMostGradient, fminf(kMostGradient, scaled));
        }
        m[k] = fmaf(a.beta1, m[k], a.one_minus_beta1 * scaled);
        v[k] = fmaf(a.beta2, v[k], a.one_minus_beta2 * scaled * scaled);
        const float update = rate * m[k] / (sqrtf(v[k] * step.second_correction) + a.eps);
        w[k] -= fmaf(decay, w[k], update);
      }
      Store<kCount>(m, t.m + i);
      Store<kCount>(v, t.v + i);
      Store<kCount>(w, t.weight + i);
      if (t.compute_weight == nullptr) return;
      if (t.compute_dtype == DType::kF16) {
        Store<kCount>(w, static_cast<__half*>(t.compute_weight) + i);
      } else {
        Store<kCount>(w, static_cast<__nv_bfloat16*>(t.compute_weight) + i);
      }
    });
  }
}

__device__ const float* Summed(const FloatSpan& span) { return span.data; }
__device__ const float* Summed(const AdamWTensor& tensor) { return tensor.gradient; }

// sums[piece]: of its squares. A block's threads add theirs in a fixed order.
template <class Each>
__global__ void __launch_bounds__(kThreads) SumOfSquaresKernel(Pieced<Each> all, double* sums) {
  for (int64_t piece = blockIdx.x; piece < all.pieces; piece += gridDim.x) {
    const Each t = all.TensorOf(piece);
    const float* data = Summed(t);
    const int64_t begin = (piece - t.first_piece) * kPiece;
    const int64_t end = begin + kPiece < t.elements ? begin + kPiece : t.elements;
    double sum = 0;
    ForEachOfPiece(begin, end, Aligned(data, 16), [&](int64_t i, auto count) {
      constexpr int kCount = decltype(count)::value;
      float values[kCount];
      Load<kCount>(data + i, values);
#pragma unroll
      for (int k = 0; k < kCount; ++k) {
        sum = fma(static_cast<double>(values[k]), static_cast<double>(values[k]), sum);
      }
    });
    sum = BlockSum<kThreads>(sum);
    if (threadIdx.x == 0) sums[piece] = sum;
  }
}

// Σ values, by all threads of the one block; thread 0 gets it.
template <class T>
__device__ double SumOf(const T* values, int64_t count) {
  double mine = 0;
#pragma unroll 8
  for (int64_t i = threadIdx.x; i < count; i += kThreads) mine += static_cast<double>(values[i]);
  return BlockSum<kThreads>(mine);
}

__global__ void __launch_bounds__(kThreads)
    AddSumsKernel(const double* sums, int64_t count, double* sum) {
  const double all = SumOf(sums, count);
  if (threadIdx.x == 0) *sum = all;
}

// One block: the result, and the step that follows from it.
__global__ void __launch_bounds__(kThreads)
    ClipKernel(ClippedAdamWArguments a, const double* squares, int64_t pieces, AdamWStep* step,
               const volatile uint32_t* fault) {
  const double nats = SumOf(a.losses, a.rows);
  const double norm = sqrt(SumOf(squares, pieces));
  if (threadIdx.x != 0) return;
  a.result[0] = nats;
  a.result[1] = norm;
  step->lr = *a.lr;
  step->first_correction = *a.first_correction;
  step->second_correction = static_cast<float>(*a.second_correction);
  step->gradient_scale = a.clip > 0 && norm > a.clip ? static_cast<float>(a.clip / norm) : 1.0f;
  step->applied = isfinite(nats) && isfinite(norm) && *fault == 0;
}

__global__ void __launch_bounds__(kThreads) SetZeroKernel(Pieced<FloatSpan> all) {
  for (int64_t piece = blockIdx.x; piece < all.pieces; piece += gridDim.x) {
    const FloatSpan t = all.TensorOf(piece);
    const int64_t begin = (piece - t.first_piece) * kPiece;
    const int64_t end = begin + kPiece < t.elements ? begin + kPiece : t.elements;
    ForEachOfPiece(begin, end, Aligned(t.data, 16), [&](int64_t i, auto count) {
      constexpr int kCount = decltype(count)::value;
      const float zeros[kCount] = {};
      Store<kCount>(zeros, t.data + i);
    });
  }
}

__global__ void __launch_bounds__(kThreads) RoundKernel(Pieced<RoundedSpan> all) {
  for (int64_t piece = blockIdx.x; piece < all.pieces; piece += gridDim.x) {
    const RoundedSpan t = all.TensorOf(piece);
    const int64_t begin = (piece - t.first_piece) * kPiece;
    const int64_t end = begin + kPiece < t.elements ? begin + kPiece : t.elements;
    ForEachOfPiece(begin, end, Aligned(t.from, 16) && Aligned(t.to, 8), [&](int64_t i, auto count) {
      constexpr int kCount = decltype(count)::value;
      float values[kCount];
      Load<kCount>(t.from + i, values);
      if (t.dtype == DType::kF16) {
        Store<kCount>(values, static_cast<__half*>(t.to) + i);
      } else {
        Store<kCount>(values, static_cast<__nv_bfloat16*>(t.to) + i);
      }
    });
  }
}

}  // namespace

void AdamW(const AdamWArguments& a, const AdamWStep& step) {
  const ProfilerRange range("adamw");
  Context& context = ContextOf(a.device);
  const auto all = CutIntoPieces(context, a.tensors, a.count);
  if (all.pieces == 0) return;
  AdamWKernel<AdamWStep>
      <<<BlocksFor(context, all.pieces), kThreads, 0, context.stream()>>>(a, step, all);
  CheckLaunch("adamw");
}

void ClippedAdamW(const ClippedAdamWArguments& a) {
  const ProfilerRange range("clipped adamw");
  Context& context = ContextOf(a.adamw.device);
  const auto all = CutIntoPieces(context, a.adamw.tensors, a.adamw.count);
  const Scratch squares(context, all.pieces * static_cast<int64_t>(sizeof(double)));
  const Scratch step(context, sizeof(AdamWStep));
  // All faults of a device are raised in one word.
  const volatile uint32_t* fault = context.faults().Of("adamw: no step to take").word;
  const unsigned blocks = BlocksFor(context, all.pieces);
  if (blocks > 0) {
    SumOfSquaresKernel<<<blocks, kThreads, 0, context.stream()>>>(all, squares.data<double>());
  }
  ClipKernel<<<1, kThreads, 0, context.stream()>>>(a, squares.data<double>(), all.pieces,
                                                   step.data<AdamWStep>(), fault);
  if (blocks > 0) {
    AdamWKernel<const AdamWStep*>
        <<<blocks, kThreads, 0, context.stream()>>>(a.adamw, step.data<AdamWStep>(), all);
  }
  CheckLaunch("clipped adamw");
}

double SumOfSquares(const FloatSpansArguments& a) {
  const ProfilerRange range("gradient norm");
  Context& context = ContextOf(a.device);
  const auto all = CutIntoPieces(context, a.spans, a.count);
  if (all.pieces == 0) return 0;
  const Scratch sums(context, (all.pieces + 1) * static_cast<int64_t>(sizeof(double)));
  double* sum = sums.data<double>() + all.pieces;
  SumOfSquaresKernel<<<BlocksFor(context, all.pieces), kThreads, 0, context.stream()>>>(
      all, sums.data<double>());
  AddSumsKernel<<<1, kThreads, 0, context.stream()>>>(sums.data<double>(), all.pieces, sum);
  CheckLaunch("gradient norm");
  double result = 0;
  context.memory().CopyToHost(&result, sum, sizeof(result));
  return result;
}

void SetZero(const FloatSpansArguments& a) {
  const ProfilerRange range("set zero");
  Context& context = ContextOf(a.device);
  const auto all = CutIntoPieces(context, a.spans, a.count);
  if (all.pieces == 0) return;
  SetZeroKernel<<<BlocksFor(context, all.pieces), kThreads, 0, context.stream()>>>(all);
  CheckLaunch("set zero");
}

void Round(const RoundArguments& a) {
  const ProfilerRange range("rounded copy");
  Context& context = ContextOf(a.device);
  const auto all = CutIntoPieces(context, a.spans, a.count);
  if (all.pieces == 0) return;
  RoundKernel<<<BlocksFor(context, all.pieces), kThreads, 0, context.stream()>>>(all);
  CheckLaunch("rounded copy");
}

}  // namespace adder::cuda
