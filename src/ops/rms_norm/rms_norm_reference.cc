// rms_norm: its definition, in double.
#include <cmath>

#include "adder/ops/rms_norm/rms_norm_backends.h"

namespace adder::reference {
namespace {

double* Row(const Tensor& matrix, int64_t row) {
  return matrix.data<double>() + row * matrix.stride(0);
}

// 1 / sqrt(mean(r²) + eps)
double InverseRms(const double* r, int64_t channels, float eps) {
  double sum = 0;
  for (int64_t d = 0; d < channels; ++d) sum += r[d] * r[d];
  return 1 / std::sqrt(sum / static_cast<double>(channels) + static_cast<double>(eps));
}

double Weight(const Tensor& weight, int64_t d) { return weight ? weight.data<double>()[d] : 1; }

}  // namespace

void RmsNorm(const RmsNormInputs& inputs, const RmsNormOutputs& outputs) {
  CheckRmsNorm(inputs, outputs, {DType::kF64}, DType::kF64);
  const int64_t channels = inputs.x.dim(1);
  const Tensor r = Tensor::Empty({channels}, DType::kF64);
  double* sum = r.data<double>();
  for (int64_t t = 0; t < inputs.x.dim(0); ++t) {
    for (int64_t d = 0; d < channels; ++d) {
      sum[d] = Row(inputs.x, t)[d] + (inputs.residual ? Row(inputs.residual, t)[d] : 0);
    }
    const double inverse = InverseRms(sum, channels, inputs.eps);
    for (int64_t d = 0; d < channels; ++d) {
      Row(outputs.y, t)[d] = sum[d] * inverse * Weight(inputs.weight, d);
      if (outputs.residual_out) Row(outputs.residual_out, t)[d] = sum[d];
    }
  }
}

void RmsNormBackward(const Tensor& r, const Tensor& weight, float eps, const Tensor& dy,
                     const Tensor& d_residual_out, const RmsNormGradients& gradients) {
  CheckRmsNormBackward(r, weight, eps, dy, d_residual_out, gradients, {DType::kF64}, DType::kF64);
  const int64_t channels = r.dim(1);
  for (int64_t t = 0; t < r.dim(0); ++t) {
    const double* row = Row(r, t);
    const double* dy_row = Row(dy, t);
    const double inverse = InverseRms(row, channels, eps);
    // With n = r · inverse: d inverse / d r[d] = -inverse³ · r[d] / D.
    double dot = 0;
    for (int64_t d = 0; d < channels; ++d) dot += dy_row[d] * Weight(weight, d) * row[d] * inverse;
    for (int64_t d = 0; d < channels; ++d) {
      const double n = row[d] * inverse;
      const double through = d_residual_out ? Row(d_residual_out, t)[d] : 0;
      if (gradients.dweight) gradients.dweight.data<double>()[d] += dy_row[d] * n;
      const double dr =
          inverse * (dy_row[d] * Weight(weight, d) - n * dot / static_cast<double>(channels)) +
          through;
      if (gradients.dr) Row(gradients.dr, t)[d] = dr;
      if (gradients.dx) Row(gradients.dx, t)[d] = dr;
    }
  }
}

}  // namespace adder::reference
