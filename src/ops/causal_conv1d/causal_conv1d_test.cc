// Tests of causal_conv1d: the definition against finite differences, the CPU against the
// definition, and the whole sequence against its chunks and its rows.
#include "adder/ops/causal_conv1d/causal_conv1d.h"

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

// Everything one case of the operator reads, in f64 and unrounded.
struct Case {
  CausalConv1dInputs inputs;
  Tensor dy;
  Tensor d_final_window;
};

struct CaseOptions {
  int64_t channels = 1;
  int64_t width = 4;
  bool bias = true;
  bool window = true;  // initial_window and d_final_window
  ConvActivation activation = ConvActivation::kSilu;
};

Case MakeCase(Random& random, const SequenceLayout& layout, const CaseOptions& options) {
  const Shape window = {layout.sequences(), options.width - 1, options.channels};
  Case c;
  c.inputs.x = RandomNormal(random, {layout.rows(), options.channels});
  c.inputs.weight = RandomNormal(random, {options.channels, options.width});
  if (options.bias) c.inputs.bias = RandomNormal(random, {options.channels});
  if (options.window) c.inputs.initial_window = RandomNormal(random, window);
  c.inputs.layout = layout;
  c.inputs.activation = options.activation;
  c.dy = RandomNormal(random, c.inputs.x.shape());
  if (options.window) c.d_final_window = RandomNormal(random, window);
  return c;
}

// The case with activations of `dtype`, parameters and windows in f32.
Case Rounded(const Case& c, DType dtype) {
  Case rounded = c;
  rounded.inputs.x = AsType(dtype, c.inputs.x);
  rounded.inputs.weight = AsType(DType::kF32, c.inputs.weight);
  rounded.inputs.bias = AsType(DType::kF32, c.inputs.bias);
  rounded.inputs.initial_window = AsType(DType::kF32, c.inputs.initial_window);
  rounded.dy = AsType(dtype, c.dy);
  rounded.d_final_window = AsType(DType::kF32, c.d_final_window);
  return rounded;
}

Case Widened(const Case& c) {
  Case wide = c;
  wide.inputs.x = AsType(DType::kF64, c.inputs.x);
  wide.inputs.weight = AsType(DType::kF64, c.inputs.weight);
  wide.inputs.bias = AsType(DType::kF64, c.inputs.bias);
  wide.inputs.initial_window = AsType(DType::kF64, c.inputs.initial_window);
  wide.dy = AsType(DType::kF64, c.dy);
  wide.d_final_window = AsType(DType::kF64, c.d_final_window);
  return wide;
}

CausalConv1dOutputs MakeOutputs(const CausalConv1dInputs& inputs, DType window_dtype) {
  return {Tensor::Empty(inputs.x.shape(), inputs.x.dtype()),
          Tensor::Empty({inputs.layout.sequences(), inputs.weight.dim(1) - 1, inputs.x.dim(1)},
                        window_dtype)};
}

CausalConv1dGradients MakeGradients(const CausalConv1dInputs& inputs, DType window_dtype) {
  return {Tensor::Empty(inputs.x.shape(), inputs.x.dtype()),
          Tensor::Zeros(inputs.weight.shape(), window_dtype),
          Tensor::Zeros({inputs.x.dim(1)}, window_dtype),
          Tensor::Empty({inputs.layout.sequences(), inputs.weight.dim(1) - 1, inputs.x.dim(1)},
                        window_dtype)};
}

// The spacing of the dtype's numbers: the result's one rounding is half of it, the f32 arithmetic
// before may tip it over.
double OutputTolerance(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return 0x1p-8;
    case DType::kF16:
      return 0x1p-11;
    default:
      return 2e-6;  // up to 9 terms and the activation, each rounded to 2^-24
  }
}

TEST(CausalConv1dReference, HandComputed) {
  // width 2, one channel: y[t] = 10·x[t-1] + x[t] + 0.5, the window holds 3.
  const auto f64 = [](const Shape& shape, std::vector<double> values) {
    return Tensor::From(shape, std::span<const double>(values));
  };
  CausalConv1dInputs inputs;
  inputs.x = f64({3, 1}, {1, 2, 4});
  inputs.weight = f64({1, 2}, {10, 1});
  inputs.bias = f64({1}, {0.5});
  inputs.initial_window = f64({1, 1, 1}, {3});
  inputs.layout = SequenceLayout::Single(3);
  inputs.activation = ConvActivation::kNone;
  const CausalConv1dOutputs outputs = MakeOutputs(inputs, DType::kF64);
  reference::CausalConv1d(inputs, outputs);
  EXPECT_TRUE(SameBits(outputs.y, f64({3, 1}, {31.5, 12.5, 24.5})));
  EXPECT_TRUE(SameBits(outputs.final_window, f64({1, 1, 1}, {4})));

  inputs.activation = ConvActivation::kSilu;
  reference::CausalConv1d(inputs, outputs);
  EXPECT_DOUBLE_EQ(outputs.y.data<double>()[1], 12.5 / (1 + std::exp(-12.5)));
}

TEST(CausalConv1dReference, GradientsAgreeWithDifferences) {
  Random random(1);
  for (const SequenceLayout& layout : test::SequenceLayouts()) {
    for (const int64_t width : {2, 3, 4, 8}) {
      SCOPED_TRACE(testing::Message() << layout.rows() << " rows, width " << width);
      CaseOptions options;
      options.channels = 3;
      options.width = width;
      if (width == 3) options.activation = ConvActivation::kNone;
      const Case c = MakeCase(random, layout, options);
      const CausalConv1dOutputs outputs = MakeOutputs(c.inputs, DType::kF64);
      const auto loss = [&] {
        reference::CausalConv1d(c.inputs, outputs);
        return test::WeightedSum(c.dy, outputs.y) +
               test::WeightedSum(c.d_final_window, outputs.final_window);
      };
      const CausalConv1dGradients gradients = MakeGradients(c.inputs, DType::kF64);
      reference::CausalConv1dBackward(c.inputs, c.dy, c.d_final_window, gradients);
      test::ExpectGradients(
          loss,
          {{"x", c.inputs.x, gradients.dx},
           {"weight", c.inputs.weight, gradients.dweight},
           {"bias", c.inputs.bias, gradients.dbias},
           {"initial_window", c.inputs.initial_window, gradients.d_initial_window}},
          random);
    }
  }
}

void ExpectCpuAgrees(const Case& wide_case, DType dtype) {
  const Case fast = Rounded(wide_case, dtype);
  const Case exact = Widened(fast);
  const CausalConv1dOutputs outputs = MakeOutputs(fast.inputs, DType::kF32);
  const CausalConv1dOutputs expected = MakeOutputs(exact.inputs, DType::kF64);
  CausalConv1d(fast.inputs, outputs);
  reference::CausalConv1d(exact.inputs, expected);
  const double tolerance = OutputTolerance(dtype);
  EXPECT_TRUE(Near(outputs.y, expected.y, tolerance));
  // The window only moves values.
  EXPECT_TRUE(SameBits(outputs.final_window.To(DType::kF64), expected.final_window));

  const CausalConv1dGradients gradients = MakeGradients(fast.inputs, DType::kF32);
  const CausalConv1dGradients exact_gradients = MakeGradients(exact.inputs, DType::kF64);
  CausalConv1dBackward(fast.inputs, fast.dy, fast.d_final_window, gradients);
  reference::CausalConv1dBackward(exact.inputs, exact.dy, exact.d_final_window, exact_gradients);
  EXPECT_TRUE(Near(gradients.dx, exact_gradients.dx, tolerance));
  EXPECT_TRUE(Near(gradients.d_initial_window, exact_gradients.d_initial_window, 2e-6));
  // Sums over up to 131 rows in f32.
  EXPECT_TRUE(Near(gradients.dweight, exact_gradients.dweight, 1e-5));
  EXPECT_TRUE(Near(gradients.dbias, exact_gradients.dbias, 1e-5));
}

TEST(CausalConv1dCpu, AgreesWithTheReference) {
  ForEveryInstructionSet([] {
    Random random(2);
    int64_t number = 0;
    for (const SequenceLayout& layout : test::SequenceLayouts()) {
      for (int64_t width = 2; width <= 8; ++width) {
        CaseOptions options;
        options.channels = std::vector<int64_t>{1, 3, 16, 35, 70}[number % 5];
        options.width = width;
        options.bias = number % 3 != 0;
        options.window = number % 4 != 0;
        options.activation = number % 2 == 0 ? ConvActivation::kSilu : ConvActivation::kNone;
        const DType dtype = std::vector<DType>{DType::kF32, DType::kBF16, DType::kF16}[number % 3];
        SCOPED_TRACE(testing::Message() << layout.rows() << " rows, case " << number);
        ExpectCpuAgrees(MakeCase(random, layout, options), dtype);
        ++number;
      }
    }
  });
}

TEST(CausalConv1dCpu, LargeValuesStayFinite) {
  ForEveryInstructionSet([] {
    Random random(3);
    Case c = MakeCase(random, SequenceLayout::Single(40), {.channels = 17});
    for (int64_t i = 0; i < c.inputs.x.elements(); ++i) c.inputs.x.data<double>()[i] *= 1e4;
    ExpectCpuAgrees(c, DType::kF32);
  });
}

TEST(CausalConv1dCpu, TakesStridedRows) {
  ForEveryInstructionSet([] {
    Random random(4);
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      const Case dense =
          Rounded(MakeCase(random, SequenceLayout({0, 5, 5, 47}), {.channels = 37}), dtype);
      const CausalConv1dOutputs outputs = MakeOutputs(dense.inputs, DType::kF32);
      const CausalConv1dGradients gradients = MakeGradients(dense.inputs, DType::kF32);
      CausalConv1d(dense.inputs, outputs);
      CausalConv1dBackward(dense.inputs, dense.dy, dense.d_final_window, gradients);

      Case strided = dense;
      strided.inputs.x = test::WithRowGap(dense.inputs.x, 3);
      strided.dy = test::WithRowGap(dense.dy, 5);
      // The windows of one layer of several.
      const Tensor layers = Tensor::Zeros({3, 7, 37}, DType::kF32);
      strided.inputs.initial_window = layers.Slice(1, 2, 3);
      strided.inputs.initial_window.CopyFrom(dense.inputs.initial_window);
      CausalConv1dOutputs strided_outputs = MakeOutputs(dense.inputs, DType::kF32);
      strided_outputs.y = test::WithRowGap(strided_outputs.y, 1);
      CausalConv1dGradients strided_gradients = MakeGradients(dense.inputs, DType::kF32);
      strided_gradients.dx = test::WithRowGap(strided_gradients.dx, 2);
      CausalConv1d(strided.inputs, strided_outputs);
      CausalConv1dBackward(strided.inputs, strided.dy, strided.d_final_window, strided_gradients);
      EXPECT_TRUE(SameBits(strided_outputs.y, outputs.y));
      EXPECT_TRUE(SameBits(strided_outputs.final_window, outputs.final_window));
      EXPECT_TRUE(GapsUntouched(strided_outputs.y));
      EXPECT_TRUE(SameBits(strided_gradients.dx, gradients.dx));
      EXPECT_TRUE(SameBits(strided_gradients.dweight, gradients.dweight));
      EXPECT_TRUE(SameBits(strided_gradients.d_initial_window, gradients.d_initial_window));
      EXPECT_TRUE(GapsUntouched(strided_gradients.dx));
    }
  });
}

// Runs one sequence in chunks, the window carried in place, and returns all rows.
Tensor RunInChunks(const CausalConv1dInputs& whole, const std::vector<int64_t>& cuts,
                   const Tensor& window) {
  const Tensor y = Tensor::Empty(whole.x.shape(), whole.x.dtype());
  int64_t begin = 0;
  for (const int64_t end : cuts) {
    CausalConv1dInputs chunk = whole;
    chunk.x = whole.x.Rows(begin, end - begin);
    chunk.layout = SequenceLayout::Single(end - begin);
    chunk.initial_window = window;
    CausalConv1d(chunk, {y.Rows(begin, end - begin), window});
    begin = end;
  }
  return y;
}

TEST(CausalConv1dCpu, WholeEqualsChunksEqualsRowsForwards) {
  ForEveryInstructionSet([] {
    Random random(5);
    for (const int64_t width : {2, 4, 5, 8}) {
      for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
        const int64_t rows = 101;
        const Case c = Rounded(
            MakeCase(random, SequenceLayout::Single(rows), {.channels = 39, .width = width}),
            dtype);
        const CausalConv1dOutputs whole = MakeOutputs(c.inputs, DType::kF32);
        CausalConv1d(c.inputs, whole);
        std::vector<int64_t> single_rows;
        for (int64_t t = 1; t <= rows; ++t) single_rows.push_back(t);
        for (const std::vector<int64_t>& cuts :
             {std::vector<int64_t>{1, 3, 3, 10, 42, 75, rows}, single_rows}) {
          const Tensor window = c.inputs.initial_window.Clone();
          EXPECT_TRUE(SameBits(RunInChunks(c.inputs, cuts, window), whole.y));
          EXPECT_TRUE(SameBits(window, whole.final_window));
        }
      }
    }
  });
}

TEST(CausalConv1dCpu, WholeEqualsChunksBackwards) {
  ForEveryInstructionSet([] {
    Random random(6);
    for (const int64_t width : {2, 4, 8}) {
      const int64_t rows = 83;
      const Case c =
          Rounded(MakeCase(random, SequenceLayout::Single(rows), {.channels = 21, .width = width}),
                  DType::kF32);
      const CausalConv1dGradients whole = MakeGradients(c.inputs, DType::kF32);
      CausalConv1dBackward(c.inputs, c.dy, c.d_final_window, whole);

      for (const std::vector<int64_t>& cuts :
           {std::vector<int64_t>{0, 1, 3, 3, 40, 41, rows}, std::vector<int64_t>{0, 33, rows}}) {
        // Forwards, keeping the window in front of each chunk; then backwards, the gradient of that
        // window being the previous chunk's d_final_window.
        std::vector<Tensor> windows = {c.inputs.initial_window};
        const auto chunk_inputs = [&](size_t i) {
          CausalConv1dInputs chunk = c.inputs;
          chunk.x = c.inputs.x.Rows(cuts[i], cuts[i + 1] - cuts[i]);
          chunk.layout = SequenceLayout::Single(cuts[i + 1] - cuts[i]);
          chunk.initial_window = windows[i];
          return chunk;
        };
        for (size_t i = 0; i + 1 < cuts.size(); ++i) {
          const CausalConv1dInputs chunk = chunk_inputs(i);
          const CausalConv1dOutputs outputs = MakeOutputs(chunk, DType::kF32);
          CausalConv1d(chunk, outputs);
          windows.push_back(outputs.final_window);
        }
        const CausalConv1dGradients sums = MakeGradients(c.inputs, DType::kF32);
        Tensor d_window = c.d_final_window;
        for (size_t i = cuts.size() - 1; i-- > 0;) {
          const CausalConv1dInputs chunk = chunk_inputs(i);
          CausalConv1dGradients gradients = MakeGradients(chunk, DType::kF32);
          gradients.dx = sums.dx.Rows(cuts[i], cuts[i + 1] - cuts[i]);
          gradients.dweight = sums.dweight;  // added to
          gradients.dbias = sums.dbias;
          CausalConv1dBackward(chunk, c.dy.Rows(cuts[i], cuts[i + 1] - cuts[i]), d_window,
                               gradients);
          d_window = gradients.d_initial_window;
        }
        // The same terms in another order.
        EXPECT_TRUE(Near(sums.dx, whole.dx, 1e-6));
        EXPECT_TRUE(Near(sums.dweight, whole.dweight, 5e-6));
        EXPECT_TRUE(Near(sums.dbias, whole.dbias, 5e-6));
        EXPECT_TRUE(Near(d_window, whole.d_initial_window, 1e-6));
      }
    }
  });
}

TEST(CausalConv1dCpu, FinalWindowMayBeTheInitialOneInAPackedBatch) {
  ForEveryInstructionSet([] {
    Random random(7);
    const Case c = Rounded(
        MakeCase(random, SequenceLayout({0, 0, 1, 3, 6, 100, 100}), {.channels = 19, .width = 4}),
        DType::kF32);
    const CausalConv1dOutputs apart = MakeOutputs(c.inputs, DType::kF32);
    CausalConv1d(c.inputs, apart);
    CausalConv1dInputs inputs = c.inputs;
    inputs.initial_window = c.inputs.initial_window.Clone();
    const CausalConv1dOutputs in_place = {Tensor::Empty(inputs.x.shape(), DType::kF32),
                                          inputs.initial_window};
    CausalConv1d(inputs, in_place);
    EXPECT_TRUE(SameBits(in_place.y, apart.y));
    EXPECT_TRUE(SameBits(in_place.final_window, apart.final_window));
  });
}

TEST(CausalConv1dCpu, ResultsDoNotDependOnThreads) {
  const int threads = cpu::ThreadCount();
  Random random(8);
  const Case c =
      Rounded(MakeCase(random, SequenceLayout({0, 200, 203, 700}), {.channels = 131}), DType::kF32);
  cpu::SetThreadCount(1);
  const CausalConv1dOutputs one = MakeOutputs(c.inputs, DType::kF32);
  const CausalConv1dGradients one_gradients = MakeGradients(c.inputs, DType::kF32);
  CausalConv1d(c.inputs, one);
  CausalConv1dBackward(c.inputs, c.dy, c.d_final_window, one_gradients);
  for (const int count : {2, 3, 5}) {
    cpu::SetThreadCount(count);
    const CausalConv1dOutputs many = MakeOutputs(c.inputs, DType::kF32);
    const CausalConv1dGradients gradients = MakeGradients(c.inputs, DType::kF32);
    CausalConv1d(c.inputs, many);
    CausalConv1dBackward(c.inputs, c.dy, c.d_final_window, gradients);
    EXPECT_TRUE(SameBits(many.y, one.y));
    EXPECT_TRUE(SameBits(many.final_window, one.final_window));
    EXPECT_TRUE(SameBits(gradients.dx, one_gradients.dx));
    EXPECT_TRUE(SameBits(gradients.dweight, one_gradients.dweight));
    EXPECT_TRUE(SameBits(gradients.dbias, one_gradients.dbias));
    EXPECT_TRUE(SameBits(gradients.d_initial_window, one_gradients.d_initial_window));
  }
  cpu::SetThreadCount(threads);
}

TEST(CausalConv1dCpu, AddsToParametersAndLeavesWhatIsNotAskedFor) {
  Random random(9);
  const Case c =
      Rounded(MakeCase(random, SequenceLayout::Single(50), {.channels = 20}), DType::kF32);
  const CausalConv1dGradients once = MakeGradients(c.inputs, DType::kF32);
  CausalConv1dBackward(c.inputs, c.dy, c.d_final_window, once);
  CausalConv1dGradients twice = MakeGradients(c.inputs, DType::kF32);
  CausalConv1dBackward(c.inputs, c.dy, c.d_final_window, twice);
  CausalConv1dGradients only_parameters;
  only_parameters.dweight = twice.dweight;
  only_parameters.dbias = twice.dbias;
  CausalConv1dBackward(c.inputs, c.dy, c.d_final_window, only_parameters);
  for (int64_t i = 0; i < once.dweight.elements(); ++i) {
    EXPECT_EQ(twice.dweight.data<float>()[i], 2 * once.dweight.data<float>()[i]);
  }
  for (int64_t i = 0; i < once.dbias.elements(); ++i) {
    EXPECT_EQ(twice.dbias.data<float>()[i], 2 * once.dbias.data<float>()[i]);
  }
  CausalConv1dGradients only_dx;
  only_dx.dx = Tensor::Empty(c.inputs.x.shape(), DType::kF32);
  CausalConv1dBackward(c.inputs, c.dy, c.d_final_window, only_dx);
  EXPECT_TRUE(SameBits(only_dx.dx, once.dx));
  CausalConv1dBackward(c.inputs, c.dy, c.d_final_window, {});
}

TEST(CausalConv1d, RefusesWhatDoesNotFit) {
  Random random(10);
  const Case good =
      Rounded(MakeCase(random, SequenceLayout({0, 2, 5}), {.channels = 6}), DType::kF32);
  const CausalConv1dOutputs outputs = MakeOutputs(good.inputs, DType::kF32);
  const auto message = [&](auto change) {
    CausalConv1dInputs inputs = good.inputs;
    CausalConv1dOutputs changed = outputs;
    change(inputs, changed);
    return ErrorOf([&] { CausalConv1d(inputs, changed); });
  };
  using In = CausalConv1dInputs;
  using Out = CausalConv1dOutputs;
  const auto zeros = [](const Shape& shape, DType dtype = DType::kF32) {
    return Tensor::Zeros(shape, dtype);
  };
  EXPECT_THAT(message([&](In& in, Out&) { in.x = Tensor(); }), HasSubstr("x is not given"));
  EXPECT_THAT(message([&](In& in, Out&) {
                in.x = zeros({5, 6}, DType::kF64);
              }),
              HasSubstr("x is f64 [5, 6], expected f32 or bf16 or f16 [5, 6]"));
  EXPECT_THAT(message([&](In& in, Out&) {
                in.weight = zeros({6, 9});
              }),
              HasSubstr("the width is 9, expected 2 to 8"));
  EXPECT_THAT(message([&](In& in, Out&) {
                in.weight = zeros({6, 1});
              }),
              HasSubstr("the width is 1"));
  EXPECT_THAT(message([&](In& in, Out&) {
                in.weight = zeros({7, 4});
              }),
              HasSubstr("weight is f32 [7, 4], expected f32 [6, 4]"));
  EXPECT_THAT(message([&](In& in, Out&) { in.bias = zeros({5}); }), HasSubstr("bias"));
  EXPECT_THAT(message([&](In& in, Out&) { in.layout = SequenceLayout::Single(4); }),
              HasSubstr("the layout has 4 rows, x has 5"));
  EXPECT_THAT(message([&](In& in, Out&) {
                in.initial_window = zeros({1, 3, 6});
              }),
              HasSubstr("initial_window is f32 [1, 3, 6], expected f32 [2, 3, 6]"));
  EXPECT_THAT(message([&](In&, Out& out) { out.y = Tensor(); }), HasSubstr("y is not given"));
  const Tensor windows = zeros({3, 3, 6});
  EXPECT_THAT(message([&](In& in, Out& out) {
                in.initial_window = windows.Rows(0, 2);
                out.final_window = windows.Rows(1, 2);
              }),
              HasSubstr("final_window lies on initial_window, but not element on element"));
  EXPECT_THAT(message([&](In&, Out& out) {
                out.final_window = Tensor::Wrap(out.y.raw(), {2, 3, 6}, DType::kF32);
              }),
              HasSubstr("final_window lies on y"));
  EXPECT_THAT(message([&](In&, Out& out) {
                out.y = zeros({5, 6}, DType::kBF16);
              }),
              HasSubstr("y is bf16 [5, 6], expected f32 [5, 6]"));
  EXPECT_THAT(message([&](In& in, Out& out) { out.y = in.x; }), HasSubstr("y lies on x"));
  EXPECT_THAT(message([&](In&, Out& out) {
                out.final_window = zeros({2, 4, 6});
              }),
              HasSubstr("final_window"));

  const CausalConv1dGradients gradients = MakeGradients(good.inputs, DType::kF32);
  const auto backward_message = [&](const Tensor& dy, const Tensor& d_final_window,
                                    const CausalConv1dGradients& changed) {
    return ErrorOf([&] { CausalConv1dBackward(good.inputs, dy, d_final_window, changed); });
  };
  EXPECT_THAT(backward_message(zeros({4, 6}), {}, gradients),
              HasSubstr("causal_conv1d backward: dy is f32 [4, 6], expected f32 [5, 6]"));
  EXPECT_THAT(backward_message(good.dy, zeros({2, 2, 6}), gradients), HasSubstr("d_final_window"));
  CausalConv1dGradients wrong = gradients;
  wrong.dweight = zeros({4, 6});
  EXPECT_THAT(backward_message(good.dy, {}, wrong), HasSubstr("dweight"));
  wrong = gradients;
  wrong.dx = good.dy;
  EXPECT_THAT(backward_message(good.dy, {}, wrong), HasSubstr("dx lies on dy"));
  EXPECT_THAT(ErrorOf([&] { reference::CausalConv1d(good.inputs, outputs); }),
              HasSubstr("expected f64"));
}

}  // namespace
}  // namespace adder
