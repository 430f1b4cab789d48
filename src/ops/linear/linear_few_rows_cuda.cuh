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

// x as f32 in shared memory, by all of a block's kThreads threads: kRows rows, of which those past
// the last are it again, as [kRows][kQuads][pieces] quads. A piece is kQuads quads of a row, apart
// from each other so that lanes that read neighbouring pieces find different banks.
template <int kThreads, int kRows, int kQuads, class X>
__device__ inline void KeepRows(const X* x, int64_t stride, int64_t rows, int pieces, float4* to) {
  constexpr int kAtOnce = 4;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const X* row = x + min(static_cast<int64_t>(r), rows - 1) * stride;
    for (int i = static_cast<int>(threadIdx.x); i < kQuads * pieces; i += kAtOnce * kThreads) {
      Bits<X, 4> quads[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const int quad = i + j * kThreads;
        if (quad < kQuads * pieces) quads[j] = LoadBits<4>(row + quad * 4);
      }
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const int quad = i + j * kThreads;
        if (quad >= kQuads * pieces) continue;
        float four[4];
        Unpack<X, 4>(quads[j], four);
        to[(r * kQuads + quad % kQuads) * pieces + quad / kQuads] = {four[0], four[1], four[2],
                                                                     four[3]};
      }
    }
  }
}
template <int kThreads, int kRows, int kQuads>
__device__ inline void KeepRows(const Rows& x, int64_t rows, int pieces, float4* to) {
  switch (x.dtype) {
    case DType::kBF16:
      return KeepRows<kThreads, kRows, kQuads>(static_cast<const __nv_bfloat16*>(x.data), x.stride,
                                               rows, pieces, to);
    case DType::kF16:
      return KeepRows<kThreads, kRows, kQuads>(static_cast<const __half*>(x.data), x.stride, rows,
                                               pieces, to);
    default:
      return KeepRows<kThreads, kRows, kQuads>(static_cast<const float*>(x.data), x.stride, rows,
                                               pieces, to);
  }
}

}  // namespace adder::cuda
