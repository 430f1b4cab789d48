// The recorded norms: gradients of every variable and parameter against differences, columns of a
// projection as input, the sum passed on.
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "adder/autograd/functions.h"
#include "adder/ops/operator_test.h"

namespace adder {
namespace {

using test::Near;
using test::RandomNormal;

Parameter RandomParameter(Random& random, const Shape& shape) {
  Parameter parameter;
  parameter.value = RandomNormal(random, shape, 1, 0.5).To(DType::kF32);
  parameter.grad = Tensor::Zeros(shape, DType::kF32);
  parameter.compute = parameter.value;
  return parameter;
}

Variable RandomLeaf(Random& random, const Shape& shape) {
  return Variable(RandomNormal(random, shape).To(DType::kF32), true);
}

// Gradients of Σ weights · results with respect to the leaves, against a difference along each
// leaf's own gradient, where it is as large as it can be.
void ExpectGradients(const std::function<std::vector<Variable>(Tape*)>& forward,
                     const std::vector<std::pair<Tensor, std::function<Tensor()>>>& leaves) {
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
    const Tensor value = leaves[i].first;
    const Tensor gradient = leaves[i].second();
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

TEST(NormFunctionsTest, LayerNormPassesTheSumOn) {
  Random random(1);
  for (const bool residual_given : {false, true}) {
    const Variable x = RandomLeaf(random, {5, 9});
    const Variable residual = residual_given ? RandomLeaf(random, {5, 9}) : Variable();
    Parameter weight = RandomParameter(random, {9});
    Parameter bias = RandomParameter(random, {9});
    std::vector<std::pair<Tensor, std::function<Tensor()>>> leaves = {
        {x.value(), [&] { return x.grad(); }},
        {weight.value, [&] { return weight.grad; }},
        {bias.value, [&] { return bias.grad; }}};
    if (residual_given) leaves.push_back({residual.value(), [&] { return residual.grad(); }});
    ExpectGradients(
        [&](Tape* tape) {
          Variable sum;
          const Variable y = LayerNorm(tape, x, residual, weight, &bias, 1e-5, DType::kF32, &sum);
          return std::vector<Variable>{y, sum};
        },
        leaves);
  }
}

TEST(NormFunctionsTest, NormWithoutWeightOfColumns) {
  Random random(2);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Variable x(RandomNormal(random, {4, 12}).To(dtype), true);
    Tape tape;
    const Variable left = RmsNorm(&tape, x.Columns(0, 5), 1e-6, dtype);
    const Variable right = RmsNorm(&tape, x.Columns(5, 7), 1e-6, dtype);
    EXPECT_EQ(left.value().dtype(), dtype);
    const Tensor seed = RandomNormal(random, {4, 12}).To(dtype);
    left.CollectGrad([&](const Tensor& target, bool) { target.CopyFrom(seed.Columns(0, 5)); });
    right.CollectGrad([&](const Tensor& target, bool) { target.CopyFrom(seed.Columns(5, 7)); });
    tape.Backward();
    // Each half alone, with a weight of ones.
    for (const auto& [begin, count] : {std::pair<int64_t, int64_t>{0, 5}, {5, 7}}) {
      Parameter ones;
      ones.compute = Tensor::Empty({count}, DType::kF32);
      std::fill_n(ones.compute.data<float>(), count, 1.0f);
      const Variable part(x.value().Columns(begin, count).Clone(), true);
      Tape other;
      const Variable y = RmsNorm(&other, part, Variable(), ones, 1e-6, dtype);
      EXPECT_TRUE(Near(begin == 0 ? left.value() : right.value(), y.value(), 0));
      const Tensor columns = seed.Columns(begin, count);
      y.CollectGrad([&](const Tensor& target, bool) { target.CopyFrom(columns); });
      other.Backward();
      EXPECT_TRUE(Near(x.grad().Columns(begin, count), part.grad(), 0));
    }
  }
}

TEST(NormFunctionsTest, GatedRmsNorm) {
  Random random(3);
  for (const bool norm_before_gate : {false, true}) {
    const Variable both = RandomLeaf(random, {5, 24});
    Parameter weight = RandomParameter(random, {12});
    ExpectGradients(
        [&](Tape* tape) {
          return std::vector<Variable>{GatedRmsNorm(tape, both.Columns(0, 12), both.Columns(12, 12),
                                                    weight, 1e-5, 6, norm_before_gate)};
        },
        {{both.value(), [&] { return both.grad(); }}, {weight.value, [&] { return weight.grad; }}});
  }
}

}  // namespace
}  // namespace adder
