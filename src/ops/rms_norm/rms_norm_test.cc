// Tests of rms_norm: the definition against finite differences, the CPU against the definition.
#include "adder/ops/rms_norm/rms_norm.h"

#include <gmock/gmock.h>

#include "adder/backend/cpu/parallel.h"
#include "adder/core/error.h"
#include "adder/ops/operator_test.h"

namespace adder {
namespace {

using test::AsType;
using test::ErrorOf;
using test::ForEveryInstructionSet;
using test::GapsUntouched;
using test::MaxAbs;
using test::Near;
using test::RandomNormal;
using test::SameBits;
using testing::HasSubstr;

constexpr DType kActivations[] = {DType::kF32, DType::kBF16, DType::kF16};
// One row, nothing, less than a vector, a vector, vectors and a rest, more than one block of sums.
const std::vector<Shape> kShapes = {{1, 1},  {0, 5},   {3, 0},   {5, 7},    {3, 16},
                                    {2, 33}, {37, 70}, {1, 768}, {2, 4500}, {150, 19}};

// The spacing of the dtype's numbers: the result's one rounding is half of it, the f32 arithmetic
// before may tip it over.
double OutputTolerance(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return 0x1p-8;
    case DType::kF16:
      return 0x1p-11;
    default:
      return 1e-6;  // a few roundings of 2^-24
  }
}

TEST(RmsNormReference, HandComputed) {
  const auto f64 = [](const Shape& shape, std::vector<double> values) {
    return Tensor::From(shape, std::span<const double>(values));
  };
  RmsNormInputs inputs;
  inputs.x = f64({1, 2}, {1, 2});
  inputs.residual = f64({1, 2}, {2, 2});
  inputs.weight = f64({2}, {10, 100});
  inputs.eps = 0;
  const RmsNormOutputs outputs = {Tensor::Empty({1, 2}, DType::kF64),
                                  Tensor::Empty({1, 2}, DType::kF64)};
  reference::RmsNorm(inputs, outputs);
  EXPECT_TRUE(SameBits(outputs.residual_out, f64({1, 2}, {3, 4})));
  EXPECT_DOUBLE_EQ(outputs.y.data<double>()[0], 3 / std::sqrt(12.5) * 10);
  EXPECT_DOUBLE_EQ(outputs.y.data<double>()[1], 4 / std::sqrt(12.5) * 100);
}

TEST(RmsNormReference, GradientsAgreeWithDifferences) {
  Random random(1);
  for (const Shape& shape : {Shape{1, 1}, Shape{4, 7}, Shape{3, 20}}) {
    SCOPED_TRACE(shape.ToString());
    RmsNormInputs inputs;
    inputs.x = RandomNormal(random, shape);
    inputs.residual = RandomNormal(random, shape);
    inputs.weight = RandomNormal(random, {shape[1]});
    inputs.eps = 0.1f;  // large enough to matter
    const RmsNormOutputs outputs = {Tensor::Empty(shape, DType::kF64),
                                    Tensor::Empty(shape, DType::kF64)};
    const Tensor dy = RandomNormal(random, shape);
    const Tensor d_residual_out = RandomNormal(random, shape);
    const auto loss = [&] {
      reference::RmsNorm(inputs, outputs);
      return test::WeightedSum(dy, outputs.y) +
             test::WeightedSum(d_residual_out, outputs.residual_out);
    };
    loss();
    const RmsNormGradients gradients = {Tensor::Empty(shape, DType::kF64),
                                        Tensor::Empty(shape, DType::kF64),
                                        Tensor::Zeros({shape[1]}, DType::kF64)};
    reference::RmsNormBackward(outputs.residual_out.Clone(), inputs.weight, inputs.eps, dy,
                               d_residual_out, gradients);
    test::ExpectGradients(loss,
                          {{"x", inputs.x, gradients.dx},
                           {"residual", inputs.residual, gradients.dr},
                           {"weight", inputs.weight, gradients.dweight}},
                          random);
  }
}

TEST(RmsNormCpu, ForwardAgreesWithTheReference) {
  ForEveryInstructionSet([] {
    Random random(2);
    for (const Shape& shape : kShapes) {
      for (const DType x_dtype : kActivations) {
        for (const DType y_dtype : kActivations) {
          for (const bool residual : {false, true}) {
            SCOPED_TRACE(testing::Message()
                         << shape.ToString() << " " << DTypeName(x_dtype) << " to "
                         << DTypeName(y_dtype) << (residual ? " with residual" : ""));
            RmsNormInputs inputs;
            inputs.x = RandomNormal(random, shape).To(x_dtype);
            if (residual) inputs.residual = RandomNormal(random, shape, 0, 3).To(DType::kF32);
            inputs.weight = RandomNormal(random, {shape[1]}).To(DType::kF32);
            RmsNormInputs exact = inputs;
            exact.x = AsType(DType::kF64, inputs.x);
            exact.residual = AsType(DType::kF64, inputs.residual);
            exact.weight = AsType(DType::kF64, inputs.weight);
            const RmsNormOutputs outputs = {Tensor::Empty(shape, y_dtype),
                                            Tensor::Empty(shape, DType::kF32)};
            const RmsNormOutputs expected = {Tensor::Empty(shape, DType::kF64),
                                             Tensor::Empty(shape, DType::kF64)};
            RmsNorm(inputs, outputs);
            reference::RmsNorm(exact, expected);
            EXPECT_TRUE(Near(outputs.y, expected.y, OutputTolerance(y_dtype)));
            EXPECT_TRUE(Near(outputs.residual_out, expected.residual_out, 1e-7));

            // Without residual_out the sum is formed twice, to the same bits.
            const Tensor y = Tensor::Empty(shape, y_dtype);
            RmsNorm(inputs, {y, {}});
            EXPECT_TRUE(SameBits(y, outputs.y));
          }
        }
      }
    }
  });
}

// max |dy · weight| / sqrt(mean(r²) + eps): the size of the terms of dr.
double LargestTerm(const Tensor& r, const Tensor& weight, const Tensor& dy) {
  const Tensor n = Tensor::Empty(r.shape(), DType::kF64);
  const Tensor one = Tensor::Empty(weight.shape(), DType::kF64);
  std::fill_n(one.data<double>(), one.elements(), 1.0);
  reference::RmsNorm({r, {}, one}, {n, {}});
  double inverse = 0;
  for (int64_t i = 0; i < r.elements(); ++i) {
    inverse = std::max(inverse, n.data<double>()[i] / r.data<double>()[i]);
  }
  return MaxAbs(dy) * MaxAbs(weight) * inverse;
}

TEST(RmsNormCpu, BackwardAgreesWithTheReference) {
  ForEveryInstructionSet([] {
    Random random(3);
    for (const Shape& shape : kShapes) {
      for (const DType dy_dtype : kActivations) {
        for (const DType dx_dtype : kActivations) {
          SCOPED_TRACE(testing::Message() << shape.ToString() << " " << DTypeName(dy_dtype)
                                          << " to " << DTypeName(dx_dtype));
          const Tensor r = RandomNormal(random, shape, 0, 2).To(DType::kF32);
          const Tensor weight = RandomNormal(random, {shape[1]}).To(DType::kF32);
          const Tensor dy = RandomNormal(random, shape).To(dy_dtype);
          const Tensor through = RandomNormal(random, shape).To(DType::kF32);
          const RmsNormGradients gradients = {Tensor::Empty(shape, DType::kF32),
                                              Tensor::Empty(shape, dx_dtype),
                                              Tensor::Zeros({shape[1]}, DType::kF32)};
          const RmsNormGradients expected = {Tensor::Empty(shape, DType::kF64),
                                             Tensor::Empty(shape, DType::kF64),
                                             Tensor::Zeros({shape[1]}, DType::kF64)};
          RmsNormBackward(r, weight, 1e-5f, dy, through, gradients);
          reference::RmsNormBackward(r.To(DType::kF64), weight.To(DType::kF64), 1e-5f,
                                     dy.To(DType::kF64), through.To(DType::kF64), expected);
          // Roundings are of the size of the terms, which may cancel (with one channel entirely).
          const double terms =
              MaxAbs(through) + LargestTerm(r.To(DType::kF64), weight.To(DType::kF64), dy);
          const double rounding = 5e-7 * terms / std::max(MaxAbs(expected.dr), 1e-300);
          EXPECT_TRUE(Near(gradients.dr, expected.dr, rounding));
          EXPECT_TRUE(
              Near(gradients.dx, expected.dx, std::max(rounding, OutputTolerance(dx_dtype))));
          EXPECT_TRUE(Near(gradients.dweight, expected.dweight, 5e-6));

          // In place, and with parts left out.
          const Tensor in_place = through.Clone();
          RmsNormBackward(r, weight, 1e-5f, dy, in_place, {in_place, {}, {}});
          EXPECT_TRUE(SameBits(in_place, gradients.dr));
          const Tensor dx = Tensor::Empty(shape, dx_dtype);
          RmsNormBackward(r, weight, 1e-5f, dy, {}, {{}, dx, {}});
          const Tensor zeros = Tensor::Zeros(shape, DType::kF32);
          const Tensor dx_of_zeros = Tensor::Empty(shape, dx_dtype);
          RmsNormBackward(r, weight, 1e-5f, dy, zeros, {{}, dx_of_zeros, {}});
          EXPECT_TRUE(Near(dx, dx_of_zeros, 0));
        }
      }
    }
  });
}

TEST(RmsNorm, NoWeightIsAWeightOfOnes) {
  const auto ones = [](DType dtype) {
    const Tensor tensor = Tensor::Empty({37}, DType::kF64);
    std::fill_n(tensor.data<double>(), 37, 1.0);
    return tensor.To(dtype);
  };
  const auto run = [](bool reference, const Tensor& x, const Tensor& weight, const Tensor& dy) {
    const DType dtype = x.dtype();
    const Tensor y = Tensor::Empty(x.shape(), dtype);
    const RmsNormGradients gradients = {Tensor::Empty(x.shape(), dtype), {}, {}};
    if (reference) {
      reference::RmsNorm({x, {}, weight}, {y, {}});
      reference::RmsNormBackward(x, weight, 1e-5f, dy, {}, gradients);
    } else {
      RmsNorm({x, {}, weight}, {y, {}});
      RmsNormBackward(x, weight, 1e-5f, dy, {}, gradients);
    }
    return std::pair(y, gradients.dr);
  };
  Random random(9);
  const Tensor x = RandomNormal(random, {5, 37});
  const Tensor dy = RandomNormal(random, {5, 37});
  EXPECT_TRUE(SameBits(run(true, x, {}, dy).first, run(true, x, ones(DType::kF64), dy).first));
  EXPECT_TRUE(SameBits(run(true, x, {}, dy).second, run(true, x, ones(DType::kF64), dy).second));
  ForEveryInstructionSet([&] {
    // A view of columns, as Falcon-Mamba's dt, B and C are.
    const Tensor view = test::WithRowGap(x.To(DType::kF32), 3);
    const Tensor gradient = dy.To(DType::kF32);
    EXPECT_TRUE(SameBits(run(false, view, {}, gradient).first,
                         run(false, view, ones(DType::kF32), gradient).first));
    EXPECT_TRUE(SameBits(run(false, view, {}, gradient).second,
                         run(false, view, ones(DType::kF32), gradient).second));
  });
}

TEST(RmsNormCpu, MayWriteOverItsInputs) {
  ForEveryInstructionSet([] {
    Random random(4);
    for (const DType dtype : kActivations) {
      RmsNormInputs inputs;
      inputs.x = RandomNormal(random, {9, 45}).To(dtype);
      inputs.residual = RandomNormal(random, {9, 45}).To(DType::kF32);
      inputs.weight = RandomNormal(random, {45}).To(DType::kF32);
      const RmsNormOutputs apart = {Tensor::Empty({9, 45}, dtype),
                                    Tensor::Empty({9, 45}, DType::kF32)};
      RmsNorm(inputs, apart);
      RmsNormInputs in_place = inputs;
      in_place.x = inputs.x.Clone();
      in_place.residual = inputs.residual.Clone();
      RmsNorm(in_place, {in_place.x, in_place.residual});
      EXPECT_TRUE(SameBits(in_place.x, apart.y));
      EXPECT_TRUE(SameBits(in_place.residual, apart.residual_out));
      // y over x, r not stored.
      in_place.x = inputs.x.Clone();
      RmsNorm({in_place.x, inputs.residual, inputs.weight}, {in_place.x, {}});
      EXPECT_TRUE(SameBits(in_place.x, apart.y));
    }
  });
}

TEST(RmsNormCpu, TakesStridedRows) {
  ForEveryInstructionSet([] {
    Random random(5);
    for (const DType dtype : kActivations) {
      const Shape shape = {6, 37};
      RmsNormInputs dense;
      dense.x = RandomNormal(random, shape).To(dtype);
      dense.residual = RandomNormal(random, shape).To(DType::kF32);
      dense.weight = RandomNormal(random, {37}).To(DType::kF32);
      const RmsNormOutputs outputs = {Tensor::Empty(shape, dtype),
                                      Tensor::Empty(shape, DType::kF32)};
      RmsNorm(dense, outputs);
      RmsNormInputs strided = dense;
      strided.x = test::WithRowGap(dense.x, 3);
      strided.residual = test::WithRowGap(dense.residual, 1);
      const RmsNormOutputs strided_outputs = {
          test::WithRowGap(Tensor::Zeros(shape, dtype), 2),
          test::WithRowGap(Tensor::Zeros(shape, DType::kF32), 5)};
      RmsNorm(strided, strided_outputs);
      EXPECT_TRUE(SameBits(strided_outputs.y, outputs.y));
      EXPECT_TRUE(SameBits(strided_outputs.residual_out, outputs.residual_out));
      EXPECT_TRUE(GapsUntouched(strided_outputs.y));
      EXPECT_TRUE(GapsUntouched(strided_outputs.residual_out));

      const Tensor dy = RandomNormal(random, shape).To(dtype);
      const Tensor through = RandomNormal(random, shape).To(DType::kF32);
      const RmsNormGradients gradients = {Tensor::Empty(shape, DType::kF32),
                                          Tensor::Empty(shape, dtype),
                                          Tensor::Zeros({37}, DType::kF32)};
      RmsNormBackward(outputs.residual_out, dense.weight, 1e-5f, dy, through, gradients);
      const RmsNormGradients strided_gradients = {
          test::WithRowGap(Tensor::Zeros(shape, DType::kF32), 1),
          test::WithRowGap(Tensor::Zeros(shape, dtype), 4), Tensor::Zeros({37}, DType::kF32)};
      RmsNormBackward(strided_outputs.residual_out, dense.weight, 1e-5f, test::WithRowGap(dy, 7),
                      test::WithRowGap(through, 2), strided_gradients);
      EXPECT_TRUE(SameBits(strided_gradients.dr, gradients.dr));
      EXPECT_TRUE(SameBits(strided_gradients.dx, gradients.dx));
      EXPECT_TRUE(SameBits(strided_gradients.dweight, gradients.dweight));
      EXPECT_TRUE(GapsUntouched(strided_gradients.dr));
      EXPECT_TRUE(GapsUntouched(strided_gradients.dx));
    }
  });
}

TEST(RmsNormCpu, SquaresPastTheRangeOfF32) {
  ForEveryInstructionSet([] {
    Random random(6);
    for (const double scale : {1e15, 1e25, 1e37}) {
      SCOPED_TRACE(scale);
      const Shape shape = {3, 50};
      const Tensor x = RandomNormal(random, shape, 0, scale).To(DType::kF32);
      const Tensor weight = RandomNormal(random, {50}).To(DType::kF32);
      const Tensor y = Tensor::Empty(shape, DType::kF32);
      const Tensor expected = Tensor::Empty(shape, DType::kF64);
      RmsNorm({x, {}, weight}, {y, {}});
      reference::RmsNorm({x.To(DType::kF64), {}, weight.To(DType::kF64)}, {expected, {}});
      EXPECT_TRUE(Near(y, expected, 2e-6));

      const Tensor dy = RandomNormal(random, shape, 0, 1e3).To(DType::kF32);
      const Tensor dr = Tensor::Empty(shape, DType::kF32);
      const Tensor expected_dr = Tensor::Empty(shape, DType::kF64);
      RmsNormBackward(x, weight, 1e-5f, dy, {}, {dr, {}, {}});
      reference::RmsNormBackward(x.To(DType::kF64), weight.To(DType::kF64), 1e-5f,
                                 dy.To(DType::kF64), {}, {expected_dr, {}, {}});
      EXPECT_TRUE(Near(dr, expected_dr, 2e-6));
    }
  });
}

// With no eps to outweigh them, squares below the range of f32 still count.
TEST(RmsNormCpu, SquaresBelowTheRangeOfF32) {
  ForEveryInstructionSet([] {
    Random random(10);
    for (const double scale : {1e-15, 1e-19, 1e-23, 1e-36}) {
      SCOPED_TRACE(scale);
      const Shape shape = {3, 50};
      const Tensor x = RandomNormal(random, shape, 0, scale).To(DType::kF32);
      const Tensor weight = RandomNormal(random, {50}).To(DType::kF32);
      for (const float eps : {0.0f, 1e-30f}) {
        const Tensor y = Tensor::Empty(shape, DType::kF32);
        const Tensor expected = Tensor::Empty(shape, DType::kF64);
        RmsNorm({x, {}, weight, eps}, {y, {}});
        reference::RmsNorm({x.To(DType::kF64), {}, weight.To(DType::kF64), eps}, {expected, {}});
        EXPECT_TRUE(Near(y, expected, 2e-6));

        const Tensor dy = RandomNormal(random, shape).To(DType::kF32);
        const Tensor dr = Tensor::Empty(shape, DType::kF32);
        const Tensor expected_dr = Tensor::Empty(shape, DType::kF64);
        RmsNormBackward(x, weight, eps, dy, {}, {dr, {}, {}});
        reference::RmsNormBackward(x.To(DType::kF64), weight.To(DType::kF64), eps,
                                   dy.To(DType::kF64), {}, {expected_dr, {}, {}});
        EXPECT_TRUE(Near(dr, expected_dr, 2e-6));
      }
    }
  });
}

TEST(RmsNormCpu, NanStaysInItsRow) {
  ForEveryInstructionSet([] {
    Random random(7);
    const Tensor x = RandomNormal(random, {3, 40}).To(DType::kF32);
    x.data<float>()[40 + 38] = std::numeric_limits<float>::quiet_NaN();
    const Tensor weight = RandomNormal(random, {40}).To(DType::kF32);
    const Tensor y = Tensor::Empty({3, 40}, DType::kF32);
    RmsNorm({x, {}, weight}, {y, {}});
    for (int64_t i = 0; i < y.elements(); ++i) {
      EXPECT_EQ(std::isnan(y.data<float>()[i]), i / 40 == 1) << i;
    }
  });
}

TEST(RmsNormCpu, ResultsDoNotDependOnThreads) {
  const int threads = cpu::ThreadCount();
  Random random(8);
  const Shape shape = {1037, 65};
  const Tensor r = RandomNormal(random, shape).To(DType::kF32);
  const Tensor weight = RandomNormal(random, {65}).To(DType::kF32);
  const Tensor dy = RandomNormal(random, shape).To(DType::kF32);
  std::vector<Tensor> ys;
  std::vector<RmsNormGradients> gradients;
  for (const int count : {1, 2, 3, 5}) {
    cpu::SetThreadCount(count);
    ys.push_back(Tensor::Empty(shape, DType::kF32));
    gradients.push_back({Tensor::Empty(shape, DType::kF32), {}, Tensor::Zeros({65}, DType::kF32)});
    RmsNorm({r, {}, weight}, {ys.back(), {}});
    RmsNormBackward(r, weight, 1e-5f, dy, {}, gradients.back());
    EXPECT_TRUE(SameBits(ys.back(), ys.front()));
    EXPECT_TRUE(SameBits(gradients.back().dr, gradients.front().dr));
    EXPECT_TRUE(SameBits(gradients.back().dweight, gradients.front().dweight));
  }
  cpu::SetThreadCount(threads);
  // dweight is added to.
  const Tensor once = gradients.front().dweight.Clone();
  RmsNormBackward(r, weight, 1e-5f, dy, {}, {{}, {}, gradients.front().dweight});
  for (int64_t d = 0; d < 65; ++d) {
    EXPECT_NEAR(gradients.front().dweight.data<float>()[d], 2 * once.data<float>()[d],
                2e-4);  // sums of a thousand terms, added block by block
  }
}

TEST(RmsNorm, RefusesWhatDoesNotFit) {
  const auto zeros = [](const Shape& shape, DType dtype = DType::kF32) {
    return Tensor::Zeros(shape, dtype);
  };
  const RmsNormInputs good = {zeros({4, 6}), zeros({4, 6}), zeros({6})};
  const RmsNormOutputs outputs = {zeros({4, 6}), zeros({4, 6})};
  const auto message = [&](auto change) {
    RmsNormInputs inputs = good;
    RmsNormOutputs changed = outputs;
    change(inputs, changed);
    return ErrorOf([&] { RmsNorm(inputs, changed); });
  };
  using In = RmsNormInputs;
  using Out = RmsNormOutputs;
  EXPECT_THAT(message([&](In& in, Out&) { in.x = {}; }), HasSubstr("rms_norm: x is not given"));
  EXPECT_THAT(message([&](In& in, Out&) { in.x = zeros({6}); }), HasSubstr("2 dimensions"));
  EXPECT_THAT(message([&](In& in, Out&) {
                in.x = zeros({4, 6}, DType::kI32);
              }),
              HasSubstr("x is i32 [4, 6], expected f32 or bf16 or f16 [4, 6]"));
  EXPECT_THAT(message([&](In& in, Out&) {
                in.residual = zeros({4, 6}, DType::kBF16);
              }),
              HasSubstr("residual is bf16"));
  EXPECT_THAT(message([&](In& in, Out&) { in.weight = zeros({5}); }),
              HasSubstr("weight is f32 [5], expected f32 [6]"));
  EXPECT_THAT(message([&](In& in, Out&) { in.eps = -1; }), HasSubstr("eps is -1"));
  EXPECT_THAT(message([&](In&, Out& out) { out.y = {}; }), HasSubstr("y is not given"));
  EXPECT_THAT(message([&](In&, Out& out) {
                out.residual_out = zeros({3, 6});
              }),
              HasSubstr("residual_out"));
  EXPECT_THAT(message([&](In& in, Out& out) {
                const Tensor wide = zeros({4, 12});
                in.x = wide.Columns(0, 6);
                out.y = Tensor::Wrap(wide.raw(), {4, 6}, DType::kF32);
              }),
              HasSubstr("y lies on x"));

  EXPECT_THAT(ErrorOf([&] {
                RmsNormBackward(zeros({4, 6}), zeros({6}), 1e-5f, zeros({4, 5}), {}, {});
              }),
              HasSubstr("rms_norm backward: dy is f32 [4, 5]"));
  EXPECT_THAT(ErrorOf([&] {
                RmsNormBackward(zeros({4, 6}), zeros({6}), 1e-5f, zeros({4, 6}), {},
                                {{}, {}, zeros({6}, DType::kF16)});
              }),
              HasSubstr("dweight is f16"));
  EXPECT_THAT(
      ErrorOf([&] {
        RmsNormBackward(zeros({4, 6}, DType::kBF16), zeros({6}), 1e-5f, zeros({4, 6}), {}, {});
      }),
      HasSubstr("r is bf16"));

  EXPECT_THAT(message([&](In& in, Out& out) { out.y = in.residual; }),
              HasSubstr("y lies on residual"));
  EXPECT_THAT(message([&](In& in, Out& out) { out.residual_out = in.x; }),
              HasSubstr("residual_out lies on x"));
  EXPECT_THAT(message([&](In&, Out& out) { out.residual_out = out.y; }),
              HasSubstr("residual_out lies on y"));
  const Tensor r = zeros({4, 6});
  const Tensor weight = zeros({6});
  const Tensor dy = zeros({4, 6});
  const Tensor through = zeros({4, 6});
  const auto backward = [&](const RmsNormGradients& gradients) {
    return ErrorOf([&] { RmsNormBackward(r, weight, 1e-5f, dy, through, gradients); });
  };
  EXPECT_THAT(backward({.dr = r}), HasSubstr("dr lies on r"));
  EXPECT_THAT(backward({.dr = dy}), HasSubstr("dr lies on dy"));
  EXPECT_THAT(backward({.dx = dy}), HasSubstr("dx lies on dy"));
  EXPECT_THAT(backward({.dx = through}), HasSubstr("dx lies on d_residual_out"));
  EXPECT_THAT(backward({.dr = through, .dx = through}), HasSubstr("dx lies on d"));
  EXPECT_THAT(backward({.dweight = weight}), HasSubstr("dweight lies on weight"));
  RmsNormBackward(r, weight, 1e-5f, dy, through, {.dr = through});  // over it
}

}  // namespace
}  // namespace adder
