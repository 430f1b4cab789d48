// The recorded norms: gradients of every variable and parameter against differences, columns of a
// projection as input, the sum passed on.
#include <gtest/gtest.h>

#include <vector>

#include "adder/autograd/functions.h"
#include "adder/autograd/gradient_check_test.h"
#include "adder/ops/operator_test.h"

namespace adder {
namespace {

using test::CheckedLeaf;
using test::ExpectLeafGradients;
using test::Near;
using test::RandomLeaf;
using test::RandomNormal;
using test::RandomParameter;

TEST(NormFunctionsTest, LayerNormPassesTheSumOn) {
  Random random(1);
  for (const bool residual_given : {false, true}) {
    const Variable x = RandomLeaf(random, {5, 9});
    const Variable residual = residual_given ? RandomLeaf(random, {5, 9}) : Variable();
    Parameter weight = RandomParameter(random, {9});
    Parameter bias = RandomParameter(random, {9});
    std::vector<CheckedLeaf> leaves = {{x.value(), [&] { return x.grad(); }},
                                       {weight.value, [&] { return weight.grad; }},
                                       {bias.value, [&] { return bias.grad; }}};
    if (residual_given) leaves.push_back({residual.value(), [&] { return residual.grad(); }});
    ExpectLeafGradients(
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
    ExpectLeafGradients(
        [&](Tape* tape) {
          return std::vector<Variable>{GatedRmsNorm(tape, both.Columns(0, 12), both.Columns(12, 12),
                                                    weight, 1e-5, 6, norm_before_gate)};
        },
        {{both.value(), [&] { return both.grad(); }}, {weight.value, [&] { return weight.grad; }}});
  }
}

}  // namespace
}  // namespace adder
