// Tensor cores by the instructions of compute capability 8.0: fragments out of shared memory,
// products of 16 x 8 results over 16 terms.
//
// Lane l of a warp holds, with g = l / 4 and t = l % 4,
//   of the left factor A [16, 16]:   a[0]: row g, columns 2t, 2t+1      a[1]: row g + 8
//                                    a[2]: row g, columns 2t+8, 2t+9    a[3]: row g + 8
//   of the right factor B [16, 8]:   b0: rows 2t, 2t+1 of column g      b1: rows 2t+8, 2t+9
//   of the result C [16, 8]:         c[0], c[1]: row g, columns 2t, 2t+1    c[2], c[3]: row g + 8
// so that two neighbouring results are a left factor once they are rounded.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "adder/backend/cuda/async_copy.cuh"
#include "adder/backend/cuda/numbers.cuh"

namespace adder::cuda {

// C += A · B. T: __nv_bfloat16 or __half.
template <class T>
__device__ inline void MultiplyAdd(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                   uint32_t b1) {
  if constexpr (std::is_same_v<T, __half>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

// Four 8 x 8 matrices of 16-bit elements; lanes 8i to 8i + 7 name the rows, 16 bytes each, of
// matrix i. Lane l gets columns 2t and 2t + 1 of row g, transposed: rows 2t and 2t + 1 of column g.
__device__ inline void LoadMatrices(uint32_t row, uint32_t (&to)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(row)
               : "memory");
}
__device__ inline void LoadTransposed(uint32_t row, uint32_t (&to)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(row)
               : "memory");
}

// A matrix of kColumns 16-bit elements a row (a multiple of 64) in shared memory, the 16-byte
// chunks of a row exchanged so that eight rows' equal chunks lie in different banks.
template <int kColumns>
__device__ inline int ChunkInTile(int row, int chunk) {  // in elements
  return row * kColumns + (chunk ^ (row & 7)) * 8;
}

// The left factor that is rows [row, row + 16) and columns [16 · step, 16 · step + 16) of a tile.
template <int kColumns>
__device__ inline void LoadLeft(uint32_t tile, int row, int step, uint32_t (&a)[4]) {
  const int lane = threadIdx.x % 32;
  LoadMatrices(tile + 2 * ChunkInTile<kColumns>(row + lane % 16, 2 * step + lane / 16), a);
}
// Two right factors, b[0], b[1] and b[2], b[3], of a tile that holds them transposed: its rows
// [row, row + 8) and [row + 8, row + 16) are their columns, its columns from 16 · step on their
// rows.
template <int kColumns>
__device__ inline void LoadRightOfColumns(uint32_t tile, int row, int step, uint32_t (&b)[4]) {
  const int lane = threadIdx.x % 32;
  LoadMatrices(
      tile + 2 * ChunkInTile<kColumns>(row + lane % 8 + lane / 16 * 8, 2 * step + lane / 8 % 2), b);
}
// Two right factors of a tile: its rows [row, row + 16), columns [16 · step, 16 · step + 8) and the
// eight after them.
template <int kColumns>
__device__ inline void LoadRight(uint32_t tile, int row, int step, uint32_t (&b)[4]) {
  const int lane = threadIdx.x % 32;
  LoadTransposed(tile + 2 * ChunkInTile<kColumns>(row + lane % 16, 2 * step + lane / 16), b);
}

}  // namespace adder::cuda
