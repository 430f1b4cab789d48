// linear against its definition: dtypes, shapes around the kernel's tiles and the change to oneDNN,
// rows that lie apart, every instruction set.
#include "adder/ops/linear/linear.h"

#include <gmock/gmock.h>

#include "adder/backend/cpu/parallel.h"
#include "adder/core/error.h"
#include "adder/ops/linear/linear_int8_kernel.h"
#include "adder/ops/operator_test.h"

namespace adder {
namespace {

using test::AsType;
using test::Near;
using test::RandomNormal;
using test::RoundedTo;
using test::SameBits;
using test::WithRowGap;

struct Case {
  int64_t rows, K, N;
};

// Rounding of the result, and of f32 sums of K ≤ 1100 terms in any order.
double Tolerance(DType y_dtype) {
  switch (y_dtype) {
    case DType::kBF16:
      return 1.0 / 256;
    case DType::kF16:
      return 1.0 / 2048;
    default:
      return 5e-6;
  }
}

struct Problem {
  Tensor x, W, bias, dy;  // f64

  Problem(Random& random, const Case& c)
      : x(RandomNormal(random, {c.rows, c.K})),
        W(RandomNormal(random, {c.N, c.K})),
        bias(RandomNormal(random, {c.N})),
        dy(RandomNormal(random, {c.rows, c.N})) {}
};

void CompareForward(const Problem& p, DType dtype, DType y_dtype, bool with_bias, bool strided) {
  const Tensor bias = with_bias ? p.bias : Tensor();
  const Tensor expected = Tensor::Empty({p.x.dim(0), p.W.dim(0)}, DType::kF64);
  reference::Linear(RoundedTo(dtype, p.x), RoundedTo(dtype, p.W), RoundedTo(DType::kF32, bias),
                    expected);
  Tensor x = p.x.To(dtype);
  Tensor W = p.W.To(dtype);
  Tensor y = Tensor::Zeros(expected.shape(), y_dtype);
  if (strided) {
    x = WithRowGap(x, 3);
    W = WithRowGap(W, 5);
    y = WithRowGap(y, 1);
  }
  Linear(x, W, AsType(DType::kF32, bias), y);
  EXPECT_TRUE(Near(y, expected, Tolerance(y_dtype)))
      << x.ToString() << " " << W.ToString() << " bias " << with_bias << " strided " << strided;
  if (strided) {
    EXPECT_TRUE(test::GapsUntouched(y)) << x.ToString() << " " << W.ToString();
  }
}

TEST(LinearTest, ReferenceGradients) {
  Random random(1);
  const Problem p(random, {5, 7, 3});
  const LinearGradients gradients = {.dx = Tensor::Zeros(p.x.shape(), DType::kF64),
                                     .dW = Tensor::Zeros(p.W.shape(), DType::kF64),
                                     .dbias = Tensor::Zeros(p.bias.shape(), DType::kF64)};
  reference::LinearBackward(p.x, p.W, p.dy, gradients);
  const auto loss = [&] {
    const Tensor y = Tensor::Empty(p.dy.shape(), DType::kF64);
    reference::Linear(p.x, p.W, p.bias, y);
    return test::WeightedSum(p.dy, y);
  };
  test::ExpectGradients(
      loss, {{"x", p.x, gradients.dx}, {"W", p.W, gradients.dW}, {"bias", p.bias, gradients.dbias}},
      random);
}

TEST(LinearTest, AgreesWithTheReference) {
  Random random(2);
  const std::vector<Case> cases = {
      {1, 1, 1},  {1, 17, 5},    {2, 64, 9},   {3, 33, 4},    {4, 16, 7},  {5, 100, 6},
      {7, 31, 1}, {8, 1100, 12}, {9, 40, 13},  {16, 48, 33},  {37, 65, 3}, {130, 24, 70},
      {6, 1, 40}, {64, 1, 1},    {17, 33, 20}, {33, 129, 80}, {70, 30, 9}};
  test::ForEveryInstructionSet([&] {
    for (const Case& c : cases) {
      const Problem p(random, c);
      for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
        CompareForward(p, dtype, dtype, false, false);
        CompareForward(p, dtype, DType::kF32, true, true);
        CompareForward(p, dtype, dtype, true, true);
      }
    }
  });
}

// Every dtype of weights with every dtype of activations, against dequantize-then-multiply. With
// pairs of bf16 W is rounded to bf16: an error of 2⁻⁹ at most for each weight. With quantized
// weights few rows of bf16 are rounded to 8 bits: steps of 1/127 of a block's largest, 1/60 of the
// typical value, so that sums are off by 1/60/√12 = 0.5 % of theirs, and the unluckiest by more
// than twice that.
void CompareMixed(Random& random, const Case& c, DType x_dtype, DType W_dtype, DType y_dtype,
                  bool strided) {
  const Problem p(random, c);
  const Tensor packed = p.W.To(DType::kF32).To(W_dtype);
  const Tensor expected = Tensor::Empty({c.rows, c.N}, DType::kF64);
  reference::Linear(RoundedTo(x_dtype, p.x), packed.To(DType::kF64), RoundedTo(DType::kF32, p.bias),
                    expected);
  const bool rounds = x_dtype == DType::kBF16 && W_dtype != DType::kF32 && W_dtype != DType::kBF16;
  const double tolerance = std::max(Tolerance(y_dtype), !rounds                ? 0.0
                                                        : IsQuantized(W_dtype) ? 0.0125
                                                                               : 1.0 / 256);
  Tensor x = p.x.To(x_dtype);
  Tensor W = packed;
  if (strided) {
    x = WithRowGap(x, 3);
    // Rows of W twice as far apart as they are long.
    const Tensor apart = Tensor::Zeros({2 * c.N, c.K}, W_dtype);
    const Tensor pairs = apart.Reshape({c.N, 2, c.K});
    pairs.Slice(1, 1, 1).CopyFrom(W.Reshape({c.N, 1, c.K}));
    W = pairs;
  }
  test::ForEveryInstructionSet([&] {
    Tensor y = Tensor::Zeros(expected.shape(), y_dtype);
    if (strided) {
      y = WithRowGap(y, 1);
      for (int64_t n = 0; n < c.N; ++n) {
        Linear(x, W.Rows(n, 1).Slice(1, 1, 1).Reshape({1, c.K}),
               p.bias.Slice(0, n, 1).To(DType::kF32), y.Columns(n, 1));
      }
    } else {
      Linear(x, W, AsType(DType::kF32, p.bias), y);
    }
    EXPECT_TRUE(Near(y, expected, tolerance))
        << x.ToString() << " " << packed.ToString() << " " << DTypeName(y_dtype) << " " << strided;
  });
}

TEST(LinearTest, MixedAndQuantizedWeightsAgreeWithTheReference) {
  Random random(7);
  for (const DType x_dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const DType W_dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kQ8_0, DType::kQ4_0,
                                DType::kQ4_K, DType::kQ6_K}) {
      // K: whole blocks; more than a panel is deep; for floats any.
      for (const Case& c :
           {Case{1, 256, 9}, Case{2, 512, 7}, Case{3, 256, 5}, Case{4, 256, 13}, Case{5, 1280, 14},
            Case{16, 256, 20}, Case{23, 2304, 7}, Case{67, 256, 9}}) {
        CompareMixed(random, c, x_dtype, W_dtype, c.rows % 2 == 0 ? x_dtype : DType::kF32, false);
      }
      if (!IsQuantized(W_dtype)) {
        for (const Case& c : {Case{1, 17, 9}, Case{4, 45, 6}, Case{7, 1100, 8}, Case{70, 33, 3}}) {
          CompareMixed(random, c, x_dtype, W_dtype, DType::kF32, false);
        }
      }
      CompareMixed(random, {9, 256, 3}, x_dtype, W_dtype, x_dtype, true);
    }
  }
}

// Sums of integers are exact: where rounding to 8 bits changes nothing, only f32 rounding is left.
TEST(LinearTest, EightBitProductsAreExact) {
  Random random(8);
  test::ForEveryInstructionSet([&] {
    for (const DType dtype : {DType::kQ8_0, DType::kQ4_0, DType::kQ4_K, DType::kQ6_K}) {
      for (const int64_t rows : {1, 2, 3, 4, 7, 13, 16}) {
        for (const int64_t K : {32, 96, 256, 1280}) {
          if (K % DTypeBlockElements(dtype) != 0) continue;
          const Tensor x = Tensor::Empty({rows, K}, DType::kF32);
          for (int64_t i = 0; i < x.elements(); ++i) {
            // Integers up to 127, which each block has, are multiples of d = 1.
            x.data<float>()[i] =
                i % 32 == 5 ? -127.0f : static_cast<float>(random.NextBelow(255)) - 127.0f;
          }
          const Tensor W = RandomNormal(random, {21, K}).To(DType::kF32).To(dtype);
          const Tensor bias = RandomNormal(random, {21});
          const Tensor expected = Tensor::Empty({rows, 21}, DType::kF64);
          reference::Linear(x.To(DType::kF64), W.To(DType::kF64), RoundedTo(DType::kF32, bias),
                            expected);
          const Tensor y = WithRowGap(Tensor::Zeros({rows, 21}, DType::kF32), 2);
          Linear(WithRowGap(x.To(DType::kBF16), 3), W, bias.To(DType::kF32), y);
          // Sets without such products, and weights that are rounded to bf16, are not this exact.
          const bool exact = cpu::ActiveInstructionSet() == cpu::InstructionSet::kX86V4Bf16;
          EXPECT_TRUE(Near(y, expected, exact ? 2e-6 : 5e-6))
              << DTypeName(dtype) << " " << rows << " x " << K;
        }
      }
    }
  });
}

// More rows than a tile has, and a last tile that is filled up.
TEST(LinearTest, EightBitProductsTakeAnyNumberOfRows) {
  if (!cpu::HasInt8Products()) GTEST_SKIP() << "this machine multiplies no integers of 8 bits";
  Random random(10);
  constexpr int64_t kK = 256;
  constexpr int64_t kN = 37;
  for (const DType dtype : {DType::kQ8_0, DType::kQ4_0, DType::kQ4_K, DType::kQ6_K}) {
    const Tensor W = RandomNormal(random, {kN, kK}).To(DType::kF32).To(dtype);
    for (const int64_t rows : {16, 19, 35}) {
      const Tensor x = RandomNormal(random, {rows, kK}).To(DType::kBF16);
      std::vector<cpu::Int8Activations> rounded(
          static_cast<size_t>(cpu::Int8ActivationsCount(rows, kK)));
      cpu::Int8ActivationsKernel({.x = x.data<BFloat16>(),
                                  .x_stride = kK,
                                  .W_dtype = dtype,
                                  .to = rounded.data(),
                                  .rows = rows,
                                  .K = kK});
      const Tensor y = Tensor::Zeros({rows, kN}, DType::kF32);
      cpu::LinearInt8Kernel({.x = rounded.data(),
                             .W = W.raw(),
                             .W_dtype = dtype,
                             .W_row_bytes = DTypeBytes(dtype, kK),
                             .y = y.raw(),
                             .y_stride = kN,
                             .rows = rows,
                             .K = kK,
                             .end = kN});
      for (int64_t t = 0; t < rows; ++t) {
        const Tensor alone = Tensor::Empty({1, kN}, DType::kF32);
        Linear(x.Rows(t, 1), W, Tensor(), alone);
        EXPECT_TRUE(SameBits(alone, y.Rows(t, 1)))
            << DTypeName(dtype) << ", row " << t << " of " << rows;
      }
    }
  }
}

// What goes wrong must be seen, not rounded away.
TEST(LinearTest, NaNsAndInfinitiesReachTheResult) {
  test::ForEveryInstructionSet([] {
    for (const DType dtype :
         {DType::kF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_K, DType::kQ6_K}) {
      Random random(9);
      const Tensor W = RandomNormal(random, {5, 256}).To(DType::kF32).To(dtype);
      for (const float bad : {HUGE_VALF, -HUGE_VALF, std::numeric_limits<float>::quiet_NaN()}) {
        for (const int64_t rows : {1, 6, 70}) {
          for (const int64_t where : {0, 17, 31, 255}) {
            const Tensor x = Tensor::Zeros({rows, 256}, DType::kBF16);
            x.data<BFloat16>()[where] = BFloat16(bad);
            const Tensor y = Tensor::Zeros({rows, 5}, DType::kF32);
            Linear(x, W, Tensor(), y);
            for (int64_t n = 0; n < 5; ++n) EXPECT_FALSE(std::isfinite(y.data<float>()[n]));
          }
        }
      }
    }
  });
}

// Blocks of f16 that are converted have edges at multiples of 1024.
TEST(LinearTest, AgreesAcrossBlocksOfConvertedOperands) {
  Random random(3);
  for (const Case& c : {Case{65, 1100, 1030}, Case{1030, 20, 9}}) {
    const Problem p(random, c);
    CompareForward(p, DType::kF16, DType::kF16, true, true);
    CompareForward(p, DType::kF16, DType::kF32, true, false);
  }
}

TEST(LinearTest, BackwardAgreesWithTheReference) {
  Random random(4);
  for (const Case& c : {Case{1, 5, 3}, Case{3, 17, 40}, Case{50, 33, 19}, Case{300, 64, 20},
                        Case{9, 1, 1}, Case{1030, 9, 5}}) {
    const Problem p(random, c);
    const Tensor dx0 = RandomNormal(random, p.x.shape());
    const Tensor dW0 = RandomNormal(random, p.W.shape());
    const Tensor dbias0 = RandomNormal(random, p.bias.shape());
    for (const auto& [dtype, y_dtype] :
         {std::pair{DType::kF32, DType::kF32}, std::pair{DType::kBF16, DType::kBF16},
          std::pair{DType::kF16, DType::kF16}, std::pair{DType::kBF16, DType::kF32}}) {
      for (const bool accumulate : {false, true}) {
        const bool strided = accumulate;
        LinearGradients expected = {.dx = RoundedTo(dtype, dx0),
                                    .accumulate_dx = accumulate,
                                    .dW = RoundedTo(DType::kF32, dW0),
                                    .dbias = RoundedTo(DType::kF32, dbias0)};
        reference::LinearBackward(RoundedTo(dtype, p.x), RoundedTo(dtype, p.W),
                                  RoundedTo(y_dtype, p.dy), expected);
        LinearGradients actual = {.dx = dx0.To(dtype),
                                  .accumulate_dx = accumulate,
                                  .dW = dW0.To(DType::kF32),
                                  .dbias = dbias0.To(DType::kF32)};
        Tensor x = p.x.To(dtype);
        Tensor dy = p.dy.To(y_dtype);
        if (strided) {
          x = WithRowGap(x, 2);
          dy = WithRowGap(dy, 3);
          actual.dx = WithRowGap(actual.dx, 1);
        }
        test::ForEveryInstructionSet([&] {
          LinearGradients run = actual;
          run.dx = strided ? WithRowGap(actual.dx, 1) : actual.dx.Clone();
          run.dW = actual.dW.Clone();
          run.dbias = actual.dbias.Clone();
          LinearBackward(x, p.W.To(x.dtype()), dy, run);
          EXPECT_TRUE(Near(run.dx, expected.dx, Tolerance(x.dtype()))) << "dx of " << x.ToString();
          EXPECT_TRUE(Near(run.dW, expected.dW, 5e-6)) << "dW of " << x.ToString();
          EXPECT_TRUE(Near(run.dbias, expected.dbias, 5e-6)) << "dbias of " << x.ToString();
          if (strided) {
            EXPECT_TRUE(test::GapsUntouched(run.dx)) << "dx of " << x.ToString();
          }
        });
      }
    }
  }
}

// Only what is asked for is computed.
TEST(LinearTest, GradientsAreOptional) {
  Random random(5);
  const Problem p(random, {12, 8, 6});
  const Tensor x = p.x.To(DType::kF32);
  const Tensor W = p.W.To(DType::kF32);
  const Tensor dy = p.dy.To(DType::kF32);
  LinearGradients all = {.dx = Tensor::Zeros(x.shape(), DType::kF32),
                         .dW = Tensor::Zeros(W.shape(), DType::kF32),
                         .dbias = Tensor::Zeros({6}, DType::kF32)};
  LinearBackward(x, W, dy, all);
  const Tensor dW = Tensor::Zeros(W.shape(), DType::kF32);
  LinearBackward(x, W, dy, {.dW = dW});
  EXPECT_TRUE(SameBits(dW, all.dW));
  const Tensor dbias = Tensor::Zeros({6}, DType::kF32);
  LinearBackward(x, W, dy, {.dbias = dbias});
  EXPECT_TRUE(SameBits(dbias, all.dbias));
  LinearBackward(x, W, dy, {});
}

// A batch of single steps gives every sequence what it would get alone, and the threads change
// nothing either.
TEST(LinearTest, FewRowsHaveTheSameBitsAloneAndTogether) {
  struct RestoreThreads {
    int threads = cpu::ThreadCount();
    ~RestoreThreads() { cpu::SetThreadCount(threads); }
  } restore;
  Random random(6);
  const auto compare = [&](const Tensor& x, const Tensor& W) {
    cpu::SetThreadCount(1);
    const int64_t N = W.dim(0);
    const Tensor together = Tensor::Empty({x.dim(0), N}, DType::kF32);
    Linear(x, W, Tensor(), together);
    cpu::SetThreadCount(3);
    for (const int64_t rows : {1, 2, 3, 4, 7}) {
      for (int64_t t = 0; t + rows <= x.dim(0); t += rows) {
        const Tensor alone = Tensor::Empty({rows, N}, DType::kF32);
        Linear(x.Rows(t, rows), W, Tensor(), alone);
        EXPECT_TRUE(SameBits(alone, together.Rows(t, rows)))
            << x.ToString() << " " << W.ToString() << " rows " << t << " + " << rows;
      }
    }
  };
  test::ForEveryInstructionSet([&] {
    const Problem p(random, {16, 300, 203});
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      compare(p.x.To(dtype), p.W.To(dtype));
    }
    const Problem q(random, {16, 1280, 43});
    for (const DType x_dtype : {DType::kF32, DType::kBF16}) {
      for (const DType W_dtype :
           {DType::kBF16, DType::kF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_K, DType::kQ6_K}) {
        compare(q.x.To(x_dtype), q.W.To(DType::kF32).To(W_dtype));
      }
    }
  });
}

TEST(LinearTest, NothingToDo) {
  const Tensor W = Tensor::Zeros({3, 4}, DType::kF32);
  const Tensor none = Tensor::Empty({0, 4}, DType::kF32);
  Linear(none, W, Tensor(), Tensor::Empty({0, 3}, DType::kF32));
  const Tensor dW = Tensor::Zeros(W.shape(), DType::kF32);
  const Tensor dbias = Tensor::Zeros({3}, DType::kF32);
  LinearBackward(none, W, Tensor::Empty({0, 3}, DType::kF32),
                 {.dx = Tensor::Empty({0, 4}, DType::kF32), .dW = dW, .dbias = dbias});
  EXPECT_EQ(test::MaxAbs(dW), 0);
  EXPECT_EQ(test::MaxAbs(dbias), 0);
  // A sum of no terms is the bias, through either path.
  for (const int64_t rows : {2, 70}) {
    const Tensor y = Tensor::Empty({rows, 3}, DType::kBF16);
    const std::vector<float> bias = {1, 2, 3};
    Linear(Tensor::Empty({rows, 0}, DType::kBF16), Tensor::Empty({3, 0}, DType::kBF16),
           Tensor::From<float>({3}, bias), y);
    EXPECT_EQ(static_cast<float>(y.data<BFloat16>()[rows * 3 - 1]), 3);
  }
}

TEST(LinearTest, RefusesTensorsThatDisagree) {
  const auto f32 = [](const Shape& shape) { return Tensor::Zeros(shape, DType::kF32); };
  const Tensor x = f32({2, 4});
  const Tensor W = f32({3, 4});
  const Tensor y = f32({2, 3});
  EXPECT_NO_THROW(Linear(x, W, Tensor(), y));
  EXPECT_THROW(Linear(Tensor(), W, Tensor(), y), Error);
  EXPECT_THROW(Linear(x, f32({3, 5}), Tensor(), y), Error);
  EXPECT_THROW(Linear(x, f32({12}), Tensor(), y), Error);
  EXPECT_NO_THROW(Linear(x, W.To(DType::kBF16), Tensor(), y));
  EXPECT_THROW(Linear(x, Tensor::Zeros({3, 4}, DType::kI8), Tensor(), y), Error);
  EXPECT_THROW(Linear(x, W, f32({2}), y), Error);
  EXPECT_THROW(Linear(x, W, Tensor(), f32({3, 3})), Error);
  EXPECT_THROW(Linear(x, W, Tensor(), y.To(DType::kBF16)), Error);
  EXPECT_THROW(Linear(x.To(DType::kF64), W.To(DType::kF64), Tensor(), y.To(DType::kF64)), Error);
  EXPECT_THROW(LinearBackward(x, W, f32({2, 4}), {}), Error);
  EXPECT_THROW(LinearBackward(x, W, y, {.dx = f32({2, 3})}), Error);
  EXPECT_THROW(LinearBackward(x, W, y, {.dW = f32({4, 3})}), Error);
  EXPECT_THROW(LinearBackward(x, W, y, {.dbias = f32({4})}), Error);
  // Results over what is still being read.
  const Tensor wide = f32({3, 8});
  const Tensor square = f32({4, 4});
  EXPECT_NO_THROW(Linear(wide.Columns(0, 4), square, Tensor(), wide.Columns(4, 4)));
  EXPECT_THROW(Linear(wide.Columns(0, 4), square, Tensor(), wide.Columns(0, 4)), Error);
  EXPECT_THROW(Linear(wide.Columns(0, 4), square, Tensor(), wide.Columns(1, 4)), Error);
  EXPECT_THROW(Linear(square, W, Tensor(), square.Columns(0, 3)), Error);
  EXPECT_THROW(LinearBackward(x, square, f32({2, 4}), {.dx = x}), Error);
  EXPECT_THROW(LinearBackward(x, square, f32({2, 4}), {.dW = square}), Error);
  EXPECT_THROW(LinearBackward(x, W.To(DType::kBF16), y, {}), Error);
  EXPECT_THAT(test::ErrorOf([&] {
                LinearBackward(f32({2, 32}), Tensor::Zeros({3, 32}, DType::kQ8_0), y, {});
              }),
              testing::HasSubstr("linear backward: W is q8_0 [3, 32]: quantized weights are for "
                                 "inference"));
}

}  // namespace
}  // namespace adder
