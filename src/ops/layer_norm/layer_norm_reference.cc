// layer_norm: its definition, in double.
#include <cmath>

#include "adder/ops/layer_norm/layer_norm_backends.h"

namespace adder::reference {
namespace {

double* Row(const Tensor& matrix, int64_t row) {
  return matrix.data<double>() + row * matrix.stride(0);
}

struct Statistics {
  double mean = 0;
  double inverse = 0;  // 1 / sqrt(variance + eps)
};

Statistics RowStatistics(const double* r, int64_t channels, float eps) {
  const auto count = static_cast<double>(channels);
  Statistics result;
  for (int64_t d = 0; d < channels; ++d) result.mean += r[d] / count;
  double variance = 0;
  for (int64_t d = 0; d < channels; ++d) {
    variance += (r[d] - result.mean) * (r[d] - result.mean) / count;
  }
  result.inverse = 1 / std::sqrt(variance + static_cast<double>(eps));
  return result;
}

}  // namespace

void LayerNorm(const LayerNormInputs& inputs, const LayerNormOutputs& outputs) {
  CheckLayerNorm(inputs, outputs, {DType::kF64}, DType::kF64);
  const int64_t channels = inputs.x.dim(1);
  const double* weight = inputs.weight.data<double>();
  const Tensor r = Tensor::Empty({channels}, DType::kF64);
  double* sum = r.data<double>();
  for (int64_t t = 0; t < inputs.x.dim(0); ++t) {
    for (int64_t d = 0; d < channels; ++d) {
      sum[d] = Row(inputs.x, t)[d] + (inputs.residual ? Row(inputs.residual, t)[d] : 0);
    }
    const auto [mean, inverse] = RowStatistics(sum, channels, inputs.eps);
    for (int64_t d = 0; d < channels; ++d) {
      const double bias = inputs.bias ? inputs.bias.data<double>()[d] : 0;
      Row(outputs.y, t)[d] = (sum[d] - mean) * inverse * weight[d] + bias;
      if (outputs.residual_out) Row(outputs.residual_out, t)[d] = sum[d];
    }
  }
}

void LayerNormBackward(const Tensor& r, const Tensor& weight, float eps, const Tensor& dy,
                       const Tensor& d_residual_out, const LayerNormGradients& gradients) {
  CheckLayerNormBackward(r, weight, eps, dy, d_residual_out, gradients, {DType::kF64}, DType::kF64);
  const int64_t channels = r.dim(1);
  const auto count = static_cast<double>(channels);
  const double* w = weight.data<double>();
  for (int64_t t = 0; t < r.dim(0); ++t) {
    const double* row = Row(r, t);
    const double* dy_row = Row(dy, t);
    const auto [mean, inverse] = RowStatistics(row, channels, eps);
    // With n = (r - mean) · inverse, whose derivative takes off the mean and the part along n.
    double mean_dn = 0;
    double mean_dn_n = 0;
    for (int64_t d = 0; d < channels; ++d) {
      const double dn = dy_row[d] * w[d];
      mean_dn += dn / count;
      mean_dn_n += dn * (row[d] - mean) * inverse / count;
    }
    for (int64_t d = 0; d < channels; ++d) {
      const double n = (row[d] - mean) * inverse;
      const double through = d_residual_out ? Row(d_residual_out, t)[d] : 0;
      if (gradients.dweight) gradients.dweight.data<double>()[d] += dy_row[d] * n;
      if (gradients.dbias) gradients.dbias.data<double>()[d] += dy_row[d];
      const double dr = inverse * (dy_row[d] * w[d] - mean_dn - n * mean_dn_n) + through;
      if (gradients.dr) Row(gradients.dr, t)[d] = dr;
      if (gradients.dx) Row(gradients.dx, t)[d] = dr;
    }
  }
}

}  // namespace adder::reference
