// The recorded operators, composed: gradients of every leaf and parameter against differences along
// the gradient itself, memory replaced and overwritten, accumulation, frozen parameters.
#include "adder/autograd/functions.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "adder/core/error.h"
#include "adder/core/random.h"
#include "adder/ops/operator_test.h"
#include "adder/ops/softmax_cross_entropy/softmax_cross_entropy.h"

namespace adder {
namespace {

using test::Near;
using test::SameBits;

constexpr int64_t kVocab = 11;
constexpr int64_t kModel = 10;
constexpr int64_t kInner = 14;
constexpr int64_t kState = 5;
constexpr int64_t kRank = 3;
constexpr int64_t kWidth = 4;

// Everything that one block with embedding and head reads, in f32.
struct Net {
  SequenceLayout layout = SequenceLayout({0, 5, 5, 6, 19});
  std::deque<Parameter> parameters;
  Tensor tokens;
  Tensor targets;
  Variable window;
  Variable h;

  explicit Net(uint64_t seed) : random(seed) {
    Add("embedding", {kVocab, kModel}, 1);
    Add("norm", {kModel}, 0.3);
    Add("in_proj", {2 * kInner, kModel}, 0.4);
    Add("in_bias", {2 * kInner}, 0.3);
    Add("conv", {kInner, 1, kWidth}, 0.5);
    Add("conv_bias", {kInner}, 0.3);
    Add("x_proj", {kRank + 2 * kState, kInner}, 0.4);
    Add("dt_proj", {kInner, kRank}, 0.5);
    Add("dt_bias", {kInner}, 0.5);
    Add("A_log", {kInner, kState}, 0.5);
    Add("D", {kInner}, 1);
    Add("out_proj", {kModel, kInner}, 0.4);
    std::vector<int32_t> ids;
    for (int64_t t = 0; t < 2 * layout.rows(); ++t) {
      ids.push_back(static_cast<int32_t>(random.NextBelow(kVocab)));
    }
    const auto rows = static_cast<size_t>(layout.rows());
    tokens = Tensor::From<int32_t>({layout.rows()}, std::span(ids).first(rows));
    targets = Tensor::From<int32_t>({layout.rows()}, std::span(ids).last(rows));
    targets.data<int32_t>()[3] = kIgnoreTarget;
    window = Leaf({layout.sequences(), kWidth - 1, kInner});
    h = Leaf({layout.sequences(), kInner, kState});
    Derive();
  }

  void Add(const std::string& name, const Shape& shape, double stddev) {
    Parameter& p = parameters.emplace_back();
    p.name = name;
    p.value = test::RandomNormal(random, shape, 0, stddev).To(DType::kF32);
    p.grad = Tensor::Zeros(shape, DType::kF32);
  }
  Variable Leaf(const Shape& shape) {
    return Variable(test::RandomNormal(random, shape).To(DType::kF32), true);
  }
  Parameter& operator[](const std::string& name) {
    return *std::find_if(parameters.begin(), parameters.end(),
                         [&](const Parameter& p) { return p.name == name; });
  }
  // What the operators read.
  void Derive() {
    for (Parameter& p : parameters) p.compute = p.value;
    Tensor A = (*this)["A_log"].value.Clone();
    for (int64_t i = 0; i < A.elements(); ++i) {
      A.data<float>()[i] = -std::exp(A.data<float>()[i]);
    }
    (*this)["A_log"].compute = A;
  }

  // Rows' losses, and Σ over the final memory as a second result that is differentiated too.
  std::vector<Variable> Forward(Tape* tape) {
    Net& net = *this;
    const Variable x = Embedding(tape, tokens, net["embedding"], DType::kF32);
    Variable residual;
    Variable new_window = window;
    Variable new_h = h;
    const Variable u = RmsNorm(tape, x, residual, net["norm"], 1e-5, DType::kF32, &residual);
    const Variable vz = Linear(tape, u, net["in_proj"], &net["in_bias"]);
    const Variable v = CausalConv1d(tape, vz.Columns(0, kInner), net["conv"], &net["conv_bias"],
                                    layout, ConvActivation::kSilu, &new_window);
    const Variable s = Linear(tape, v, net["x_proj"]);
    const Variable dt = Linear(tape, s.Columns(0, kRank), net["dt_proj"]);
    const Variable y =
        SelectiveScan(tape,
                      {.x = v,
                       .dt = dt,
                       .B = s.Columns(kRank, kState),
                       .C = s.Columns(kRank + kState, kState),
                       .z = vz.Columns(kInner, kInner)},
                      {&net["A_log"], &net["D"], &net["dt_bias"]}, layout, 1, &new_h);
    const Variable out = Linear(tape, y, net["out_proj"]);
    // The norm's weight is used a second time, with a residual.
    const Variable hidden = RmsNorm(tape, out, residual, net["norm"], 1e-5, DType::kF32);
    return {SoftmaxCrossEntropy(tape, hidden, net["embedding"], targets), new_window, new_h};
  }

  static double Sum(const Tensor& tensor) {
    double sum = 0;
    for (int64_t i = 0; i < tensor.elements(); ++i) sum += tensor.data<float>()[i];
    return sum;
  }
  double Objective() {
    Derive();
    double sum = 0;
    for (const Variable& result : Forward(nullptr)) sum += Sum(result.value());
    return sum;
  }
  void Backward() {
    Tape tape;
    for (const Variable& result : Forward(&tape)) {
      result.CollectGradOverwriting(
          [](const Tensor& target) { std::fill_n(target.data<float>(), target.elements(), 1.0f); });
    }
    tape.Backward();
  }

  Random random;
};

TEST(FunctionsTest, GradientsOfACompositionMatchDifferencesAlongThem) {
  Net net(1);
  net.Backward();
  std::map<std::string, std::pair<Tensor, Tensor>> checked = {
      {"window", {net.window.value(), net.window.grad()}}, {"h", {net.h.value(), net.h.grad()}}};
  for (const Parameter& p : net.parameters) checked[p.name] = {p.value, p.grad};
  for (const auto& [name, pair] : checked) {
    const Tensor value = pair.first;
    const Tensor grad = pair.second;
    ASSERT_TRUE(grad.defined()) << name;
    double norm = 0;
    for (int64_t i = 0; i < grad.elements(); ++i) norm += std::pow(grad.data<float>()[i], 2);
    norm = std::sqrt(norm);
    ASSERT_GT(norm, 1e-3) << name;
    // Along the gradient the objective's slope is its norm.
    constexpr double kStep = 5e-3;
    const Tensor kept = value.Clone();
    const auto moved = [&](double step) {
      for (int64_t i = 0; i < value.elements(); ++i) {
        value.data<float>()[i] =
            static_cast<float>(kept.data<float>()[i] + step * grad.data<float>()[i] / norm);
      }
      return net.Objective();
    };
    const double slope = (moved(kStep) - moved(-kStep)) / (2 * kStep);
    value.CopyFrom(kept);
    // f32 rounding of an objective of size 100 is 1e-5, over a step of 1e-2: 1e-3; curvature adds
    // its square of the step.
    EXPECT_NEAR(slope, norm, 5e-3 * std::max(1.0, norm)) << name;
  }
}

TEST(FunctionsTest, ParametersAccumulateOverBackwards) {
  Net once(2);
  once.Backward();
  Net twice(2);
  twice.Backward();
  twice.Backward();
  for (size_t i = 0; i < once.parameters.size(); ++i) {
    const Tensor doubled = once.parameters[i].grad.Clone();
    for (int64_t k = 0; k < doubled.elements(); ++k) doubled.data<float>()[k] *= 2;
    // The second pass adds term by term to the first's sum: rounding only.
    EXPECT_TRUE(Near(twice.parameters[i].grad, doubled, 1e-5)) << once.parameters[i].name;
  }
}

TEST(FunctionsTest, FrozenParametersChangeNoOtherGradient) {
  Net all(3);
  all.Backward();
  Net some(3);
  for (const char* name : {"in_proj", "in_bias", "A_log", "conv", "dt_bias"}) {
    some[name].grad = Tensor();
  }
  some.window = Variable(some.window.value());
  some.Backward();
  for (const Parameter& p : some.parameters) {
    if (!p.grad.defined()) continue;
    EXPECT_TRUE(Near(p.grad, all[p.name].grad, 1e-6)) << p.name;
  }
  EXPECT_TRUE(Near(some.h.grad(), all.h.grad(), 1e-6));
}

TEST(FunctionsTest, RecordsNothingWhenNothingIsTrained) {
  Net net(4);
  for (Parameter& p : net.parameters) p.grad = Tensor();
  net.window = Variable(net.window.value());
  net.h = Variable(net.h.value());
  Tape tape;
  for (const Variable& result : net.Forward(&tape)) EXPECT_FALSE(result.requires_grad());
}

TEST(FunctionsTest, ResultsAreTheSameWithAndWithoutATape) {
  Net net(5);
  Tape tape;
  const std::vector<Variable> recorded = net.Forward(&tape);
  const std::vector<Variable> free = net.Forward(nullptr);
  for (size_t i = 0; i < free.size(); ++i) {
    EXPECT_TRUE(SameBits(recorded[i].value(), free[i].value())) << i;
  }
}

TEST(FunctionsTest, MemoryIsReplacedOrOverwrittenAsAsked) {
  Net net(6);
  const Tensor x = test::RandomNormal(net.random, {net.layout.rows(), kInner}).To(DType::kF32);
  const Tensor before = net.window.value().Clone();
  const auto run = [&](Tape* tape, Variable* window, MemoryUpdate update) {
    return CausalConv1d(tape, Variable(x), net["conv"], nullptr, net.layout, ConvActivation::kSilu,
                        window, update);
  };
  Variable replaced = net.window;
  const Variable y = run(nullptr, &replaced, MemoryUpdate::kReplace);
  EXPECT_TRUE(SameBits(net.window.value(), before));

  const Tensor memory = before.Clone();
  Variable overwritten(memory);
  const Variable again = run(nullptr, &overwritten, MemoryUpdate::kOverwrite);
  EXPECT_EQ(overwritten.value().raw(), memory.raw());
  EXPECT_TRUE(SameBits(memory, replaced.value()));
  EXPECT_TRUE(SameBits(again.value(), y.value()));

  Variable zero;
  run(nullptr, &zero, MemoryUpdate::kOverwrite);
  EXPECT_EQ(zero.value().shape(), before.shape());

  Tape tape;
  Variable recorded(memory);
  EXPECT_THROW(run(&tape, &recorded, MemoryUpdate::kOverwrite), Error);
}

TEST(FunctionsTest, BackwardFromTheMemoryAlone) {
  // Only the final state is used, as at the end of a window whose rows have no loss.
  Net net(7);
  Tape tape;
  net.Forward(&tape)[2].CollectGradOverwriting(
      [](const Tensor& target) { std::fill_n(target.data<float>(), target.elements(), 1.0f); });
  tape.Backward();
  EXPECT_TRUE(net.h.grad().defined());
  EXPECT_GT(test::MaxAbs(net["x_proj"].grad), 0);
  EXPECT_EQ(test::MaxAbs(net["out_proj"].grad), 0);
}

}  // namespace
}  // namespace adder
