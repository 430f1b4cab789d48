// linear's definition, in f64.
#include "adder/ops/linear/linear_backends.h"

namespace adder::reference {

void Linear(const Tensor& x, const Tensor& W, const Tensor& bias, const Tensor& y) {
  CheckLinear(x, W, bias, y, {DType::kF64}, {DType::kF64}, DType::kF64);
  for (int64_t t = 0; t < x.dim(0); ++t) {
    const double* x_row = x.data<double>() + t * x.stride(0);
    for (int64_t n = 0; n < W.dim(0); ++n) {
      const double* W_row = W.data<double>() + n * W.stride(0);
      double sum = bias ? bias.data<double>()[n] : 0;
      for (int64_t k = 0; k < x.dim(1); ++k) sum += x_row[k] * W_row[k];
      y.data<double>()[t * y.stride(0) + n] = sum;
    }
  }
}

void LinearBackward(const Tensor& x, const Tensor& W, const Tensor& dy,
                    const LinearGradients& gradients) {
  CheckLinearBackward(x, W, dy, gradients, {DType::kF64}, DType::kF64);
  const auto& [dx, accumulate_dx, dW, dbias] = gradients;
  if (dx && !accumulate_dx) dx.SetZero();
  for (int64_t t = 0; t < x.dim(0); ++t) {
    for (int64_t n = 0; n < W.dim(0); ++n) {
      const double g = dy.data<double>()[t * dy.stride(0) + n];
      if (dbias) dbias.data<double>()[n] += g;
      for (int64_t k = 0; k < x.dim(1); ++k) {
        if (dx)
          dx.data<double>()[t * dx.stride(0) + k] += g * W.data<double>()[n * W.stride(0) + k];
        if (dW)
          dW.data<double>()[n * dW.stride(0) + k] += g * x.data<double>()[t * x.stride(0) + k];
      }
    }
  }
}

}  // namespace adder::reference
