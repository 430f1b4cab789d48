// What the kernels for models of up to 16 real states share. Every published Mamba is one, so these
// have kernels of their own: a thread keeps what it needs of a channel in registers and B and C lie
// in shared memory as f32, 16 numbers a row, zeros after the last state.
#pragma once

#include "adder/ops/selective_scan/selective_scan_cuda.cuh"

namespace adder::cuda {

inline constexpr int kSixteen = 16;

// The forward counts time in units of ln 2, which makes exp(dt' · A) the 2^(t · A) that the device
// computes: t = log2(1 + 2^u), u = log2(e) · (dt + bias). B is multiplied by ln 2 once where it is
// read, so that t · x · B is what it should be. The logarithm is max(u, 0) and a polynomial in
// 2^-|u|, to 4e-7 of its value however small that is.
__device__ inline float SoftplusOfTwo(float u) {
  const float e = Exp2(-fabsf(u));
  float p = -0.012319456f;
  p = fmaf(p, e, 0.06360784f);
  p = fmaf(p, e, -0.15535182f);
  p = fmaf(p, e, 0.2560097f);
  p = fmaf(p, e, -0.35339484f);
  p = fmaf(p, e, 0.4800637f);
  p = fmaf(p, e, -0.7213101f);
  p = fmaf(p, e, 1.4426948f);
  return fmaf(p, e, fmaxf(u, 0.0f));
}

// Whether four numbers of B or C can be read at once wherever a quad of states begins.
inline bool InFours(const Rows& rows, const SelectiveScanArguments& a) {
  const int64_t size = rows.dtype == DType::kF32 ? 4 : 2;
  return AlignedTo(4 * size, rows.data, rows.stride, size) && (a.groups == 1 || a.states % 4 == 0);
}

// Numbers [column, column + 4) of a row of B or C as they lie in memory; from `end` on zeros. To be
// converted later, when they have arrived.
__device__ inline uint4 FetchFour(const Rows& rows, int64_t row, int64_t first, int column, int end,
                                  bool in_fours) {
  uint4 bits = {0, 0, 0, 0};
  if (column >= end) return bits;
  const int64_t offset = row * rows.stride + first + column;
  if (rows.dtype == DType::kF32) {
    const float* from = static_cast<const float*>(rows.data) + offset;
    if (in_fours && column + 4 <= end) return *reinterpret_cast<const uint4*>(from);
    const auto number = [&](int k) { return column + k < end ? __float_as_uint(from[k]) : 0u; };
    return {number(0), number(1), number(2), number(3)};
  }
  const uint16_t* from = static_cast<const uint16_t*>(rows.data) + offset;
  if (in_fours && column + 4 <= end) {
    const uint2 two = *reinterpret_cast<const uint2*>(from);
    return {two.x, two.y, 0, 0};
  }
  const auto number = [&](int k) { return column + k < end ? uint32_t{from[k]} : 0u; };
  bits.x = number(0) | number(1) << 16;
  bits.y = number(2) | number(3) << 16;
  return bits;
}

__device__ inline float4 ConvertFour(uint4 bits, DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return {__uint_as_float(bits.x << 16), __uint_as_float(bits.x & 0xffff0000u),
              __uint_as_float(bits.y << 16), __uint_as_float(bits.y & 0xffff0000u)};
    case DType::kF16: {
      const float2 low = __half22float2(*reinterpret_cast<const __half2*>(&bits.x));
      const float2 high = __half22float2(*reinterpret_cast<const __half2*>(&bits.y));
      return {low.x, low.y, high.x, high.y};
    }
    default:
      return {__uint_as_float(bits.x), __uint_as_float(bits.y), __uint_as_float(bits.z),
              __uint_as_float(bits.w)};
  }
}

// Starts to copy `rows` rows of `count` channels to a tile in shared memory, by all of a block's
// kThreads threads. `unit`: see UnitOf.
template <int kThreads, class T, int kRows, int kChannels>
__device__ inline void CopyTile(T (&to)[kRows][kChannels], const T* from, int64_t stride, int rows,
                                int count, int unit) {
  constexpr int kPiece = 16 / static_cast<int>(sizeof(T));
  constexpr int kPieces = kChannels / kPiece;  // of a row
  constexpr int kRowsAtOnce = kThreads / kPieces;
  static_assert(kThreads % kPieces == 0 && kRows % kRowsAtOnce == 0);
  if (unit == 16 && rows == kRows && count == kChannels) {
    const int row = static_cast<int>(threadIdx.x) / kPieces;
    const int column = static_cast<int>(threadIdx.x) % kPieces * kPiece;
    from += row * stride + column;
#pragma unroll
    for (int r = 0; r < kRows; r += kRowsAtOnce) {
      CopyPiece(&to[r + row][column], from + r * stride);
    }
    return;
  }
  constexpr int kSize = static_cast<int>(sizeof(T));
  CopyRows(reinterpret_cast<char*>(&to), kChannels * kSize, reinterpret_cast<const char*>(from),
           stride * kSize, rows, count * kSize, unit);
}

// Which rows and channels are a block's.
struct Place {
  Segment segment;
  int64_t index;  // of the segment
  int64_t group;
  int64_t channel0;  // the first
  int count;         // channels
};
template <int kChannels>
__device__ inline Place PlaceOf(const SelectiveScanArguments& a, const Segment* segments,
                                int64_t blocks_per_group) {
  const int64_t blocks = a.groups * blocks_per_group;
  const int64_t group_channels = a.channels / a.groups;
  const int64_t block = blockIdx.x % blocks;
  const int64_t within = block % blocks_per_group * kChannels;
  Place place;
  place.index = blockIdx.x / blocks;
  place.segment = segments[place.index];
  place.group = block / blocks_per_group;
  place.channel0 = place.group * group_channels + within;
  place.count = static_cast<int>(min(int64_t{kChannels}, group_channels - within));
  return place;
}

}  // namespace adder::cuda
