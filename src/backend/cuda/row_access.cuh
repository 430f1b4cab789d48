// Rows of any activation type, read and written several elements at a time, and sums over a block:
// what the norms share. The type is looked at on the device, where it is the same for all threads:
// these kernels wait for memory, and one kernel serves every mix of types.
#pragma once

#include <cstring>
#include <initializer_list>

#include "adder/backend/cuda/arguments.h"
#include "adder/backend/cuda/numbers.cuh"

namespace adder::cuda {

// Elements [d, d + kVector) of a row. With kVector > 1 they are aligned to their size.
template <int kVector>
__device__ inline void LoadRow(const Rows& rows, int64_t row, int64_t d, float (&to)[kVector]) {
  const int64_t offset = row * rows.stride + d;
  switch (rows.dtype) {
    case DType::kBF16:
      return Load<kVector>(static_cast<const __nv_bfloat16*>(rows.data) + offset, to);
    case DType::kF16:
      return Load<kVector>(static_cast<const __half*>(rows.data) + offset, to);
    default:
      return Load<kVector>(static_cast<const float*>(rows.data) + offset, to);
  }
}

// The same in two parts, for several loads at once: a conversion waits for its load, and what the
// type decides keeps loads after it from being asked for before.
template <int kVector>
struct RawRow {
  uint32_t words[kVector];
};
template <int kVector>
__device__ inline RawRow<kVector> FetchRow(const Rows& rows, int64_t row, int64_t d) {
  RawRow<kVector> raw;
  const int64_t offset = row * rows.stride + d;
  if (rows.dtype == DType::kF32) {
    const auto bits = LoadBits<kVector>(static_cast<const float*>(rows.data) + offset);
    memcpy(raw.words, &bits, sizeof bits);
  } else {
    const auto bits = LoadBits<kVector>(static_cast<const __half*>(rows.data) + offset);
    raw.words[0] = 0;
    memcpy(raw.words, &bits, sizeof bits);
  }
  return raw;
}
template <int kVector>
__device__ inline void ConvertRow(const RawRow<kVector>& raw, DType dtype, float (&to)[kVector]) {
  const auto convert = [&](auto type) {
    using T = decltype(type);
    Bits<T, kVector> bits;
    memcpy(&bits, raw.words, sizeof bits);
    Unpack<T, kVector>(bits, to);
  };
  switch (dtype) {
    case DType::kBF16:
      return convert(__nv_bfloat16{});
    case DType::kF16:
      return convert(__half{});
    default:
      return convert(float{});
  }
}

template <int kVector>
__device__ inline void StoreRow(const float (&from)[kVector], const Rows& rows, int64_t row,
                                int64_t d) {
  const int64_t offset = row * rows.stride + d;
  switch (rows.dtype) {
    case DType::kBF16:
      return Store<kVector>(from, static_cast<__nv_bfloat16*>(rows.data) + offset);
    case DType::kF16:
      return Store<kVector>(from, static_cast<__half*>(rows.data) + offset);
    default:
      return Store<kVector>(from, static_cast<float*>(rows.data) + offset);
  }
}

// Whether every given matrix can be read four elements at a time.
inline bool FourAtATime(std::initializer_list<Rows> all) {
  for (const Rows& rows : all) {
    const int64_t size = rows.dtype == DType::kF32 ? 4 : 2;
    if (!AlignedTo(4 * size, rows.data, rows.stride, size)) return false;
  }
  return true;
}

// The sum over a block's kThreads threads, in all of them, always in the same order.
template <int kThreads, class T>
__device__ inline T BlockSum(T value) {
  __shared__ T sums[kThreads / 32];
  value = WarpSum(value);
  __syncthreads();  // those of the call before have been read
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  value = 0;
  for (int i = 0; i < kThreads / 32; ++i) value += sums[i];
  return value;
}

// Whether a sum of squares in f32 lost what 1 / sqrt(mean + eps) depends on.
__device__ inline bool SquaresOutOfRange(float squares, int64_t channels, float eps) {
  return !(squares < 1e37f) || (squares < 1e-25f && eps < 1e-25f * static_cast<float>(channels));
}

}  // namespace adder::cuda
