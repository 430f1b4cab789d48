// Tests of layer_norm: the definition against finite differences, the CPU against the definition.
#include "adder/ops/layer_norm/layer_norm.h"

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
using test::Near;
using test::RandomNormal;
using test::SameBits;
using testing::HasSubstr;

constexpr DType kActivations[] = {DType::kF32, DType::kBF16, DType::kF16};
// Nothing, less than a vector, a vector, vectors and a rest, more than one block of sums.
const std::vector<Shape> kShapes = {{0, 5},   {3, 0},   {5, 7},    {3, 16},  {2, 33},
                                    {37, 70}, {1, 768}, {2, 4500}, {150, 19}};

// The spacing of the dtype's numbers: the result's one rounding is half of it, the f32 arithmetic
// before may tip it over.
double OutputTolerance(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return 0x1p-8;
    case DType::kF16:
      return 0x1p-11;
    default:
      return 2e-6;  // roundings of 2^-24, those of elements before the mean is taken off included
  }
}

Tensor Zeros(const Shape& shape, DType dtype = DType::kF32) { return Tensor::Zeros(shape, dtype); }

LayerNormInputs RandomInputs(Random& random, const Shape& shape, DType dtype, bool options) {
  LayerNormInputs inputs;
  inputs.x = RandomNormal(random, shape, 0.5, 1).To(dtype);
  if (options) inputs.residual = RandomNormal(random, shape, 2, 3).To(DType::kF32);
  inputs.weight = RandomNormal(random, {shape[1]}).To(DType::kF32);
  if (options) inputs.bias = RandomNormal(random, {shape[1]}).To(DType::kF32);
  return inputs;
}

LayerNormInputs Exact(const LayerNormInputs& inputs) {
  return {AsType(DType::kF64, inputs.x), AsType(DType::kF64, inputs.residual),
          AsType(DType::kF64, inputs.weight), AsType(DType::kF64, inputs.bias), inputs.eps};
}

TEST(LayerNormReference, HandComputed) {
  const auto f64 = [](const Shape& shape, std::vector<double> values) {
    return Tensor::From(shape, std::span<const double>(values));
  };
  const LayerNormInputs inputs = {f64({1, 2}, {1, 2}), f64({1, 2}, {2, 5}), f64({2}, {10, 100}),
                                  f64({2}, {0.5, 0.25}), 3.0f};
  const LayerNormOutputs outputs = {Zeros({1, 2}, DType::kF64), Zeros({1, 2}, DType::kF64)};
  reference::LayerNorm(inputs, outputs);
  EXPECT_TRUE(SameBits(outputs.residual_out, f64({1, 2}, {3, 7})));
  // Mean 5, variance 4.
  EXPECT_DOUBLE_EQ(outputs.y.data<double>()[0], -2 / std::sqrt(7.0) * 10 + 0.5);
  EXPECT_DOUBLE_EQ(outputs.y.data<double>()[1], 2 / std::sqrt(7.0) * 100 + 0.25);
}

TEST(LayerNormReference, GradientsAgreeWithDifferences) {
  Random random(1);
  for (const Shape& shape : {Shape{1, 1}, Shape{4, 7}, Shape{3, 20}}) {
    SCOPED_TRACE(shape.ToString());
    const LayerNormInputs inputs = {
        RandomNormal(random, shape), RandomNormal(random, shape), RandomNormal(random, {shape[1]}),
        RandomNormal(random, {shape[1]}), 0.1f};  // large enough to matter
    const LayerNormOutputs outputs = {Zeros(shape, DType::kF64), Zeros(shape, DType::kF64)};
    const Tensor dy = RandomNormal(random, shape);
    const Tensor d_residual_out = RandomNormal(random, shape);
    const auto loss = [&] {
      reference::LayerNorm(inputs, outputs);
      return test::WeightedSum(dy, outputs.y) +
             test::WeightedSum(d_residual_out, outputs.residual_out);
    };
    loss();
    const LayerNormGradients gradients = {Zeros(shape, DType::kF64), Zeros(shape, DType::kF64),
                                          Zeros({shape[1]}, DType::kF64),
                                          Zeros({shape[1]}, DType::kF64)};
    reference::LayerNormBackward(outputs.residual_out.Clone(), inputs.weight, inputs.eps, dy,
                                 d_residual_out, gradients);
    test::ExpectGradients(loss,
                          {{"x", inputs.x, gradients.dx},
                           {"residual", inputs.residual, gradients.dr},
                           {"weight", inputs.weight, gradients.dweight},
                           {"bias", inputs.bias, gradients.dbias}},
                          random);
  }
}

TEST(LayerNormCpu, ForwardAgreesWithTheReference) {
  ForEveryInstructionSet([] {
    Random random(2);
    for (const Shape& shape : kShapes) {
      for (const DType x_dtype : kActivations) {
        for (const DType y_dtype : kActivations) {
          for (const bool options : {false, true}) {
            SCOPED_TRACE(testing::Message()
                         << shape.ToString() << " " << DTypeName(x_dtype) << " to "
                         << DTypeName(y_dtype) << (options ? " with residual and bias" : ""));
            const LayerNormInputs inputs = RandomInputs(random, shape, x_dtype, options);
            const LayerNormOutputs outputs = {Tensor::Empty(shape, y_dtype),
                                              Tensor::Empty(shape, DType::kF32)};
            const LayerNormOutputs expected = {Tensor::Empty(shape, DType::kF64),
                                               Tensor::Empty(shape, DType::kF64)};
            LayerNorm(inputs, outputs);
            reference::LayerNorm(Exact(inputs), expected);
            EXPECT_TRUE(Near(outputs.y, expected.y, OutputTolerance(y_dtype)));
            EXPECT_TRUE(Near(outputs.residual_out, expected.residual_out, 1e-7));

            // Without residual_out the sum is formed anew, to the same bits.
            const Tensor y = Tensor::Empty(shape, y_dtype);
            LayerNorm(inputs, {y, {}});
            EXPECT_TRUE(SameBits(y, outputs.y));
          }
        }
      }
    }
  });
}

TEST(LayerNormCpu, BackwardAgreesWithTheReference) {
  ForEveryInstructionSet([] {
    Random random(3);
    for (const Shape& shape : kShapes) {
      for (const DType dy_dtype : kActivations) {
        for (const DType dx_dtype : kActivations) {
          SCOPED_TRACE(testing::Message() << shape.ToString() << " " << DTypeName(dy_dtype)
                                          << " to " << DTypeName(dx_dtype));
          const Tensor r = RandomNormal(random, shape, 1, 2).To(DType::kF32);
          const Tensor weight = RandomNormal(random, {shape[1]}).To(DType::kF32);
          const Tensor dy = RandomNormal(random, shape).To(dy_dtype);
          const Tensor through = RandomNormal(random, shape).To(DType::kF32);
          const LayerNormGradients gradients = {Tensor::Empty(shape, DType::kF32),
                                                Tensor::Empty(shape, dx_dtype), Zeros({shape[1]}),
                                                Zeros({shape[1]})};
          const LayerNormGradients expected = {Zeros(shape, DType::kF64), Zeros(shape, DType::kF64),
                                               Zeros({shape[1]}, DType::kF64),
                                               Zeros({shape[1]}, DType::kF64)};
          LayerNormBackward(r, weight, 1e-5f, dy, through, gradients);
          reference::LayerNormBackward(r.To(DType::kF64), weight.To(DType::kF64), 1e-5f,
                                       dy.To(DType::kF64), through.To(DType::kF64), expected);
          // With seven channels of one deviation terms are hardly larger than their sum.
          EXPECT_TRUE(Near(gradients.dr, expected.dr, 5e-6));
          EXPECT_TRUE(Near(gradients.dx, expected.dx, OutputTolerance(dx_dtype) + 5e-6));
          EXPECT_TRUE(Near(gradients.dweight, expected.dweight, 5e-6));
          EXPECT_TRUE(Near(gradients.dbias, expected.dbias, 5e-6));

          // In place, and with parts left out.
          const Tensor in_place = through.Clone();
          LayerNormBackward(r, weight, 1e-5f, dy, in_place, {in_place, {}, {}, {}});
          EXPECT_TRUE(SameBits(in_place, gradients.dr));
          const Tensor dx = Tensor::Empty(shape, dx_dtype);
          LayerNormBackward(r, weight, 1e-5f, dy, {}, {{}, dx, {}, {}});
          const Tensor dx_of_zeros = Tensor::Empty(shape, dx_dtype);
          LayerNormBackward(r, weight, 1e-5f, dy, Zeros(shape), {{}, dx_of_zeros, {}, {}});
          EXPECT_TRUE(Near(dx, dx_of_zeros, 0));
        }
      }
    }
  });
}

TEST(LayerNormCpu, MayWriteOverItsInputs) {
  ForEveryInstructionSet([] {
    Random random(4);
    for (const DType dtype : kActivations) {
      const LayerNormInputs inputs = RandomInputs(random, {9, 45}, dtype, true);
      const LayerNormOutputs apart = {Zeros({9, 45}, dtype), Zeros({9, 45})};
      LayerNorm(inputs, apart);
      LayerNormInputs in_place = inputs;
      in_place.x = inputs.x.Clone();
      in_place.residual = inputs.residual.Clone();
      LayerNorm(in_place, {in_place.x, in_place.residual});
      EXPECT_TRUE(SameBits(in_place.x, apart.y));
      EXPECT_TRUE(SameBits(in_place.residual, apart.residual_out));
    }
  });
}

TEST(LayerNormCpu, TakesStridedRows) {
  ForEveryInstructionSet([] {
    Random random(5);
    for (const DType dtype : kActivations) {
      const Shape shape = {6, 37};
      const LayerNormInputs dense = RandomInputs(random, shape, dtype, true);
      const LayerNormOutputs outputs = {Zeros(shape, dtype), Zeros(shape)};
      LayerNorm(dense, outputs);
      LayerNormInputs strided = dense;
      strided.x = test::WithRowGap(dense.x, 3);
      strided.residual = test::WithRowGap(dense.residual, 1);
      const LayerNormOutputs strided_outputs = {test::WithRowGap(Zeros(shape, dtype), 2),
                                                test::WithRowGap(Zeros(shape), 5)};
      LayerNorm(strided, strided_outputs);
      EXPECT_TRUE(SameBits(strided_outputs.y, outputs.y));
      EXPECT_TRUE(SameBits(strided_outputs.residual_out, outputs.residual_out));
      EXPECT_TRUE(GapsUntouched(strided_outputs.y));
      EXPECT_TRUE(GapsUntouched(strided_outputs.residual_out));

      const Tensor dy = RandomNormal(random, shape).To(dtype);
      const Tensor through = RandomNormal(random, shape).To(DType::kF32);
      const LayerNormGradients gradients = {Zeros(shape), Zeros(shape, dtype), Zeros({37}),
                                            Zeros({37})};
      LayerNormBackward(outputs.residual_out, dense.weight, 1e-5f, dy, through, gradients);
      const LayerNormGradients strided_gradients = {test::WithRowGap(Zeros(shape), 1),
                                                    test::WithRowGap(Zeros(shape, dtype), 4),
                                                    Zeros({37}), Zeros({37})};
      LayerNormBackward(strided_outputs.residual_out, dense.weight, 1e-5f, test::WithRowGap(dy, 7),
                        test::WithRowGap(through, 2), strided_gradients);
      EXPECT_TRUE(SameBits(strided_gradients.dr, gradients.dr));
      EXPECT_TRUE(SameBits(strided_gradients.dx, gradients.dx));
      EXPECT_TRUE(SameBits(strided_gradients.dweight, gradients.dweight));
      EXPECT_TRUE(SameBits(strided_gradients.dbias, gradients.dbias));
      EXPECT_TRUE(GapsUntouched(strided_gradients.dr));
      EXPECT_TRUE(GapsUntouched(strided_gradients.dx));
    }
  });
}

TEST(LayerNormCpu, SquaresPastTheRangeOfF32) {
  ForEveryInstructionSet([] {
    Random random(6);
    for (const double scale : {1e15, 1e25, 1e37}) {
      SCOPED_TRACE(scale);
      const Shape shape = {3, 50};
      const Tensor x = RandomNormal(random, shape, scale, scale).To(DType::kF32);
      const Tensor weight = RandomNormal(random, {50}).To(DType::kF32);
      const Tensor y = Tensor::Empty(shape, DType::kF32);
      const Tensor expected = Tensor::Empty(shape, DType::kF64);
      LayerNorm({.x = x, .residual = {}, .weight = weight, .bias = {}}, {y, {}});
      reference::LayerNorm(
          {.x = x.To(DType::kF64), .residual = {}, .weight = weight.To(DType::kF64), .bias = {}},
          {expected, {}});
      EXPECT_TRUE(Near(y, expected, 2e-6));
    }
  });
}

// What the mean of squares less the square of the mean would get wrong in every digit.
TEST(LayerNormCpu, LargeMean) {
  ForEveryInstructionSet([] {
    Random random(9);
    const Tensor x = RandomNormal(random, {3, 768}, 3e4, 1).To(DType::kF32);
    const Tensor weight = RandomNormal(random, {768}).To(DType::kF32);
    const Tensor y = Tensor::Empty(x.shape(), DType::kF32);
    const Tensor expected = Tensor::Empty(x.shape(), DType::kF64);
    LayerNorm({.x = x, .residual = {}, .weight = weight, .bias = {}}, {y, {}});
    reference::LayerNorm(
        {.x = x.To(DType::kF64), .residual = {}, .weight = weight.To(DType::kF64), .bias = {}},
        {expected, {}});
    EXPECT_TRUE(Near(y, expected, 2e-3));  // the mean in f32 is good for 3e4 · 2^-24
  });
}

TEST(LayerNormCpu, NanStaysInItsRow) {
  ForEveryInstructionSet([] {
    Random random(7);
    const Tensor x = RandomNormal(random, {3, 40}).To(DType::kF32);
    x.data<float>()[40 + 38] = std::numeric_limits<float>::quiet_NaN();
    const Tensor weight = RandomNormal(random, {40}).To(DType::kF32);
    const Tensor y = Zeros({3, 40});
    LayerNorm({.x = x, .residual = {}, .weight = weight, .bias = {}}, {y, {}});
    for (int64_t i = 0; i < y.elements(); ++i) {
      EXPECT_EQ(std::isnan(y.data<float>()[i]), i / 40 == 1) << i;
    }
  });
}

TEST(LayerNormCpu, ResultsDoNotDependOnThreads) {
  const int threads = cpu::ThreadCount();
  Random random(8);
  const Shape shape = {1037, 65};
  const Tensor r = RandomNormal(random, shape).To(DType::kF32);
  const Tensor weight = RandomNormal(random, {65}).To(DType::kF32);
  const Tensor dy = RandomNormal(random, shape).To(DType::kF32);
  std::vector<Tensor> ys;
  std::vector<LayerNormGradients> gradients;
  for (const int count : {1, 2, 3, 5}) {
    cpu::SetThreadCount(count);
    ys.push_back(Zeros(shape));
    gradients.push_back({Zeros(shape), {}, Zeros({65}), Zeros({65})});
    LayerNorm({.x = r, .residual = {}, .weight = weight, .bias = weight}, {ys.back(), {}});
    LayerNormBackward(r, weight, 1e-5f, dy, {}, gradients.back());
    EXPECT_TRUE(SameBits(ys.back(), ys.front()));
    EXPECT_TRUE(SameBits(gradients.back().dr, gradients.front().dr));
    EXPECT_TRUE(SameBits(gradients.back().dweight, gradients.front().dweight));
    EXPECT_TRUE(SameBits(gradients.back().dbias, gradients.front().dbias));
  }
  cpu::SetThreadCount(threads);
  // Parameters' gradients are added to.
  const Tensor once = gradients.front().dbias.Clone();
  LayerNormBackward(r, weight, 1e-5f, dy, {}, {{}, {}, {}, gradients.front().dbias});
  for (int64_t d = 0; d < 65; ++d) {
    EXPECT_NEAR(gradients.front().dbias.data<float>()[d], 2 * once.data<float>()[d],
                2e-4);  // sums of a thousand terms, added block by block
  }
}

TEST(LayerNorm, RefusesWhatDoesNotFit) {
  const LayerNormInputs good = {Zeros({4, 6}), Zeros({4, 6}), Zeros({6}), Zeros({6})};
  const LayerNormOutputs outputs = {Zeros({4, 6}), Zeros({4, 6})};
  const auto message = [&](auto change) {
    LayerNormInputs inputs = good;
    LayerNormOutputs changed = outputs;
    change(inputs, changed);
    return ErrorOf([&] { LayerNorm(inputs, changed); });
  };
  using In = LayerNormInputs;
  using Out = LayerNormOutputs;
  EXPECT_THAT(message([&](In& in, Out&) { in.x = {}; }), HasSubstr("layer_norm: x is not given"));
  EXPECT_THAT(message([&](In& in, Out&) { in.weight = {}; }), HasSubstr("weight is not given"));
  EXPECT_THAT(message([&](In& in, Out&) { in.bias = Zeros({5}); }),
              HasSubstr("bias is f32 [5], expected f32 [6]"));
  EXPECT_THAT(message([&](In& in, Out&) { in.eps = -1; }), HasSubstr("eps is -1"));
  EXPECT_THAT(message([&](In&, Out& out) { out.y = {}; }), HasSubstr("y is not given"));
  EXPECT_THAT(message([&](In& in, Out& out) {
                const Tensor wide = Zeros({4, 12});
                in.x = wide.Columns(0, 6);
                out.y = Tensor::Wrap(wide.raw(), {4, 6}, DType::kF32);
              }),
              HasSubstr("y lies on x"));
  EXPECT_THAT(ErrorOf([&] {
                LayerNormBackward(Zeros({4, 6}), Zeros({6}), 1e-5f, Zeros({4, 5}), {}, {});
              }),
              HasSubstr("layer_norm backward: dy is f32 [4, 5]"));
  EXPECT_THAT(ErrorOf([&] {
                LayerNormBackward(Zeros({4, 6}), Zeros({6}), 1e-5f, Zeros({4, 6}), {},
                                  {{}, {}, {}, Zeros({6}, DType::kF16)});
              }),
              HasSubstr("dbias is f16"));

  EXPECT_THAT(message([&](In& in, Out& out) { out.y = in.residual; }),
              HasSubstr("y lies on residual"));
  EXPECT_THAT(message([&](In& in, Out& out) { out.residual_out = in.x; }),
              HasSubstr("residual_out lies on x"));
  EXPECT_THAT(message([&](In&, Out& out) { out.residual_out = out.y; }),
              HasSubstr("residual_out lies on y"));
  const Tensor r = Zeros({4, 6});
  const Tensor weight = Zeros({6});
  const Tensor dy = Zeros({4, 6});
  const Tensor through = Zeros({4, 6});
  const auto backward = [&](const LayerNormGradients& gradients) {
    return ErrorOf([&] { LayerNormBackward(r, weight, 1e-5f, dy, through, gradients); });
  };
  EXPECT_THAT(backward({.dr = r}), HasSubstr("dr lies on r"));
  EXPECT_THAT(backward({.dr = dy}), HasSubstr("dr lies on dy"));
  EXPECT_THAT(backward({.dx = dy}), HasSubstr("dx lies on dy"));
  EXPECT_THAT(backward({.dx = through}), HasSubstr("dx lies on d_residual_out"));
  EXPECT_THAT(backward({.dr = through, .dx = through}), HasSubstr("dx lies on d"));
  EXPECT_THAT(backward({.dweight = weight}), HasSubstr("dweight lies on weight"));
  EXPECT_THAT(backward({.dbias = weight}), HasSubstr("dbias lies on weight"));
  LayerNormBackward(r, weight, 1e-5f, dy, through, {.dr = through});  // over it
}

}  // namespace
}  // namespace adder
