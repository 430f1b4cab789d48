// linear on the CPU: oneDNN for many rows, a kernel that streams W for few.
#include <algorithm>
#include <cstring>

#include "adder/backend/cpu/matmul.h"
#include "adder/backend/cpu/parallel.h"
#include "adder/backend/cpu/unpack_kernel.h"
#include "adder/ops/linear/linear_backends.h"
#include "adder/ops/linear/linear_int8_kernel.h"
#include "adder/ops/linear/linear_kernel.h"

namespace adder::cpu {
namespace {

// Up to how many rows of x, as the kernel takes it, the kernel is faster than oneDNN, which takes
// f32 and bf16 as they are and all else once it is unpacked. Measured with linear_bench on a Zen 4
// core.
int64_t FewRows(DType x, DType W) { return x == DType::kF32 && W != DType::kF32 ? 32 : 16; }
// Elements of W that are worth a thread.
constexpr int64_t kGrainElements = 8192;
// Elements of W that are unpacked at once for oneDNN: they stay in the last-level cache, and most
// projections need not be cut, which costs a copy of the result.
constexpr int64_t kUnpackedElements = int64_t{1} << 22;

int64_t RowBytes(const Tensor& W) { return DTypeBytes(W.dtype(), W.stride(0)); }

// x as f32, but for the products that the kernel, or oneDNN, forms of bf16.
Tensor Operand(const Tensor& x, const Tensor& W) {
  const bool pairs = x.dtype() == DType::kBF16 &&
                     (W.dtype() == DType::kBF16 || (W.dtype() != DType::kF32 && HasPairProducts()));
  if (pairs || x.dtype() == DType::kF32) return x;
  const Tensor wide = Tensor::Empty(x.shape(), DType::kF32);
  ParallelFor(x.dim(0), std::max<int64_t>(1, 16384 / x.dim(1)),
              [&](int64_t begin, int64_t end, int) {
                UnpackRows({.W = x.Rows(begin, end - begin).raw(),
                            .W_dtype = x.dtype(),
                            .W_row_bytes = RowBytes(x),
                            .to = wide.Rows(begin, end - begin).raw(),
                            .to_stride = x.dim(1),
                            .rows = end - begin,
                            .K = x.dim(1)});
              });
  return wide;
}

// Copies the rows of a dense block to columns of y.
void CopyRows(const Tensor& block, const Tensor& columns) {
  const int64_t size = DTypeSize(block.dtype());
  const auto row_bytes = static_cast<size_t>(block.dim(1) * size);
  ParallelFor(block.dim(0), std::max<int64_t>(1, 16384 / block.dim(1)),
              [&](int64_t begin, int64_t end, int) {
                const auto* from = static_cast<const std::byte*>(block.raw());
                auto* to = static_cast<std::byte*>(columns.raw());
                for (int64_t row = begin; row < end; ++row) {
                  std::memcpy(to + row * columns.stride(0) * size, from + row * block.dim(1) * size,
                              row_bytes);
                }
              });
}

// Blocks of rows of W, unpacked to x's dtype, through oneDNN: which is slow, for few rows less than
// half as fast, where it writes to columns of a wider matrix.
void MultiplyUnpacked(const Tensor& x, const Tensor& W, const Tensor& bias, const Tensor& y) {
  const int64_t N = W.dim(0);
  const int64_t K = W.dim(1);
  const int64_t block = std::min(N, std::max<int64_t>(64, kUnpackedElements / K));
  const Tensor unpacked = Tensor::Empty({block, K}, x.dtype());
  for (int64_t n = 0; n < N; n += block) {
    const int64_t count = std::min(block, N - n);
    ParallelFor(count, std::max<int64_t>(1, kGrainElements / K),
                [&](int64_t begin, int64_t end, int) {
                  UnpackRows({.W = W.Rows(n + begin, end - begin).raw(),
                              .W_dtype = W.dtype(),
                              .W_row_bytes = RowBytes(W),
                              .to = unpacked.Rows(begin, end - begin).raw(),
                              .to_dtype = x.dtype(),
                              .to_stride = K,
                              .rows = end - begin,
                              .K = K});
                });
    const Tensor columns = y.Columns(n, count);
    const Tensor result =
        columns.contiguous() ? columns : Tensor::Empty(columns.shape(), columns.dtype());
    MatMul(x, unpacked.Rows(0, count), bias ? bias.Slice(0, n, count) : Tensor(), result,
           {.transpose_B = true});
    if (!columns.contiguous()) CopyRows(result, columns);
  }
}

// bf16 has 8 significant bits anyway.
bool RoundsToInt8(const Tensor& x, const Tensor& W) {
  return x.dtype() == DType::kBF16 && IsQuantized(W.dtype()) && HasInt8Products();
}

void MultiplyInt8(const Tensor& x, const Tensor& W, const Tensor& bias, const Tensor& y) {
  const int64_t rows = x.dim(0);
  const int64_t K = x.dim(1);
  const Tensor rounded = Tensor::Empty(
      {Int8ActivationsCount(rows, K), static_cast<int64_t>(sizeof(Int8Activations))}, DType::kU8);
  auto* activations = static_cast<Int8Activations*>(rounded.raw());
  Int8ActivationsKernel({.x = x.data<BFloat16>(),
                         .x_stride = x.stride(0),
                         .W_dtype = W.dtype(),
                         .to = activations,
                         .rows = rows,
                         .K = K});
  ParallelFor(W.dim(0), kGrainElements / K, [&](int64_t begin, int64_t end, int) {
    LinearInt8Kernel({.x = activations,
                      .W = W.raw(),
                      .W_dtype = W.dtype(),
                      .W_row_bytes = RowBytes(W),
                      .bias = bias ? bias.data<float>() : nullptr,
                      .y = y.raw(),
                      .y_dtype = y.dtype(),
                      .y_stride = y.stride(0),
                      .rows = rows,
                      .K = K,
                      .begin = begin,
                      .end = end});
  });
}

}  // namespace

void Linear(const Tensor& x_any, const Tensor& W, const Tensor& bias, const Tensor& y) {
  const int64_t rows = x_any.dim(0);
  const int64_t K = x_any.dim(1);
  if (y.elements() == 0) return;
  if (K == 0) return MatMul(x_any, W.To(x_any.dtype()), bias, y, {.transpose_B = true});
  const Tensor x = Operand(x_any, W);
  if (rows > FewRows(x.dtype(), W.dtype())) {
    if (x.dtype() == W.dtype()) return MatMul(x, W, bias, y, {.transpose_B = true});
    return MultiplyUnpacked(x, W, bias, y);
  }
  if (RoundsToInt8(x, W)) return MultiplyInt8(x, W, bias, y);
  ParallelFor(W.dim(0), kGrainElements / K, [&](int64_t begin, int64_t end, int) {
    LinearKernel({.x = x.raw(),
                  .x_dtype = x.dtype(),
                  .x_stride = x.stride(0),
                  .W = W.raw(),
                  .W_dtype = W.dtype(),
                  .W_row_bytes = RowBytes(W),
                  .bias = bias ? bias.data<float>() : nullptr,
                  .y = y.raw(),
                  .y_dtype = y.dtype(),
                  .y_stride = y.stride(0),
                  .rows = rows,
                  .K = K,
                  .begin = begin,
                  .end = end});
  });
}

void LinearBackward(const Tensor& x, const Tensor& W, const Tensor& dy,
                    const LinearGradients& gradients) {
  if (gradients.dx) {
    MatMul(dy, W, Tensor(), gradients.dx, {.accumulate = gradients.accumulate_dx});
  }
  if (gradients.dW) {
    MatMul(dy, x, Tensor(), gradients.dW, {.transpose_A = true, .accumulate = true});
  }
  if (gradients.dbias) {
    ParallelFor(W.dim(0), 64, [&](int64_t begin, int64_t end, int) {
      LinearBiasGradientKernel({.dy = dy.raw(),
                                .dtype = dy.dtype(),
                                .dy_stride = dy.stride(0),
                                .rows = dy.dim(0),
                                .begin = begin,
                                .end = end,
                                .dbias = gradients.dbias.data<float>()});
    });
  }
}

}  // namespace adder::cpu
