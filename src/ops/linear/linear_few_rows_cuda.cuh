// linear of few rows, as in generation: W is read once, at the speed of memory.
#pragma once

#include "adder/backend/cuda/numbers.cuh"
#include "adder/backend/cuda/runtime.cuh"
#include "adder/ops/linear/linear_cuda.h"

namespace adder::cuda {

// Whether the kernels take these arguments: few rows, and W's rows in pieces of 16 bytes.
bool TakesFewRows(const LinearArguments& a);
void LinearFewRows(Context& context, const LinearArguments& a);

// The same for quantized W, rows of any length.
bool TakesQuantizedRows(const LinearArguments& a);
void LinearQuantizedRows(Context& context, const LinearArguments& a);

// x as f32 in shared memory, by all of a block's kThreads threads: quad i (four neighbours) of row
// r at to[place(r, i)], kRows rows, of which those past the last are it again.
template <int kThreads, int kRows, class X, class Place>
__device__ inline void KeepRows(const X* x, int64_t stride, int64_t rows, int quads, float4* to,
                                const Place& place) {
  constexpr int kAtOnce = 4;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const X* row = x + min(static_cast<int64_t>(r), rows - 1) * stride;
    for (int i = static_cast<int>(threadIdx.x); i < quads; i += kAtOnce * kThreads) {
      Bits<X, 4> bits[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        if (i + j * kThreads < quads) bits[j] = LoadBits<4>(row + (i + j * kThreads) * 4);
      }
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        if (i + j * kThreads >= quads) continue;
        float four[4];
        Unpack<X, 4>(bits[j], four);
        to[place(r, i + j * kThreads)] = {four[0], four[1], four[2], four[3]};
      }
    }
  }
}
template <int kThreads, int kRows, class Place>
__device__ inline void KeepRows(const Rows& x, int64_t rows, int quads, float4* to,
                                const Place& place) {
  switch (x.dtype) {
    case DType::kBF16:
      return KeepRows<kThreads, kRows>(static_cast<const __nv_bfloat16*>(x.data), x.stride, rows,
                                       quads, to, place);
    case DType::kF16:
      return KeepRows<kThreads, kRows>(static_cast<const __half*>(x.data), x.stride, rows, quads,
                                       to, place);
    default:
      return KeepRows<kThreads, kRows>(static_cast<const float*>(x.data), x.stride, rows, quads, to,
                                       place);
  }
}

}  // namespace adder::cuda
