// linear on CUDA. Few rows (generation) are kernels of our own that stream W; many rows are
// cuBLASLt's work, which multiplies matrices of one dtype: others are widened to f32, or rounded to
// bf16 where linear.h says so, a slice of W at a time.
#include <algorithm>

#include "adder/backend/cuda/column_sums.cuh"
#include "adder/backend/cuda/matmul.cuh"
#include "adder/backend/cuda/quantized.cuh"
#include "adder/backend/cuda/row_access.cuh"
#include "adder/ops/linear/linear_cuda.h"
#include "adder/ops/linear/linear_few_rows_cuda.cuh"

namespace adder::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kSliceBytes = int64_t{128} << 20;  // of W, converted at a time
constexpr int64_t kMostBlocks = 65535;

int64_t SizeOf(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }

Rows RowsFrom(const Rows& rows, int64_t first) {
  Rows from = rows;
  from.data = static_cast<std::byte*>(rows.data) + first * rows.stride * SizeOf(rows.dtype);
  return from;
}
Rows ColumnsFrom(const Rows& rows, int64_t first) {
  Rows from = rows;
  from.data = static_cast<std::byte*>(rows.data) + first * SizeOf(rows.dtype);
  return from;
}

// to = from + bias (+ to).
__global__ void __launch_bounds__(kThreads)
    ConvertKernel(Rows from, Rows to, const float* bias, bool accumulate, int64_t rows,
                  int64_t columns) {
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    const int64_t d = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (d >= columns) return;
    float value = LoadOne(from.data, row * from.stride + d, from.dtype);
    if (bias != nullptr) value += bias[d];
    if (accumulate) value += LoadOne(to.data, row * to.stride + d, to.dtype);
    StoreOne(value, to.data, row * to.stride + d, to.dtype);
  }
}

void Convert(Context& context, const Rows& from, const Rows& to, const float* bias, bool accumulate,
             int64_t rows, int64_t columns) {
  if (rows == 0 || columns == 0) return;
  const dim3 grid(static_cast<unsigned>((columns + kThreads - 1) / kThreads),
                  static_cast<unsigned>(std::min(rows, kMostBlocks)));
  ConvertKernel<<<grid, kThreads, 0, context.stream()>>>(from, to, bias, accumulate, rows, columns);
  CheckLaunch("linear's conversion");
}

template <class Block>
__global__ void __launch_bounds__(kThreads)
    UnpackKernel(const std::byte* W, int64_t row_bytes, Rows to, int64_t rows, int64_t columns) {
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    const int64_t d = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (d >= columns) return;
    const float value = Unpacked(reinterpret_cast<const Block*>(W + row * row_bytes), d);
    StoreOne(value, to.data, row * to.stride + d, to.dtype);
  }
}

// Rows of W from `first` on, in to's dtype.
void ConvertWeights(Context& context, const LinearArguments& a, int64_t first, int64_t rows,
                    const Rows& to) {
  if (!IsQuantized(a.W.dtype)) {
    return Convert(context, RowsFrom(a.W, first), to, nullptr, false, rows, a.K);
  }
  const dim3 grid(static_cast<unsigned>((a.K + kThreads - 1) / kThreads),
                  static_cast<unsigned>(std::min(rows, kMostBlocks)));
  const auto* W = static_cast<const std::byte*>(a.W.data) + first * a.W_row_bytes;
  VisitBlock(a.W.dtype, [&](auto block) {
    UnpackKernel<decltype(block)>
        <<<grid, kThreads, 0, context.stream()>>>(W, a.W_row_bytes, to, rows, a.K);
  });
  CheckLaunch("linear's unpacking");
}

// A matrix in another dtype, in memory of its own; the matrix itself where it has that dtype.
class Converted {
 public:
  Converted(Context& context, const Rows& rows, DType dtype, int64_t count, int64_t columns)
      : scratch_(context, rows.dtype == dtype ? 0 : count * columns * SizeOf(dtype)), rows_(rows) {
    if (rows.dtype == dtype) return;
    rows_ = {scratch_.data<void>(), columns, dtype};
    Convert(context, rows, rows_, nullptr, false, count, columns);
  }
  const Rows& rows() const { return rows_; }

 private:
  Scratch scratch_;
  Rows rows_;
};

// y = x · Wᵀ of one dtype, without bias, straight into y where cuBLASLt can write that.
void Multiply(Context& context, const LinearArguments& a, const Rows& x, const Rows& W, int64_t N,
              const Rows& y, const float* bias) {
  const auto product = [&](const Rows& to) {
    MatMul(context, {.m = a.rows,
                     .n = N,
                     .k = a.K,
                     .a = x,
                     .b = W,
                     .y = to,
                     .a_transposed = false,
                     .b_transposed = true,
                     .accumulate = false});
  };
  if (bias == nullptr && (y.dtype == DType::kF32 || y.dtype == x.dtype)) return product(y);
  const Scratch sums(context, a.rows * N * 4);
  const Rows wide = {sums.data<void>(), N, DType::kF32};
  product(wide);
  Convert(context, wide, y, bias, false, a.rows, N);
}

// What x and W are multiplied as.
DType CommonType(DType x, DType W) {
  if (x == W) return x;
  return x == DType::kBF16 && W != DType::kF32 ? DType::kBF16 : DType::kF32;
}

}  // namespace

void Linear(const LinearArguments& a) {
  if (a.rows == 0 || a.N == 0) return;
  const ProfilerRange range("linear");
  Context& context = ContextOf(a.device);
  if (TakesFewRows(a)) return LinearFewRows(context, a);
  if (TakesQuantizedRows(context, a)) return LinearQuantizedRows(context, a);
  const DType common = CommonType(a.x.dtype, a.W.dtype);
  const Converted x(context, a.x, common, a.rows, a.K);
  if (a.W.dtype == common) return Multiply(context, a, x.rows(), a.W, a.N, a.y, a.bias);
  const int64_t most =
      std::max<int64_t>(1, kSliceBytes / std::max<int64_t>(1, a.K * SizeOf(common)));
  const Scratch slice(context, std::min(most, a.N) * a.K * SizeOf(common));
  const Rows W = {slice.data<void>(), a.K, common};
  for (int64_t first = 0; first < a.N; first += most) {
    const int64_t count = std::min(most, a.N - first);
    ConvertWeights(context, a, first, count, W);
    Multiply(context, a, x.rows(), W, count, ColumnsFrom(a.y, first),
             a.bias == nullptr ? nullptr : a.bias + first);
  }
}

namespace {

// Partial sums of dy's columns, a row of `partial` for each of gridDim.y blocks of rows.
__global__ void __launch_bounds__(kThreads)
    PartialSumsKernel(Rows dy, int64_t rows, int64_t columns, float* partial) {
  const int64_t d = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (d >= columns) return;
  const int64_t begin = rows * blockIdx.y / gridDim.y;
  const int64_t end = rows * (blockIdx.y + 1) / gridDim.y;
  float sum = 0;
#pragma unroll 4
  for (int64_t row = begin; row < end; ++row) {
    sum += LoadOne(dy.data, row * dy.stride + d, dy.dtype);
  }
  partial[blockIdx.y * columns + d] = sum;
}

}  // namespace

void LinearBackward(const LinearBackwardArguments& b) {
  const ProfilerRange range("linear backward");
  Context& context = ContextOf(b.device);
  if (b.N == 0 && b.dx.data != nullptr && !b.accumulate_dx) {
    MatMul(context, {.m = b.rows,
                     .n = b.K,
                     .k = 0,
                     .a = b.x,
                     .b = b.x,
                     .y = b.dx,
                     .a_transposed = false,
                     .b_transposed = false,
                     .accumulate = false});
  }
  if (b.rows == 0 || b.N == 0) return;
  // dy may be f32 where x and W have 16 bits: all are widened then.
  const DType common = b.dy.dtype == b.x.dtype ? b.x.dtype : DType::kF32;
  const Converted dy(context, b.dy, common, b.rows, b.N);
  if (b.dx.data != nullptr) {
    const Converted W(context, b.W, common, b.N, b.K);
    const bool direct = b.dx.dtype == common;
    const Scratch sums(context, direct ? 0 : b.rows * b.K * 4);
    const Rows wide = {sums.data<void>(), b.K, DType::kF32};
    MatMul(context, {.m = b.rows,
                     .n = b.K,
                     .k = b.N,
                     .a = dy.rows(),
                     .b = W.rows(),
                     .y = direct ? b.dx : wide,
                     .a_transposed = false,
                     .b_transposed = false,
                     .accumulate = direct && b.accumulate_dx});
    if (!direct) Convert(context, wide, b.dx, nullptr, b.accumulate_dx, b.rows, b.K);
  }
  if (b.dW.data != nullptr) {
    const Converted x(context, b.x, common, b.rows, b.K);
    MatMul(context, {.m = b.N,
                     .n = b.K,
                     .k = b.rows,
                     .a = dy.rows(),
                     .b = x.rows(),
                     .y = b.dW,
                     .a_transposed = true,
                     .b_transposed = false,
                     .accumulate = true});
  }
  if (b.dbias != nullptr) {
    const int64_t parts = std::clamp<int64_t>(b.rows / 64, 1, 256);
    const Scratch partial(context, parts * b.N * 4);
    const dim3 grid(static_cast<unsigned>((b.N + kThreads - 1) / kThreads),
                    static_cast<unsigned>(parts));
    PartialSumsKernel<<<grid, kThreads, 0, context.stream()>>>(b.dy, b.rows, b.N,
                                                               partial.data<float>());
    CheckLaunch("linear's dbias");
    AddColumnSums(context, partial.data<float>(), parts, b.N, b.N, b.dbias);
  }
}

}  // namespace adder::cuda
