// selective_scan's definition. A real state is the complex one whose imaginary part stays zero, so
// one set of loops serves both; gradients of complex numbers are (d/d re) + i·(d/d im).
#include <cmath>
#include <complex>
#include <vector>

#include "adder/ops/selective_scan/selective_scan.h"
#include "adder/ops/selective_scan/selective_scan_backends.h"

namespace adder::reference {
namespace {

using Complex = std::complex<double>;

double Softplus(double u) { return u > 0 ? u + std::log1p(std::exp(-u)) : std::log1p(std::exp(u)); }
double Sigmoid(double u) { return 1 / (1 + std::exp(-u)); }

// Row t, column c of a [rows, columns] tensor.
double& At(const Tensor& tensor, int64_t t, int64_t c) {
  return tensor.data<double>()[t * tensor.stride(0) + c * tensor.stride(1)];
}

// State number i of a dense tensor of states.
Complex GetState(const Tensor& tensor, int64_t i, bool is_complex) {
  const double* p = tensor.data<double>() + i * (is_complex ? 2 : 1);
  return {p[0], is_complex ? p[1] : 0.0};
}
void SetState(const Tensor& tensor, int64_t i, bool is_complex, Complex value) {
  double* p = tensor.data<double>() + i * (is_complex ? 2 : 1);
  p[0] = value.real();
  if (is_complex) p[1] = value.imag();
}

// B or C of row t, number i of its groups' states.
Complex GetProjection(const Tensor& tensor, int64_t t, int64_t i, bool is_complex) {
  if (!is_complex) return At(tensor, t, i);
  return {At(tensor, t, 2 * i), At(tensor, t, 2 * i + 1)};
}
void AddProjection(const Tensor& tensor, int64_t t, int64_t i, bool is_complex, Complex value) {
  if (!is_complex) {
    At(tensor, t, i) += value.real();
  } else {
    At(tensor, t, 2 * i) += value.real();
    At(tensor, t, 2 * i + 1) += value.imag();
  }
}

// One channel of one sequence: everything the recurrence does with it.
struct Channel {
  const SelectiveScanInputs& in;
  const SelectiveScanShape& shape;
  int64_t s, d;

  int64_t group() const { return d / (shape.channels / shape.groups); }
  int64_t state(int64_t n) const { return d * shape.states + n; }
  int64_t state_of_sequence(int64_t n) const { return (s * shape.channels + d) * shape.states + n; }
  double sum_factor() const { return shape.is_complex ? 2 : 1; }

  double raw_step(int64_t t) const {
    return At(in.dt, t, d) + (in.dt_bias ? in.dt_bias.data<double>()[d] : 0.0);
  }
  double interval(int64_t t) const { return in.interval ? in.interval.data<double>()[t] : 1.0; }
  double step(int64_t t) const { return Softplus(raw_step(t)) * interval(t); }
  double skip() const { return in.D ? in.D.data<double>()[d] : 0.0; }
  Complex A(int64_t n) const { return GetState(in.A, state(n), shape.is_complex); }
  Complex B(int64_t t, int64_t n) const {
    return GetProjection(in.B, t, group() * shape.states + n, shape.is_complex);
  }
  Complex C(int64_t t, int64_t n) const {
    return GetProjection(in.C, t, group() * shape.states + n, shape.is_complex);
  }
  std::vector<Complex> InitialState() const {
    std::vector<Complex> h(static_cast<size_t>(shape.states));
    if (in.h0) {
      for (int64_t n = 0; n < shape.states; ++n) {
        h[static_cast<size_t>(n)] = GetState(in.h0, state_of_sequence(n), shape.is_complex);
      }
    }
    return h;
  }

  // Advances h over row t and returns y before the gate.
  double Step(int64_t t, std::vector<Complex>& h) const {
    const double dt = step(t);
    const double x = At(in.x, t, d);
    double sum = 0;
    for (int64_t n = 0; n < shape.states; ++n) {
      Complex& state = h[static_cast<size_t>(n)];
      state = std::exp(dt * A(n)) * state + dt * B(t, n) * x;
      sum += (C(t, n) * state).real();
    }
    return sum_factor() * sum + skip() * x;
  }
};

}  // namespace

void SelectiveScan(const SelectiveScanInputs& inputs, const SelectiveScanOutputs& outputs) {
  const SelectiveScanShape shape = CheckSelectiveScan(inputs, outputs, {DType::kF64}, DType::kF64);
  int64_t first_chunk = 0;
  for (int64_t s = 0; s < shape.sequences; ++s) {
    for (int64_t d = 0; d < shape.channels; ++d) {
      const Channel channel{inputs, shape, s, d};
      std::vector<Complex> h = channel.InitialState();
      for (int64_t t = inputs.layout.begin(s); t < inputs.layout.end(s); ++t) {
        const int64_t row = t - inputs.layout.begin(s);
        if (outputs.chunk_states && row % kScanChunkRows == 0) {
          const int64_t chunk = first_chunk + row / kScanChunkRows;
          for (int64_t n = 0; n < shape.states; ++n) {
            SetState(outputs.chunk_states, (chunk * shape.channels + d) * shape.states + n,
                     shape.is_complex, h[static_cast<size_t>(n)]);
          }
        }
        const double y = channel.Step(t, h);
        const double z = inputs.z ? At(inputs.z, t, d) : 0.0;
        At(outputs.y, t, d) = inputs.z ? y * z * Sigmoid(z) : y;
      }
      if (outputs.hT) {
        for (int64_t n = 0; n < shape.states; ++n) {
          SetState(outputs.hT, channel.state_of_sequence(n), shape.is_complex,
                   h[static_cast<size_t>(n)]);
        }
      }
    }
    first_chunk += (inputs.layout.length(s) + kScanChunkRows - 1) / kScanChunkRows;
  }
}

void SelectiveScanBackward(const SelectiveScanInputs& inputs, const Tensor& dy, const Tensor& dhT,
                           const SelectiveScanGradients& gradients) {
  const SelectiveScanShape shape =
      CheckSelectiveScanBackward(inputs, dy, dhT, gradients, {DType::kF64}, DType::kF64);
  // These sum over channels, so they begin at zero.
  for (const Tensor& sum : {gradients.dB, gradients.dC, gradients.d_interval}) {
    if (sum) sum.SetZero();
  }
  for (int64_t s = 0; s < shape.sequences; ++s) {
    const int64_t begin = inputs.layout.begin(s);
    const int64_t length = inputs.layout.length(s);
    for (int64_t d = 0; d < shape.channels; ++d) {
      const Channel channel{inputs, shape, s, d};
      // states[i]: before row begin + i.
      std::vector<std::vector<Complex>> states = {channel.InitialState()};
      std::vector<double> ungated;
      for (int64_t i = 0; i < length; ++i) {
        states.push_back(states.back());
        ungated.push_back(channel.Step(begin + i, states.back()));
      }
      std::vector<Complex> dh(static_cast<size_t>(shape.states));
      if (dhT) {
        for (int64_t n = 0; n < shape.states; ++n) {
          dh[static_cast<size_t>(n)] =
              GetState(dhT, channel.state_of_sequence(n), shape.is_complex);
        }
      }
      for (int64_t i = length - 1; i >= 0; --i) {
        const int64_t t = begin + i;
        const double dt = channel.step(t);
        const double raw = channel.raw_step(t);
        const double x = At(inputs.x, t, d);
        double dy_ungated = At(dy, t, d);
        if (inputs.z) {
          const double z = At(inputs.z, t, d);
          const double sigmoid = Sigmoid(z);
          if (gradients.dz) {
            At(gradients.dz, t, d) =
                dy_ungated * ungated[static_cast<size_t>(i)] * sigmoid * (1 + z * (1 - sigmoid));
          }
          dy_ungated *= z * sigmoid;
        }
        double dx = dy_ungated * channel.skip();
        double d_step = 0;
        for (int64_t n = 0; n < shape.states; ++n) {
          const auto k = static_cast<size_t>(n);
          const Complex before = states[static_cast<size_t>(i)][k];
          const Complex after = states[static_cast<size_t>(i) + 1][k];
          const Complex decay = std::exp(dt * channel.A(n));
          const Complex B = channel.B(t, n);
          const double dy_sum = channel.sum_factor() * dy_ungated;
          dh[k] += dy_sum * std::conj(channel.C(t, n));
          const int64_t projection = channel.group() * shape.states + n;
          if (gradients.dC) {
            AddProjection(gradients.dC, t, projection, shape.is_complex, dy_sum * std::conj(after));
          }
          if (gradients.dB) {
            AddProjection(gradients.dB, t, projection, shape.is_complex, dh[k] * dt * x);
          }
          const double d_input = (dh[k] * std::conj(B)).real();  // of dt'·x
          dx += d_input * dt;
          d_step += d_input * x;
          dh[k] *= std::conj(decay);  // now of the state before the row
          const Complex d_exponent = dh[k] * std::conj(before);
          d_step += (d_exponent * std::conj(channel.A(n))).real();
          if (gradients.dA) {
            SetState(gradients.dA, channel.state(n), shape.is_complex,
                     GetState(gradients.dA, channel.state(n), shape.is_complex) + d_exponent * dt);
          }
        }
        const double ddt = d_step * channel.interval(t) * Sigmoid(raw);
        if (gradients.dx) At(gradients.dx, t, d) = dx;
        if (gradients.ddt) At(gradients.ddt, t, d) = ddt;
        if (gradients.d_dt_bias) gradients.d_dt_bias.data<double>()[d] += ddt;
        if (gradients.dD) gradients.dD.data<double>()[d] += dy_ungated * x;
        if (gradients.d_interval) {
          gradients.d_interval.data<double>()[t] += d_step * Softplus(raw);
        }
      }
      if (gradients.dh0) {
        for (int64_t n = 0; n < shape.states; ++n) {
          SetState(gradients.dh0, channel.state_of_sequence(n), shape.is_complex,
                   dh[static_cast<size_t>(n)]);
        }
      }
    }
  }
}

}  // namespace adder::reference
