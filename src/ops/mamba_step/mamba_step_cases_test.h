// What mamba_step's tests share: blocks of random weights, and how far results are from the
// definition's.
#pragma once

#include <cmath>

#include "adder/ops/mamba_step/mamba_step.h"
#include "adder/ops/operator_test.h"

namespace adder::test {

struct MambaStepCase {
  int64_t sequences = 1;
  int64_t d_model = 64, d_inner = 128, d_state = 16, d_conv = 4, dt_rank = 8;
  DType dtype = DType::kF32;    // of the activations
  DType x = DType::kF32;        // what the embedding, or the block before, hands over
  DType W = DType::kF32;        // of the projections
  DType dt_proj = DType::kF32;  // which often has rows too short for W
  bool options = true;          // residual, biases
  bool norms_selection = false;

  std::string ToString() const {
    return std::to_string(sequences) + " x " + std::to_string(d_model) + " to " +
           std::to_string(d_inner) + " x " + std::to_string(d_state) + ", d_conv " +
           std::to_string(d_conv) + ", dt_rank " + std::to_string(dt_rank) + ", " +
           std::string(DTypeName(x)) + " to " + std::string(DTypeName(dtype)) + " by " +
           std::string(DTypeName(W)) + " and " + std::string(DTypeName(dt_proj)) +
           (options ? ", all options" : "") + (norms_selection ? ", selection normed" : "");
  }
};

struct MambaStepTensors {
  MambaStepInputs inputs;
  MambaStepWeights weights;
  MambaStepMemory memory;
  MambaStepOutputs outputs;

  // Each tensor as `convert` makes it; outputs and memory always in memory of their own.
  template <class Convert>
  MambaStepTensors Each(const Convert& convert) const {
    MambaStepTensors other = *this;
    MambaStepWeights& w = other.weights;
    for (Tensor* tensor :
         {&other.inputs.x, &other.inputs.residual, &w.norm, &w.in_proj, &w.in_proj_bias, &w.conv,
          &w.conv_bias, &w.x_proj, &w.dt_proj, &w.dt_bias, &w.A, &w.D, &w.out_proj,
          &w.out_proj_bias, &other.memory.window, &other.memory.h, &other.outputs.y,
          &other.outputs.residual_out}) {
      if (*tensor) *tensor = convert(tensor->Clone());
    }
    return other;
  }
  // For the reference.
  MambaStepTensors InF64() const {
    return Each([](const Tensor& t) {
      return (IsQuantized(t.dtype()) ? t.To(DType::kF32) : t).To(DType::kF64);
    });
  }
  void Run() const { MambaStep(inputs, weights, memory, outputs); }
  void RunReference() const { reference::MambaStep(inputs, weights, memory, outputs); }
};

inline MambaStepTensors RandomMambaStep(Random& random, const MambaStepCase& c) {
  const auto floats = [&](const Shape& shape, double mean, double stddev) {
    return RandomNormal(random, shape, mean, stddev).To(DType::kF32);
  };
  const auto projection = [&](int64_t rows, int64_t columns, DType dtype) {
    return floats({rows, columns}, 0, 1 / std::sqrt(static_cast<double>(columns))).To(dtype);
  };
  MambaStepTensors t;
  t.inputs.x = floats({c.sequences, c.d_model}, 0, 1).To(c.x);
  MambaStepWeights& w = t.weights;
  w.norm = floats({c.d_model}, 1, 0.2);
  w.in_proj = projection(2 * c.d_inner, c.d_model, c.W);
  w.conv = floats({c.d_inner, c.d_conv}, 0, 0.5);
  w.x_proj = projection(c.dt_rank + 2 * c.d_state, c.d_inner, c.W);
  w.dt_proj = projection(c.d_inner, c.dt_rank, c.dt_proj);
  w.dt_bias = floats({c.d_inner}, -3, 1);
  w.A = floats({c.d_inner, c.d_state}, 0, 1);
  float* A = w.A.data<float>();
  for (int64_t i = 0; i < w.A.elements(); ++i) A[i] = -std::exp(A[i]);
  w.D = floats({c.d_inner}, 0, 1);
  w.out_proj = projection(c.d_model, c.d_inner, c.W);
  if (c.options) {
    t.inputs.residual = floats({c.sequences, c.d_model}, 0, 1);
    w.in_proj_bias = floats({2 * c.d_inner}, 0, 1);
    w.conv_bias = floats({c.d_inner}, 0, 1);
    w.out_proj_bias = floats({c.d_model}, 0, 1);
  }
  if (c.norms_selection) w.selection_eps = 1e-6f;
  t.memory.window = floats({c.sequences, c.d_conv - 1, c.d_inner}, 0, 1);
  t.memory.h = floats({c.sequences, c.d_inner, c.d_state}, 0, 1);
  t.outputs.y = Tensor::Zeros({c.sequences, c.d_model}, c.dtype);
  t.outputs.residual_out = Tensor::Zeros({c.sequences, c.d_model}, DType::kF32);
  return t;
}

// ‖a - b‖ / ‖b‖; b is f64.
inline double Distance(const Tensor& a, const Tensor& b) {
  const Tensor wide = a.To(DType::kF64);
  double difference = 0;
  double size = 0;
  for (int64_t i = 0; i < b.elements(); ++i) {
    const double expected = b.data<double>()[i];
    difference += std::pow(wide.data<double>()[i] - expected, 2);
    size += expected * expected;
  }
  return size > 0 ? std::sqrt(difference / size) : std::sqrt(difference);
}

// The results' distances from the definition's: y, residual_out, window, h.
struct MambaStepErrors {
  double y, residual_out, window, h;
};
inline MambaStepErrors ErrorsOf(const MambaStepTensors& t, const MambaStepTensors& exact) {
  return {Distance(t.outputs.y, exact.outputs.y),
          Distance(t.outputs.residual_out, exact.outputs.residual_out),
          Distance(t.memory.window, exact.memory.window), Distance(t.memory.h, exact.memory.h)};
}

}  // namespace adder::test
