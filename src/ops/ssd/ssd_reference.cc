// ssd: its definition, in double.
#include <algorithm>
#include <cmath>
#include <vector>

#include "adder/ops/ssd/ssd_backends.h"

namespace adder::reference {
namespace {

double* Row(const Tensor& matrix, int64_t row) {
  return matrix.data<double>() + row * matrix.stride(0);
}

struct Step {
  double value;     // dt'
  double slope;     // its derivative with respect to dt
  double softplus;  // limited: its derivative with respect to interval
};

Step StepOf(const SsdInputs& inputs, int64_t row, int64_t head) {
  const double raw =
      Row(inputs.dt, row)[head] + (inputs.dt_bias ? inputs.dt_bias.data<double>()[head] : 0);
  const double softplus = std::max(raw, 0.0) + std::log1p(std::exp(-std::abs(raw)));
  const bool inside = softplus >= inputs.dt_min && softplus <= inputs.dt_max;
  const double limited = std::clamp(softplus, inputs.dt_min, inputs.dt_max);
  const double interval = inputs.interval ? inputs.interval.data<double>()[row] : 1;
  return {limited * interval, inside ? interval / (1 + std::exp(-raw)) : 0, limited};
}

// The states of one sequence and head before each row and after the last: [length + 1][P · N].
std::vector<std::vector<double>> States(const SsdShape& shape, const SsdInputs& inputs, int64_t s,
                                        int64_t head) {
  const int64_t size = shape.head_dim * shape.states;
  const int64_t group = head / (shape.heads / shape.groups);
  std::vector<std::vector<double>> states(1, std::vector<double>(static_cast<size_t>(size)));
  if (inputs.h0) {
    const double* h0 = inputs.h0.data<double>() + (s * shape.heads + head) * size;
    states[0].assign(h0, h0 + size);
  }
  for (int64_t t = inputs.layout.begin(s); t < inputs.layout.end(s); ++t) {
    const double dt = StepOf(inputs, t, head).value;
    const double decay = std::exp(dt * inputs.A.data<double>()[head]);
    std::vector<double> h = states.back();
    for (int64_t p = 0; p < shape.head_dim; ++p) {
      for (int64_t n = 0; n < shape.states; ++n) {
        double& state = h[static_cast<size_t>(p * shape.states + n)];
        state = decay * state + dt * Row(inputs.B, t)[group * shape.states + n] *
                                    Row(inputs.x, t)[head * shape.head_dim + p];
      }
    }
    states.push_back(std::move(h));
  }
  return states;
}

}  // namespace

void Ssd(const SsdInputs& inputs, const SsdOutputs& outputs) {
  const SsdShape shape = CheckSsd(inputs, outputs, {DType::kF64}, DType::kF64);
  const int64_t size = shape.head_dim * shape.states;
  int64_t chunk = 0;
  for (int64_t s = 0; s < shape.sequences; ++s) {
    const int64_t length = inputs.layout.length(s);
    for (int64_t head = 0; head < shape.heads; ++head) {
      const int64_t group = head / (shape.heads / shape.groups);
      const auto states = States(shape, inputs, s, head);
      for (int64_t i = 0; i < length; ++i) {
        const int64_t t = inputs.layout.begin(s) + i;
        const std::vector<double>& h = states[static_cast<size_t>(i) + 1];
        for (int64_t p = 0; p < shape.head_dim; ++p) {
          double y =
              inputs.D ? inputs.D.data<double>()[head] * Row(inputs.x, t)[head * shape.head_dim + p]
                       : 0;
          for (int64_t n = 0; n < shape.states; ++n) {
            y += Row(inputs.C, t)[group * shape.states + n] *
                 h[static_cast<size_t>(p * shape.states + n)];
          }
          Row(outputs.y, t)[head * shape.head_dim + p] = y;
        }
        if (outputs.chunk_states && i % kSsdChunkRows == 0) {
          std::copy_n(states[static_cast<size_t>(i)].begin(), size,
                      outputs.chunk_states.data<double>() +
                          ((chunk + i / kSsdChunkRows) * shape.heads + head) * size);
        }
      }
      if (outputs.hT) {
        std::copy_n(states.back().begin(), size,
                    outputs.hT.data<double>() + (s * shape.heads + head) * size);
      }
    }
    chunk += (length + kSsdChunkRows - 1) / kSsdChunkRows;
  }
}

void SsdBackward(const SsdInputs& inputs, const Tensor& dy, const Tensor& dhT,
                 const SsdGradients& gradients) {
  const SsdShape shape = CheckSsdBackward(inputs, dy, dhT, gradients, {DType::kF64}, DType::kF64);
  const int64_t size = shape.head_dim * shape.states;
  for (const Tensor* each : {&gradients.dx, &gradients.ddt, &gradients.dB, &gradients.dC}) {
    if (*each) each->SetZero();
  }
  if (gradients.d_interval) gradients.d_interval.SetZero();
  for (int64_t s = 0; s < shape.sequences; ++s) {
    for (int64_t head = 0; head < shape.heads; ++head) {
      const int64_t group = head / (shape.heads / shape.groups);
      const auto states = States(shape, inputs, s, head);
      const double A = inputs.A.data<double>()[head];
      std::vector<double> dh(static_cast<size_t>(size));
      if (dhT) {
        const double* from = dhT.data<double>() + (s * shape.heads + head) * size;
        dh.assign(from, from + size);
      }
      for (int64_t t = inputs.layout.end(s) - 1; t >= inputs.layout.begin(s); --t) {
        const auto i = static_cast<size_t>(t - inputs.layout.begin(s));
        const Step dt = StepOf(inputs, t, head);
        const double decay = std::exp(dt.value * A);
        double d_dt = 0;
        double d_decay = 0;
        for (int64_t p = 0; p < shape.head_dim; ++p) {
          const int64_t channel = head * shape.head_dim + p;
          const double x = Row(inputs.x, t)[channel];
          const double gradient = Row(dy, t)[channel];
          double dx = inputs.D ? inputs.D.data<double>()[head] * gradient : 0;
          if (gradients.dD) gradients.dD.data<double>()[head] += gradient * x;
          for (int64_t n = 0; n < shape.states; ++n) {
            const auto k = static_cast<size_t>(p * shape.states + n);
            const int64_t column = group * shape.states + n;
            const double B = Row(inputs.B, t)[column];
            if (gradients.dC) Row(gradients.dC, t)[column] += gradient * states[i + 1][k];
            dh[k] += gradient * Row(inputs.C, t)[column];
            dx += dh[k] * dt.value * B;
            if (gradients.dB) Row(gradients.dB, t)[column] += dh[k] * dt.value * x;
            d_dt += dh[k] * B * x;
            d_decay += dh[k] * states[i][k];
            dh[k] *= decay;
          }
          if (gradients.dx) Row(gradients.dx, t)[channel] = dx;
        }
        d_dt += d_decay * decay * A;
        if (gradients.dA) gradients.dA.data<double>()[head] += d_decay * decay * dt.value;
        if (gradients.ddt) Row(gradients.ddt, t)[head] = d_dt * dt.slope;
        if (gradients.d_dt_bias) gradients.d_dt_bias.data<double>()[head] += d_dt * dt.slope;
        if (gradients.d_interval) gradients.d_interval.data<double>()[t] += d_dt * dt.softplus;
      }
      if (gradients.dh0) {
        std::copy_n(dh.begin(), size,
                    gradients.dh0.data<double>() + (s * shape.heads + head) * size);
      }
    }
  }
}

}  // namespace adder::reference
