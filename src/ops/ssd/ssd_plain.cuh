// Products of f32 matrices, for the f32 kernels of ssd: 64 x 64 at a time, 4 x 4 of them a thread,
// of matrices that lie in shared memory with the dimension that is summed over first.
#pragma once

#include "adder/ops/ssd/ssd_cuda.cuh"

namespace adder::cuda::plain {

inline constexpr int kThreads = 256;
inline constexpr int kPitch = 68;  // floats from a row of a panel to the next
inline constexpr int kPanel = kSsdRows * kPitch;

// The thread's first row and column of a product.
__device__ inline int OwnRow() { return static_cast<int>(threadIdx.x) / 16 * 4; }
__device__ inline int OwnColumn() { return static_cast<int>(threadIdx.x) % 16 * 4; }

// sums[i][j] += Σ_{begin ≤ k < end} a[k][row + i] · b[k][column + j]
__device__ inline void MultiplyAdd(const float* a, const float* b, int begin, int end,
                                   float (&sums)[4][4]) {
  a += OwnRow();
  b += OwnColumn();
#pragma unroll 4
  for (int k = begin; k < end; ++k) {
    float left[4], right[4];
    Load<4>(a + k * kPitch, left);
    Load<4>(b + k * kPitch, right);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) sums[i][j] = fmaf(left[i], right[j], sums[i][j]);
    }
  }
}

// A 64 x 64 panel of rows [row, row + rows) and `columns` columns of a matrix, zeros past them.
// visit(r, value) gives what is put in value's place.
template <class Visit>
__device__ inline void FillPanel(float* panel, const float* from, int64_t stride, int rows,
                                 int columns, bool transposed, const Visit& visit) {
  for (int i = static_cast<int>(threadIdx.x); i < kSsdRows * 64; i += kThreads) {
    const int r = i / 64;
    const int c = i % 64;
    const bool inside = r < rows && c < columns;
    const float value = inside ? visit(r, from[r * stride + c]) : 0.0f;
    panel[transposed ? c * kPitch + r : r * kPitch + c] = value;
  }
}
__device__ inline void FillPanel(float* panel, const float* from, int64_t stride, int rows,
                                 int columns, bool transposed) {
  FillPanel(panel, from, stride, rows, columns, transposed, [](int, float value) { return value; });
}

// Where the product C[t]·B[s], s ≤ t, lies among a chunk's.
__device__ inline int ProductIndex(int t, int s) {
  const int block = SsdFirstBlock(t / 16) + s / 16;
  const int lane = t % 8 * 4 + s % 8 / 2;
  return ((2 * block + t / 8 % 2) * 32 + lane) * 4 + s / 8 % 2 * 2 + s % 2;
}

}  // namespace adder::cuda::plain
