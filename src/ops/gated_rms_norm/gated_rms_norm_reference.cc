// gated_rms_norm: its definition, in double.
#include <cmath>

#include "adder/ops/gated_rms_norm/gated_rms_norm_backends.h"

namespace adder::reference {
namespace {

double* Row(const Tensor& matrix, int64_t row) {
  return matrix.data<double>() + row * matrix.stride(0);
}

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double Silu(double x) { return x * Sigmoid(x); }
double SiluSlope(double x) { return Sigmoid(x) * (1 + x * (1 - Sigmoid(x))); }

// What is normalised: the gated x, or x itself.
double Normalised(const GatedRmsNormInputs& inputs, int64_t row, int64_t d) {
  const double x = Row(inputs.x, row)[d];
  return inputs.norm_before_gate ? x : x * Silu(Row(inputs.z, row)[d]);
}

// 1 / sqrt(mean(u²) + eps) of the group that begins at channel `begin`.
double InverseRms(const GatedRmsNormInputs& inputs, int64_t row, int64_t begin,
                  int64_t group_size) {
  double sum = 0;
  for (int64_t d = begin; d < begin + group_size; ++d) {
    sum += Normalised(inputs, row, d) * Normalised(inputs, row, d);
  }
  return 1 / std::sqrt(sum / static_cast<double>(group_size) + static_cast<double>(inputs.eps));
}

}  // namespace

void GatedRmsNorm(const GatedRmsNormInputs& inputs, const Tensor& y) {
  const int64_t group_size = CheckGatedRmsNorm(inputs, y, {DType::kF64}, DType::kF64);
  const double* weight = inputs.weight.data<double>();
  for (int64_t t = 0; t < inputs.x.dim(0); ++t) {
    for (int64_t begin = 0; begin < inputs.x.dim(1); begin += group_size) {
      const double inverse = InverseRms(inputs, t, begin, group_size);
      for (int64_t d = begin; d < begin + group_size; ++d) {
        const double gate = inputs.norm_before_gate ? Silu(Row(inputs.z, t)[d]) : 1;
        Row(y, t)[d] = Normalised(inputs, t, d) * inverse * weight[d] * gate;
      }
    }
  }
}

void GatedRmsNormBackward(const GatedRmsNormInputs& inputs, const Tensor& dy,
                          const GatedRmsNormGradients& gradients) {
  const int64_t group_size =
      CheckGatedRmsNormBackward(inputs, dy, gradients, {DType::kF64}, DType::kF64);
  const double* weight = inputs.weight.data<double>();
  for (int64_t t = 0; t < inputs.x.dim(0); ++t) {
    for (int64_t begin = 0; begin < inputs.x.dim(1); begin += group_size) {
      const double inverse = InverseRms(inputs, t, begin, group_size);
      // n = u · inverse, of which dn is the gradient.
      const auto n = [&](int64_t d) { return Normalised(inputs, t, d) * inverse; };
      const auto dn = [&](int64_t d) {
        const double gate = inputs.norm_before_gate ? Silu(Row(inputs.z, t)[d]) : 1;
        return Row(dy, t)[d] * weight[d] * gate;
      };
      double mean = 0;
      for (int64_t d = begin; d < begin + group_size; ++d) {
        mean += dn(d) * n(d) / static_cast<double>(group_size);
      }
      for (int64_t d = begin; d < begin + group_size; ++d) {
        const double x = Row(inputs.x, t)[d];
        const double z = Row(inputs.z, t)[d];
        const double du = inverse * (dn(d) - n(d) * mean);
        const bool norm_first = inputs.norm_before_gate;
        if (gradients.dx) Row(gradients.dx, t)[d] = norm_first ? du : du * Silu(z);
        if (gradients.dz) {
          const double dgate = norm_first ? Row(dy, t)[d] * n(d) * weight[d] : du * x;
          Row(gradients.dz, t)[d] = dgate * SiluSlope(z);
        }
        if (gradients.dweight) {
          gradients.dweight.data<double>()[d] += Row(dy, t)[d] * n(d) * (norm_first ? Silu(z) : 1);
        }
      }
    }
  }
}

}  // namespace adder::reference
