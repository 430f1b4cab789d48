// linear against its definition: dtypes, shapes around the kernel's tiles and the change to oneDNN,
// rows that lie apart, every instruction set.
#include "adder/ops/linear/linear.h"

#include "adder/backend/cpu/parallel.h"
#include "adder/core/error.h"
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
  const Problem p(random, {8, 300, 203});
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const Tensor x = p.x.To(dtype);
    const Tensor W = p.W.To(dtype);
    cpu::SetThreadCount(1);
    const Tensor together = Tensor::Empty({8, 203}, DType::kF32);
    Linear(x, W, Tensor(), together);
    cpu::SetThreadCount(3);
    for (int64_t t = 0; t < 8; ++t) {
      const Tensor alone = Tensor::Empty({1, 203}, DType::kF32);
      Linear(x.Rows(t, 1), W, Tensor(), alone);
      EXPECT_TRUE(SameBits(alone, together.Rows(t, 1))) << DTypeName(dtype) << " row " << t;
    }
  }
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
  EXPECT_THROW(Linear(x, W.To(DType::kBF16), Tensor(), y), Error);
  EXPECT_THROW(Linear(x, W, f32({2}), y), Error);
  EXPECT_THROW(Linear(x, W, Tensor(), f32({3, 3})), Error);
  EXPECT_THROW(Linear(x, W, Tensor(), y.To(DType::kBF16)), Error);
  EXPECT_THROW(Linear(x.To(DType::kF64), W.To(DType::kF64), Tensor(), y.To(DType::kF64)), Error);
  EXPECT_THROW(LinearBackward(x, W, f32({2, 4}), {}), Error);
  EXPECT_THROW(LinearBackward(x, W, y, {.dx = f32({2, 3})}), Error);
  EXPECT_THROW(LinearBackward(x, W, y, {.dW = f32({4, 3})}), Error);
  EXPECT_THROW(LinearBackward(x, W, y, {.dbias = f32({4})}), Error);
}

}  // namespace
}  // namespace adder
