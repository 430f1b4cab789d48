// linear of few rows, as in generation: W is read once, at the speed of memory. What a kernel does
// before its products and with them is a parameter, so that operators around a product join it.
#pragma once

#include "adder/backend/cuda/launch.cuh"
#include "adder/backend/cuda/row_access.cuh"
#include "adder/ops/linear/linear_cuda.h"

namespace adder::cuda {

// Whether the kernels take these arguments: few rows, and W's rows in pieces of 16 bytes.
bool TakesFewRows(const LinearArguments& a);
void LinearFewRows(Context& context, const LinearArguments& a);

// The same for quantized W, rows of any length.
bool TakesQuantizedRows(const Context& context, const LinearArguments& a);
void LinearQuantizedRows(Context& context, const LinearArguments& a);

// An element by an index that is not known beforehand, from registers.
template <int kCount>
__device__ inline float Pick(const float (&from)[kCount], int index) {
  float picked = from[0];
#pragma unroll
  for (int i = 1; i < kCount; ++i) {
    if (index == i) picked = from[i];
  }
  return picked;
}

// Keeps rows of x in shared memory, by all of a block's kThreads threads: kRows rows, of which
// those past the last are it again. X: below.
template <int kThreads, int kRows, class T, class X>
__device__ inline void KeepRows(const T* from, int64_t stride, int64_t rows, int64_t K,
                                const X& x) {
  constexpr int kQuads = X::kUnit / 4;
  constexpr int kAtOnce = 4 / kQuads;  // units of a thread
  const auto units = static_cast<int>(K / X::kUnit);
  const auto thread = static_cast<int>(threadIdx.x);
  const int warp = thread & ~31;  // its first
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const T* row = from + min(static_cast<int64_t>(r), rows - 1) * stride;
    for (int i = 0; warp + i < units; i += kAtOnce * kThreads) {
      Bits<T, 4> bits[kAtOnce][kQuads] = {};
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const int unit = thread + i + j * kThreads;
        if (unit >= units) continue;
#pragma unroll
        for (int q = 0; q < kQuads; ++q) bits[j][q] = LoadBits<4>(row + unit * X::kUnit + 4 * q);
      }
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const int unit = thread + i + j * kThreads;
        if (warp + i + j * kThreads >= units) continue;
        float values[X::kUnit];
#pragma unroll
        for (int q = 0; q < kQuads; ++q) {
          float four[4];
          Unpack<T, 4>(bits[j][q], four);
#pragma unroll
          for (int c = 0; c < 4; ++c) values[4 * q + c] = four[c];
        }
        x.Keep(r, unit, values);
      }
    }
  }
}
template <int kThreads, int kRows, class X>
__device__ inline void KeepRows(const Rows& from, int64_t rows, int64_t K, const X& x) {
  switch (X::kOnlyBF16 ? DType::kBF16 : from.dtype) {
    case DType::kBF16:
      return KeepRows<kThreads, kRows>(static_cast<const __nv_bfloat16*>(from.data), from.stride,
                                       rows, K, x);
    case DType::kF16:
      return KeepRows<kThreads, kRows>(static_cast<const __half*>(from.data), from.stride, rows, K,
                                       x);
    default:
      return KeepRows<kThreads, kRows>(static_cast<const float*>(from.data), from.stride, rows, K,
                                       x);
  }
}

// What surrounds the products of a kernel for few rows. Such a type says
//
//     kLeastLanes                 how many lanes of a row Finish needs
//     kStagesRows                 whether KeepRows stages what it keeps
//     KeptType(a)                 the dtype that KeepRows' values have
//     Prefetch(a)                 what to bring into L2 before kernels before this one have ended
//     Row<kRows>::Fetch(…)        begins to load what Finish wants for a row n of W; once for each
//                                 row that a team of lanes takes, by all of them
//     KeepRows<kThreads, kRows>(a, x)
//                                 keeps the rows that W is multiplied with, as above
//     Finish<kRows>(a, row, sums, n, lane)
//                                 takes W's row n times x's rows, bias added, by all lanes of the
//                                 team; n ≥ a.N is a row that does not exist
//
// PlainEnds loads x and stores the products. How the rows lie, x, is the kernel's:
//
//     kUnit                       elements that are kept at a time
//     kOnlyBF16                   whether all values are known to be bf16's
//     Keep(r, unit, values)       elements [kUnit · unit, kUnit · (unit + 1)) of row r; by a whole
//                                 warp for neighbouring units, the first of them even, of which
//                                 those past the row's end are not kept
//     Stage(r, quad)              room for four neighbours of row r until they are kept; once that
//                                 begins, after a barrier, nothing is staged any more
struct PlainEnds {
  static constexpr int kLeastLanes = 4;  // the most rows of x
  static constexpr bool kStagesRows = false;

  DType KeptType(const LinearArguments& a) const { return a.x.dtype; }
  __device__ void Prefetch(const LinearArguments&) const {}

  template <int kRows>
  struct Row {
    __device__ void Fetch(const PlainEnds&, const LinearArguments&, int64_t, int) {}
  };

  template <int kThreads, int kRows, class X>
  __device__ void KeepRows(const LinearArguments& a, const X& x) const {
    cuda::KeepRows<kThreads, kRows>(a.x, a.rows, a.K, x);
  }

  template <int kRows>
  __device__ void Finish(const LinearArguments& a, const Row<kRows>&, const float (&sums)[kRows],
                         int64_t n, int lane) const {
    if (lane >= kRows || lane >= a.rows || n >= a.N) return;
    StoreOne(Pick(sums, lane), a.y.data, lane * a.y.stride + n, a.y.dtype);
  }
};

}  // namespace adder::cuda
