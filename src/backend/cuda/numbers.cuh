// Numbers on the device: loads and stores of several 16- or 32-bit elements at once as f32, and the
// elementary functions that the kernels share.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "adder/core/dtype.h"

namespace adder::cuda {

inline constexpr float kLog2E = 1.4426950408889634f;
inline constexpr float kLn2 = 0.6931471805599453f;

__device__ inline float ToFloat(float value) { return value; }
__device__ inline float ToFloat(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ inline float ToFloat(__half value) { return __half2float(value); }

// Rounded to nearest even.
template <class T>
__device__ inline T FromFloat(float value);
template <>
__device__ inline float FromFloat<float>(float value) {
  return value;
}
template <>
__device__ inline __nv_bfloat16 FromFloat<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}
template <>
__device__ inline __half FromFloat<__half>(float value) {
  return __float2half_rn(value);
}

// A piece of 2, 4, 8 or 16 bytes as the machine reads and writes it, in one instruction.
template <int kBytes>
struct PieceOf;
template <>
struct PieceOf<2> {
  using Type = uint16_t;
};
template <>
struct PieceOf<4> {
  using Type = uint32_t;
};
template <>
struct PieceOf<8> {
  using Type = uint2;
};
template <>
struct PieceOf<16> {
  using Type = uint4;
};

// kCount elements that lie together, aligned to their size, at most 16 bytes: as they lie in
// memory.
template <class T, int kCount>
using Bits = typename PieceOf<static_cast<int>(sizeof(T)) * kCount>::Type;

template <int kCount, class T>
__device__ inline Bits<T, kCount> LoadBits(const T* from) {
  return *reinterpret_cast<const Bits<T, kCount>*>(from);
}

// Two numbers of 16 bits, of which the low half of the word is the first.
template <class T>
__device__ inline float2 UnpackTwo(uint32_t word);
template <>
__device__ inline float2 UnpackTwo<__nv_bfloat16>(uint32_t word) {
  return {__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u)};
}
template <>
__device__ inline float2 UnpackTwo<__half>(uint32_t word) {
  return __half22float2(*reinterpret_cast<const __half2*>(&word));
}
template <class T>
__device__ inline uint32_t PackTwo(float low, float high);
template <>
__device__ inline uint32_t PackTwo<__nv_bfloat16>(float low, float high) {
  const __nv_bfloat162 two = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&two);
}
template <>
__device__ inline uint32_t PackTwo<__half>(float low, float high) {
  const __half2 two = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&two);
}

template <class T, int kCount>
__device__ inline void Unpack(Bits<T, kCount> bits, float (&to)[kCount]) {
  if constexpr (kCount == 1) {
    to[0] = ToFloat(*reinterpret_cast<const T*>(&bits));
  } else {
    const auto* words = reinterpret_cast<const uint32_t*>(&bits);
#pragma unroll
    for (int i = 0; i < kCount * static_cast<int>(sizeof(T)) / 4; ++i) {
      if constexpr (sizeof(T) == 4) {
        to[i] = __uint_as_float(words[i]);
      } else {
        const float2 two = UnpackTwo<T>(words[i]);
        to[2 * i] = two.x;
        to[2 * i + 1] = two.y;
      }
    }
  }
}

// The same as f32.
template <int kCount, class T>
__device__ inline void Load(const T* from, float (&to)[kCount]) {
  Unpack<T, kCount>(LoadBits<kCount>(from), to);
}
template <int kCount, class T>
__device__ inline void Store(const float (&from)[kCount], T* to) {
  if constexpr (kCount == 1) {
    *to = FromFloat<T>(from[0]);
  } else {
    Bits<T, kCount> bits;
    auto* words = reinterpret_cast<uint32_t*>(&bits);
#pragma unroll
    for (int i = 0; i < kCount * static_cast<int>(sizeof(T)) / 4; ++i) {
      if constexpr (sizeof(T) == 4) {
        words[i] = __float_as_uint(from[i]);
      } else {
        words[i] = PackTwo<T>(from[2 * i], from[2 * i + 1]);
      }
    }
    *reinterpret_cast<Bits<T, kCount>*>(to) = bits;
  }
}

// One element of a dtype known at run time: f32, bf16 or f16.
__device__ inline float LoadOne(const void* data, int64_t i, DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return ToFloat(static_cast<const __nv_bfloat16*>(data)[i]);
    case DType::kF16:
      return ToFloat(static_cast<const __half*>(data)[i]);
    default:
      return static_cast<const float*>(data)[i];
  }
}
__device__ inline void StoreOne(float value, void* data, int64_t i, DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      static_cast<__nv_bfloat16*>(data)[i] = FromFloat<__nv_bfloat16>(value);
      break;
    case DType::kF16:
      static_cast<__half*>(data)[i] = FromFloat<__half>(value);
      break;
    default:
      static_cast<float*>(data)[i] = value;
  }
}

// As it is when stored in a dtype.
__device__ inline float Rounded(float value, DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return ToFloat(FromFloat<__nv_bfloat16>(value));
    case DType::kF16:
      return ToFloat(FromFloat<__half>(value));
    default:
      return value;
  }
}

// 2^x to 2 units in the last place; subnormal results become zero.
__device__ inline float Exp2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
__device__ inline float Reciprocal(float x) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

__device__ inline float Sigmoid(float x) { return Reciprocal(1.0f + Exp2(-kLog2E * x)); }

// log(1 + e^x) = max(x, 0) + log(1 + e^-|x|); the logarithm by a polynomial in e^-|x|, to 1.2e-7 of
// its value however small that is.
__device__ inline float Softplus(float x) {
  const float e = Exp2(-kLog2E * fabsf(x));
  float p = -0.00317605701f;
  p = fmaf(p, e, 0.0195425265f);
  p = fmaf(p, e, -0.0563736111f);
  p = fmaf(p, e, 0.105436236f);
  p = fmaf(p, e, -0.152696669f);
  p = fmaf(p, e, 0.196632743f);
  p = fmaf(p, e, -0.249516159f);
  p = fmaf(p, e, 0.333297104f);
  p = fmaf(p, e, -0.499998927f);
  p = fmaf(p, e, 1.0f);
  return fmaf(p, e, fmaxf(x, 0.0f));
}

// The sum over the lanes of a warp, in every lane.
template <class T>
__device__ inline T WarpSum(T value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, distance);
  }
  return value;
}

// Calls visit(T{}) with the device's type of f32, bf16 or f16.
template <class Visit>
void VisitActivation(DType dtype, Visit&& visit) {
  switch (dtype) {
    case DType::kBF16:
      return visit(__nv_bfloat16{});
    case DType::kF16:
      return visit(__half{});
    default:
      return visit(float{});
  }
}

// Whether rows can be read in pieces of `bytes`.
inline bool AlignedTo(int64_t bytes, const void* data, int64_t stride, int64_t element_bytes) {
  return reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(bytes) == 0 &&
         stride * element_bytes % bytes == 0;
}

}  // namespace adder::cuda
