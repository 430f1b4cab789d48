// Elements of quantized rows as f32, on the device; core/quantization.h says how blocks lie.
#pragma once

#include "adder/backend/cuda/numbers.cuh"
#include "adder/core/quantization.h"

namespace adder::cuda {

// A block's f16 scale, which may lie at any even address.
__device__ inline float ScaleAt(const void* at) { return ToFloat(*static_cast<const __half*>(at)); }

// Element i of a row of blocks.
__device__ inline float Unpacked(const BlockQ8_0* row, int64_t i) {
  const BlockQ8_0& block = row[i / 32];
  return ScaleAt(&block.d) * static_cast<float>(block.q[i % 32]);
}
__device__ inline float Unpacked(const BlockQ4_0* row, int64_t i) {
  const BlockQ4_0& block = row[i / 32];
  const int at = static_cast<int>(i % 32);
  const int q = block.q[at % 16] >> (at / 16 * 4) & 15;
  return ScaleAt(&block.d) * static_cast<float>(q - 8);
}
__device__ inline float Unpacked(const BlockQ4_K* row, int64_t i) {
  const BlockQ4_K& block = row[i / 256];
  const int at = static_cast<int>(i % 256);
  const int j = at / 32;
  const uint8_t* packed = block.scales;
  const int s = j < 4 ? packed[j] & 63 : (packed[j + 4] & 15) | (packed[j - 4] >> 6) << 4;
  const int m = j < 4 ? packed[j + 4] & 63 : packed[j + 4] >> 4 | (packed[j] >> 6) << 4;
  const int q = block.q[32 * (j / 2) + at % 32] >> (j % 2 * 4) & 15;
  const float scale = ScaleAt(&block.d) * static_cast<float>(s);
  const float min = ScaleAt(&block.dmin) * static_cast<float>(m);
  return __fsub_rn(__fmul_rn(scale, static_cast<float>(q)), min);  // as on the CPU, to the bit
}
__device__ inline float Unpacked(const BlockQ6_K* row, int64_t i) {
  const BlockQ6_K& block = row[i / 256];
  const int at = static_cast<int>(i % 256);
  const int half = at / 128;
  const int k = at % 128 / 32;
  const int low = block.ql[64 * half + 32 * (k % 2) + at % 32] >> (k / 2 * 4) & 15;
  const int high = block.qh[32 * half + at % 32] >> (2 * k) & 3;
  const float scale = ScaleAt(&block.d) * static_cast<float>(block.scales[at / 16]);
  return scale * static_cast<float>((low | high << 4) - 32);
}

// Calls visit(Block{}) with the block of a quantized dtype.
template <class Visit>
void VisitBlock(DType dtype, Visit&& visit) {
  switch (dtype) {
    case DType::kQ8_0:
      return visit(BlockQ8_0{});
    case DType::kQ4_0:
      return visit(BlockQ4_0{});
    case DType::kQ4_K:
      return visit(BlockQ4_K{});
    default:
      return visit(BlockQ6_K{});
  }
}

}  // namespace adder::cuda
