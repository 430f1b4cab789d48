// The tape's own promises, on hand-made functions: contributions add up, views of columns write
// into their parent, recomputation changes nothing, memory goes as the backward walks.
#include "adder/autograd/tape.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "adder/core/error.h"

namespace adder {
namespace {

Tensor Values(const Shape& shape, std::vector<float> values) {
  return Tensor::From<float>(shape, values);
}

std::vector<float> Floats(const Tensor& tensor) {
  const Tensor dense = tensor.Clone();
  return {dense.data<float>(), dense.data<float>() + dense.elements()};
}

void Seed(const Variable& variable, float value) {
  variable.CollectGradOverwriting([&](const Tensor& target) {
    for (int64_t i = 0; i < target.elements(); ++i) target.data<float>()[i] = value;
  });
}

// y = sin(x), element by element. Reads and writes strided rows.
Variable Sin(Tape* tape, const Variable& x) {
  const Tensor in = x.value().Clone();
  const Tensor out = Tensor::Empty(in.shape(), DType::kF32);
  for (int64_t i = 0; i < in.elements(); ++i) out.data<float>()[i] = std::sin(in.data<float>()[i]);
  Variable y(out, tape != nullptr);
  if (tape != nullptr) {
    tape->Record([in, dx = x.gradient(), dy = y.gradient()] {
      const Tensor seed = dy.value();
      if (!seed.defined()) return;
      dx.Collect([&](const Tensor& target, bool accumulate) {
        const Tensor product = Tensor::Empty(in.shape(), DType::kF32);
        const Tensor before = target.Clone();
        for (int64_t i = 0; i < in.elements(); ++i) {
          product.data<float>()[i] = seed.data<float>()[i] * std::cos(in.data<float>()[i]) +
                                     (accumulate ? before.data<float>()[i] : 0.0f);
        }
        target.CopyFrom(product);
      });
    });
  }
  return y;
}

// y = a · b, element by element; its backward can only overwrite.
Variable Product(Tape* tape, const Variable& a, const Variable& b) {
  const auto multiply = [](const Tensor& p, const Tensor& q) {
    Tensor x = p.Clone();
    const Tensor y = q.Clone();
    for (int64_t i = 0; i < x.elements(); ++i) x.data<float>()[i] *= y.data<float>()[i];
    return x;
  };
  Variable y(multiply(a.value(), b.value()), tape != nullptr);
  if (tape != nullptr) {
    tape->Record([=, dy = y.gradient()] {
      const Tensor seed = dy.value();
      if (!seed.defined()) return;
      a.CollectGradOverwriting([&](const Tensor& t) { t.CopyFrom(multiply(seed, b.value())); });
      b.CollectGradOverwriting([&](const Tensor& t) { t.CopyFrom(multiply(seed, a.value())); });
    });
  }
  return y;
}

TEST(VariableTest, LeafWithoutGradientCollectsNothing) {
  const Variable x(Values({2}, {1, 2}));
  EXPECT_FALSE(x.requires_grad());
  x.CollectGrad([](const Tensor&, bool) { FAIL() << "nobody wants this gradient"; });
  EXPECT_FALSE(x.grad().defined());
  EXPECT_FALSE(Variable().defined());
  EXPECT_THROW(Variable(Tensor(), true), Error);
}

TEST(VariableTest, FirstContributionOverwritesLaterOnesAdd) {
  const Variable x(Values({3}, {0, 0, 0}), true);
  EXPECT_FALSE(x.grad().defined());
  std::vector<bool> accumulates;
  for (int i = 0; i < 2; ++i) {
    x.CollectGrad([&](const Tensor& target, bool accumulate) {
      accumulates.push_back(accumulate);
      for (int64_t k = 0; k < 3; ++k) {
        target.data<float>()[k] = 1.0f + (accumulate ? target.data<float>()[k] : 0.0f);
      }
    });
  }
  Seed(x, 5);
  EXPECT_EQ(accumulates, (std::vector<bool>{false, true}));
  EXPECT_EQ(Floats(x.grad()), (std::vector<float>{7, 7, 7}));
}

TEST(VariableTest, AddsInEveryFloatingDType) {
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kBF16, DType::kF16}) {
    const Variable x(Tensor::Zeros({2, 3}, dtype), true);
    const Tensor ones = Values({2, 3}, {1, 1, 1, 1, 1, 1}).To(dtype);
    for (int i = 0; i < 3; ++i) {
      x.CollectGradOverwriting([&](const Tensor& target) { target.CopyFrom(ones); });
    }
    EXPECT_EQ(x.grad().dtype(), dtype);
    EXPECT_EQ(Floats(x.grad().To(DType::kF32)), std::vector<float>(6, 3.0f));
  }
}

TEST(VariableTest, ColumnsCollectInTheParentAndTheRestIsZero) {
  const Variable x(Values({2, 4}, {0, 1, 2, 3, 4, 5, 6, 7}), true);
  const Variable middle = x.Columns(1, 2);
  EXPECT_EQ(Floats(middle.value()), (std::vector<float>{1, 2, 5, 6}));
  EXPECT_FALSE(middle.grad().defined());
  middle.CollectGradOverwriting([](const Tensor& target) {
    target.CopyFrom(Values({2, 2}, {10, 20, 30, 40}));
  });
  EXPECT_FALSE(x.Columns(3, 1).grad().defined());
  EXPECT_EQ(Floats(x.grad()), (std::vector<float>{0, 10, 20, 0, 0, 30, 40, 0}));
  EXPECT_EQ(x.grad().data<float>() + 1, middle.grad().data<float>());
}

TEST(VariableTest, ColumnsAndWholeContributionsAddUpInAnyOrder) {
  const auto ones = [](const Variable& v) {
    v.CollectGradOverwriting([](const Tensor& target) {
      const Tensor one = Tensor::Empty(target.shape(), DType::kF32);
      for (int64_t i = 0; i < one.elements(); ++i) one.data<float>()[i] = 1;
      target.CopyFrom(one);
    });
  };
  // Every order of four contributors: the whole, two disjoint views, and a view of a view that
  // overlaps both.
  std::vector<int> order = {0, 1, 2, 3};
  do {
    const Variable x(Tensor::Zeros({2, 6}, DType::kF32), true);
    const std::vector<Variable> who = {x, x.Columns(0, 3), x.Columns(3, 2),
                                       x.Columns(1, 5).Columns(1, 2)};
    for (const int i : order) ones(who[static_cast<size_t>(i)]);
    EXPECT_EQ(Floats(x.grad().Rows(1, 1)), (std::vector<float>{2, 2, 3, 3, 2, 1}));
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST(VariableTest, GradientsOfNoColumnsAndNoRows) {
  const Variable x(Tensor::Zeros({0, 4}, DType::kF32), true);
  Seed(x.Columns(0, 2), 1);
  EXPECT_EQ(x.grad().shape(), Shape({0, 4}));
  const Variable scalar(Tensor::Zeros({}, DType::kF32), true);
  Seed(scalar, 2);
  Seed(scalar, 3);
  EXPECT_EQ(Floats(scalar.grad()), (std::vector<float>{5}));
}

TEST(TapeTest, ChainRuleThroughSharedValuesMatchesFiniteDifferences) {
  // f(x) = Σ sin(x)·x[:, half]·sin(sin(x))[…]: several consumers, views, both kinds of writers.
  const auto f = [](Tape* tape, const Variable& x) {
    const Variable s = Sin(tape, x);
    const Variable left = s.Columns(0, 2);
    const Variable right = x.Columns(2, 2);
    return Product(tape, Product(tape, left, right), Sin(tape, left));
  };
  const auto sum = [](const Tensor& t) {
    double total = 0;
    for (const float v : Floats(t)) total += v;
    return total;
  };
  const std::vector<float> at = {0.3f, -1.2f, 0.7f, 2.0f, 1.1f, 0.4f, -0.6f, 0.9f};
  const Variable x(Values({2, 4}, at), true);
  Tape tape;
  const Variable y = f(&tape, x);
  Seed(y, 1);
  tape.Backward();
  const std::vector<float> analytic = Floats(x.grad());
  for (size_t i = 0; i < at.size(); ++i) {
    constexpr float kStep = 1e-2f;
    std::vector<float> up = at;
    std::vector<float> down = at;
    up[i] += kStep;
    down[i] -= kStep;
    const double slope = (sum(f(nullptr, Variable(Values({2, 4}, up))).value()) -
                          sum(f(nullptr, Variable(Values({2, 4}, down))).value())) /
                         (2.0 * kStep);
    // The second-order error of the difference is about step² = 1e-4.
    EXPECT_NEAR(analytic[i], slope, 1e-3) << i;
  }
}

TEST(TapeTest, BackwardRunsOnceInReverseAndSkipsWhatGotNoGradient) {
  Tape tape;
  std::vector<int> order;
  for (int i = 0; i < 3; ++i) tape.Record([&order, i] { order.push_back(i); });
  tape.Backward();
  tape.Backward();
  EXPECT_EQ(order, (std::vector<int>{2, 1, 0}));

  const Variable x(Values({1}, {1}), true);
  Sin(&tape, x);  // its result is never used
  tape.Backward();
  EXPECT_FALSE(x.grad().defined());
}

TEST(TapeTest, ValuesNobodyNeedsAreFreedDuringTheForwardAndClosuresDuringTheBackward) {
  // Sin keeps a copy of its input and the gradients' handles, never its output.
  const auto alive = std::make_shared<int>(0);
  const auto watched = [&] {
    auto* element = new float(0.5f);
    return Tensor::Wrap(element, {1}, DType::kF32,
                        std::shared_ptr<const void>(element, [alive](const void* p) {
                          delete static_cast<const float*>(p);
                        }));
  };
  Tape tape;
  const Variable x(Values({1}, {1}), true);
  Variable y = Sin(&tape, x);
  {
    const Variable holder(watched(), true);
    tape.Record([dy = holder.gradient(), later = y.gradient()] {});
    EXPECT_EQ(alive.use_count(), 2);
  }
  EXPECT_EQ(alive.use_count(), 1) << "a Gradient must not keep its variable's value";

  tape.Record([kept = watched()] {});
  tape.Record([kept = watched(), &alive] { EXPECT_EQ(alive.use_count(), 3); });
  tape.Record([&alive] { EXPECT_EQ(alive.use_count(), 3); });
  tape.Backward();
  EXPECT_EQ(alive.use_count(), 1);
}

TEST(CheckpointTest, RecomputesTheSameBits) {
  const std::vector<float> at = {0.3f, -1.2f, 0.7f, 2.0f};
  int runs = 0;
  const BlockFunction block = [&runs](Tape* tape, const std::vector<Variable>& in) {
    ++runs;
    EXPECT_FALSE(in[2].defined());
    const Variable s = Sin(tape, in[0]);
    return std::vector<Variable>{Product(tape, s, in[1]), Variable(), Sin(tape, s)};
  };
  const auto gradients = [&](bool checkpoint) {
    const Variable x(Values({2, 2}, at), true);
    const Variable w(Values({2, 2}, {2, 3, 4, 5}), true);
    Tape tape;
    const Variable first = Sin(&tape, x);
    const std::vector<Variable> inputs = {first, w, Variable()};
    const std::vector<Variable> out =
        checkpoint ? Checkpoint(&tape, block, inputs) : block(&tape, inputs);
    const Variable last = Product(&tape, Product(&tape, out[0], out[2]), first);
    Seed(last, 1);
    tape.Backward();
    std::vector<float> all = Floats(x.grad());
    for (const float v : Floats(w.grad())) all.push_back(v);
    for (const float v : Floats(last.value())) all.push_back(v);
    EXPECT_FALSE(out[1].defined());
    return all;
  };
  const std::vector<float> plain = gradients(false);
  EXPECT_EQ(runs, 1);
  EXPECT_EQ(gradients(true), plain);
  EXPECT_EQ(runs, 3);
}

TEST(CheckpointTest, NestsAndPassesInputsThrough) {
  const BlockFunction inner = [](Tape* tape, const std::vector<Variable>& in) {
    return std::vector<Variable>{Sin(tape, in[0]), in[0]};
  };
  const BlockFunction outer = [&](Tape* tape, const std::vector<Variable>& in) {
    const std::vector<Variable> mid = Checkpoint(tape, inner, in);
    return std::vector<Variable>{Product(tape, mid[0], mid[1])};
  };
  const Variable x(Values({1}, {0.8f}), true);
  Tape tape;
  const Variable y = Checkpoint(&tape, outer, {x})[0];
  Seed(y, 1);
  tape.Backward();
  // d(sin(x)·x)/dx, in f32.
  EXPECT_NEAR(Floats(x.grad())[0], std::sin(0.8) + 0.8 * std::cos(0.8), 1e-6);
}

TEST(CheckpointTest, WithoutATapeOrWithoutAGradientRunsOnce) {
  int runs = 0;
  const BlockFunction block = [&](Tape* tape, const std::vector<Variable>& in) {
    ++runs;
    return std::vector<Variable>{Sin(tape, in[0])};
  };
  const Variable x(Values({1}, {1}), true);
  EXPECT_FALSE(Checkpoint(nullptr, block, {x})[0].requires_grad());
  EXPECT_EQ(runs, 1);
  Tape tape;
  Checkpoint(&tape, block, {x});
  tape.Backward();
  EXPECT_EQ(runs, 2) << "a block whose results got no gradient is not recomputed";
}

}  // namespace
}  // namespace adder
