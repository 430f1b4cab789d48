// rms_norm of few rows on CUDA: what counts is the time from the first load to the last store. A
// block has a row and a thread four channels of it, or eight; all that it needs, weights included,
// is on its way at once.
#include <algorithm>

#include "adder/backend/cuda/launch.cuh"
#include "adder/backend/cuda/row_access.cuh"
#include "adder/ops/rms_norm/rms_norm_few_rows_cuda.cuh"

namespace adder::cuda {
namespace {

constexpr int kMostThreads = 1024;
constexpr int kMostWarps = kMostThreads / 32;

// The sum over the block, in all its threads, always in the same order.
template <class T>
__device__ T SumOfBlock(T value) {
  __shared__ T sums[kMostWarps];
  value = WarpSum(value);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  const auto lane = static_cast<int>(threadIdx.x) % 32;
  return WarpSum(lane < static_cast<int>(blockDim.x) / 32 ? sums[lane] : T{0});
}

template <int kSlots>
__global__ void __launch_bounds__(kMostThreads)
    FewRowsKernel(const __grid_constant__ RmsNormArguments a) {
  const int64_t row = blockIdx.x;
  const auto channels = static_cast<int>(a.channels);
  const auto step = static_cast<int>(blockDim.x) * 4;
  const auto first = static_cast<int>(threadIdx.x) * 4;
  LetNextKernelBegin();
  // What was not written just before may have left the cache long ago.
  for (int d = first; d < channels; d += step) {
    if (a.weight != nullptr) Prefetch(a.weight + d);
    if (a.residual.data != nullptr) {
      Prefetch(static_cast<const float*>(a.residual.data) + row * a.residual.stride + d);
    }
  }
  WaitForKernelsBefore();

  float x[kSlots][4] = {};
  float more[kSlots][4] = {};
  float weight[kSlots][4];
#pragma unroll
  for (int k = 0; k < kSlots; ++k) {
    const int d = first + k * step;
    if (d < channels) LoadRow<4>(a.x, row, d, x[k]);
  }
  if (a.residual.data != nullptr) {
    const float* residual = static_cast<const float*>(a.residual.data) + row * a.residual.stride;
#pragma unroll
    for (int k = 0; k < kSlots; ++k) {
      const int d = first + k * step;
      if (d < channels) Load<4>(residual + d, more[k]);
    }
  }
#pragma unroll
  for (int k = 0; k < kSlots; ++k) {
    const int d = first + k * step;
#pragma unroll
    for (int i = 0; i < 4; ++i) weight[k][i] = 1;
    if (a.weight != nullptr && d < channels) Load<4>(a.weight + d, weight[k]);
  }
  float squares = 0;
#pragma unroll
  for (int k = 0; k < kSlots; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (a.residual.data != nullptr) x[k][i] += more[k][i];
      squares = fmaf(x[k][i], x[k][i], squares);
    }
  }
  if (a.residual_out.data != nullptr) {
    float* out = static_cast<float*>(a.residual_out.data) + row * a.residual_out.stride;
#pragma unroll
    for (int k = 0; k < kSlots; ++k) {
      const int d = first + k * step;
      if (d < channels) Store<4>(x[k], out + d);
    }
  }
  squares = SumOfBlock(squares);
  float inverse = 1.0f / sqrtf(squares / static_cast<float>(channels) + a.eps);
  if (SquaresOutOfRange(squares, a.channels, a.eps)) {
    double exact = 0;
#pragma unroll
    for (int k = 0; k < kSlots; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) exact += static_cast<double>(x[k][i]) * x[k][i];
    }
    inverse =
        static_cast<float>(1.0 / sqrt(SumOfBlock(exact) / static_cast<double>(channels) + a.eps));
  }
#pragma unroll
  for (int k = 0; k < kSlots; ++k) {
    const int d = first + k * step;
    if (d >= channels) continue;
#pragma unroll
    for (int i = 0; i < 4; ++i) x[k][i] = x[k][i] * inverse * weight[k][i];
    StoreRow<4>(x[k], a.y, row, d);
  }
}

}  // namespace

bool TakesFewNormRows(const Context& context, const RmsNormArguments& a, bool four) {
  return four && a.rows <= context.multiprocessors() && a.channels <= 8 * kMostThreads;
}

void RmsNormFewRows(Context& context, const RmsNormArguments& a) {
  const bool one_slot = a.channels <= 4 * kMostThreads;
  const auto channels_each = one_slot ? 4 : 8;
  const auto threads = static_cast<unsigned>((a.channels + channels_each - 1) / channels_each);
  LaunchOverlapped(context,
                   {.name = "rms_norm of few rows",
                    .grid = static_cast<unsigned>(a.rows),
                    .block = (threads + 31) / 32 * 32},
                   one_slot ? FewRowsKernel<1> : FewRowsKernel<2>, a);
}

}  // namespace adder::cuda
