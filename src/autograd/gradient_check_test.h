// What the tests of recorded functions share: random leaves and parameters, and the check of all
// their gradients against differences.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "adder/autograd/functions.h"
#include "adder/ops/operator_test.h"

namespace adder::test {

inline Parameter RandomParameter(Random& random, const Shape& shape) {
  Parameter parameter;
  parameter.value = RandomNormal(random, shape, 1, 0.5).To(DType::kF32);
  parameter.grad = Tensor::Zeros(shape, DType::kF32);
  parameter.compute = parameter.value;
  return parameter;
}

inline Variable RandomLeaf(Random& random, const Shape& shape) {
  return Variable(RandomNormal(random, shape).To(DType::kF32), true);
}

// A leaf's value, and how to read its gradient once the tape has run.
struct CheckedLeaf {
  Tensor value;
  std::function<Tensor()> gradient;
};

// Gradients of Σ weights · results with respect to the leaves, against a difference along each
// leaf's own gradient, where it is as large as it can be.
inline void ExpectLeafGradients(const std::function<std::vector<Variable>(Tape*)>& forward,
                                const std::vector<CheckedLeaf>& leaves) {
  Random random(99);
  Tape tape;
  std::vector<Tensor> weights;
  for (const Variable& result : forward(&tape)) {
    weights.push_back(RandomNormal(random, result.value().shape()).To(DType::kF32));
    result.CollectGrad([&](const Tensor& target, bool) { target.CopyFrom(weights.back()); });
  }
  tape.Backward();
  const auto loss = [&] {
    double sum = 0;
    const std::vector<Variable> results = forward(nullptr);
    for (size_t i = 0; i < results.size(); ++i) {
      sum += test::WeightedSum(weights[i].To(DType::kF64), results[i].value().To(DType::kF64));
    }
    return sum;
  };
  for (size_t i = 0; i < leaves.size(); ++i) {
    SCOPED_TRACE("leaf " + std::to_string(i));
    const Tensor value = leaves[i].value;
    const Tensor gradient = leaves[i].gradient();
    ASSERT_TRUE(gradient.defined());
    double square = 0;
    for (int64_t k = 0; k < gradient.elements(); ++k) {
      square += static_cast<double>(gradient.data<float>()[k]) * gradient.data<float>()[k];
    }
    const Tensor kept = value.Clone();
    const double step = 1e-2 / std::sqrt(square);
    const auto move = [&](double by) {
      for (int64_t k = 0; k < value.elements(); ++k) {
        value.data<float>()[k] =
            kept.data<float>()[k] + static_cast<float>(by * gradient.data<float>()[k]);
      }
    };
    move(step);
    const double above = loss();
    move(-step);
    const double below = loss();
    value.CopyFrom(kept);
    // The third derivative's share of a step of 0.01, and f32.
    EXPECT_NEAR((above - below) / (2 * step), square, 3e-3 * square);
  }
}

}  // namespace adder::test
