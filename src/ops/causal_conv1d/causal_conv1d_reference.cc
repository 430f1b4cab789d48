// causal_conv1d: its definition, in double.
#include <cmath>

#include "adder/ops/causal_conv1d/causal_conv1d_backends.h"

namespace adder::reference {
namespace {

// Element (row, channel) of a matrix whose rows may be strided.
double& At(const Tensor& matrix, int64_t row, int64_t channel) {
  return matrix.data<double>()[row * matrix.stride(0) + channel];
}

// Element (sequence, row, channel) of the windows.
double& At(const Tensor& windows, int64_t sequence, int64_t row, int64_t channel) {
  return windows.data<double>()[sequence * windows.stride(0) + row * windows.stride(1) + channel];
}

// x[t, d] of sequence s, t counted from the sequence's first row; negative t are in the window.
double Read(const CausalConv1dInputs& inputs, int64_t s, int64_t t, int64_t d) {
  if (t >= 0) return At(inputs.x, inputs.layout.begin(s) + t, d);
  if (!inputs.initial_window) return 0;
  return At(inputs.initial_window, s, t + inputs.weight.dim(1) - 1, d);
}

// The sum in front of the activation.
double PreActivation(const CausalConv1dInputs& inputs, int64_t s, int64_t t, int64_t d) {
  const int64_t width = inputs.weight.dim(1);
  double sum = inputs.bias ? inputs.bias.data<double>()[d] : 0;
  for (int64_t k = 0; k < width; ++k) {
    sum += At(inputs.weight, d, k) * Read(inputs, s, t - (width - 1) + k, d);
  }
  return sum;
}

double Sigmoid(double v) { return 1 / (1 + std::exp(-v)); }

}  // namespace

void CausalConv1d(const CausalConv1dInputs& inputs, const CausalConv1dOutputs& outputs) {
  CheckCausalConv1d(inputs, outputs, {DType::kF64}, DType::kF64);
  const int64_t window = inputs.weight.dim(1) - 1;
  for (int64_t s = 0; s < inputs.layout.sequences(); ++s) {
    const int64_t length = inputs.layout.length(s);
    for (int64_t d = 0; d < inputs.x.dim(1); ++d) {
      for (int64_t t = 0; t < length; ++t) {
        const double v = PreActivation(inputs, s, t, d);
        At(outputs.y, inputs.layout.begin(s) + t, d) =
            inputs.activation == ConvActivation::kSilu ? v * Sigmoid(v) : v;
      }
      if (!outputs.final_window) continue;
      // Ascending, as the final window may be the initial one.
      for (int64_t j = 0; j < window; ++j) {
        At(outputs.final_window, s, j, d) = Read(inputs, s, length - window + j, d);
      }
    }
  }
}

void CausalConv1dBackward(const CausalConv1dInputs& inputs, const Tensor& dy,
                          const Tensor& d_final_window, const CausalConv1dGradients& gradients) {
  CheckCausalConv1dBackward(inputs, dy, d_final_window, gradients, {DType::kF64}, DType::kF64);
  const int64_t width = inputs.weight.dim(1);
  const int64_t window = width - 1;
  if (gradients.dx) {
    for (int64_t t = 0; t < inputs.x.dim(0); ++t) {
      for (int64_t d = 0; d < inputs.x.dim(1); ++d) At(gradients.dx, t, d) = 0;
    }
  }
  for (int64_t s = 0; s < inputs.layout.sequences(); ++s) {
    const int64_t begin = inputs.layout.begin(s);
    const int64_t length = inputs.layout.length(s);
    for (int64_t d = 0; d < inputs.x.dim(1); ++d) {
      for (int64_t j = 0; j < window && gradients.d_initial_window; ++j) {
        At(gradients.d_initial_window, s, j, d) = 0;
      }
      const auto add_dx = [&](int64_t t, double gradient) {
        if (t >= 0) {
          if (gradients.dx) At(gradients.dx, begin + t, d) += gradient;
        } else if (gradients.d_initial_window) {
          At(gradients.d_initial_window, s, t + window, d) += gradient;
        }
      };
      for (int64_t t = 0; t < length; ++t) {
        double dv = At(dy, begin + t, d);
        if (inputs.activation == ConvActivation::kSilu) {
          const double v = PreActivation(inputs, s, t, d);
          const double sigmoid = Sigmoid(v);
          dv *= sigmoid * (1 + v * (1 - sigmoid));
        }
        if (gradients.dbias) gradients.dbias.data<double>()[d] += dv;
        for (int64_t k = 0; k < width; ++k) {
          if (gradients.dweight) {
            At(gradients.dweight, d, k) += dv * Read(inputs, s, t - window + k, d);
          }
          add_dx(t - window + k, dv * At(inputs.weight, d, k));
        }
      }
      for (int64_t j = 0; j < window && d_final_window; ++j) {
        add_dx(length - window + j, At(d_final_window, s, j, d));
      }
    }
  }
}

}  // namespace adder::reference
