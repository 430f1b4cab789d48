// Sums over the rows of a matrix, each block a strip of columns.
#include "adder/backend/cuda/column_sums.cuh"

namespace adder::cuda {
namespace {

constexpr int kColumns = 32;
constexpr int kRowGroups = 32;
constexpr int kThreads = kColumns * kRowGroups;

// A block sums kColumns columns: each of its kRowGroups warps every 32nd row, then these in order.
__global__ void __launch_bounds__(kThreads)
    AddColumnSumsKernel(const float* partial, int64_t rows, int64_t stride, int64_t columns,
                        float* sums) {
  __shared__ float shared[kRowGroups][kColumns];
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x;
  float sum = 0;
  if (column < columns) {
#pragma unroll 8
    for (int64_t row = threadIdx.y; row < rows; row += kRowGroups) {
      sum += partial[row * stride + column];
    }
  }
  shared[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= columns) return;
  for (int i = 1; i < kRowGroups; ++i) sum += shared[i][threadIdx.x];
  sums[column] += sum;
}

}  // namespace

void AddColumnSums(Context& context, const float* partial, int64_t rows, int64_t stride,
                   int64_t columns, float* sums) {
  if (columns == 0) return;
  const auto blocks = static_cast<unsigned>((columns + kColumns - 1) / kColumns);
  AddColumnSumsKernel<<<blocks, dim3(kColumns, kRowGroups), 0, context.stream()>>>(
      partial, rows, stride, columns, sums);
  CheckLaunch("column sums");
}

}  // namespace adder::cuda
