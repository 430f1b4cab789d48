// linear on the CPU: oneDNN for many rows, a kernel that streams W for few.
#include <algorithm>

#include "adder/backend/cpu/matmul.h"
#include "adder/backend/cpu/parallel.h"
#include "adder/ops/linear/linear_backends.h"
#include "adder/ops/linear/linear_kernel.h"

namespace adder::cpu {
namespace {

// Up to how many rows the kernel is faster than oneDNN, whose way with f16 leads through f32.
// Measured with linear_bench on a Zen 4 core: at 16 rows they are equal in f32 and bf16; in f16 the
// kernel still leads at 64.
int64_t FewRows(DType dtype) { return dtype == DType::kF16 ? 64 : 16; }
// Elements of W that are worth a thread.
constexpr int64_t kGrainElements = 8192;

}  // namespace

void Linear(const Tensor& x, const Tensor& W, const Tensor& bias, const Tensor& y) {
  const int64_t rows = x.dim(0);
  const int64_t K = x.dim(1);
  if (y.elements() == 0) return;
  if (rows > FewRows(x.dtype())) {
    MatMul(x, W, bias, y, {.transpose_B = true});
    return;
  }
  ParallelFor(W.dim(0), kGrainElements / std::max<int64_t>(1, K),
              [&](int64_t begin, int64_t end, int) {
                LinearKernel({.dtype = x.dtype(),
                              .x = x.raw(),
                              .x_stride = x.stride(0),
                              .W = W.raw(),
                              .W_stride = W.stride(0),
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
