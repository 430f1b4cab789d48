// linear on a CUDA device computes what it computes on the CPU: by kernels of its own for few rows
// and by cuBLASLt for many.
#include <cmath>
#include <limits>

#include "adder/backend/cuda/cuda_test.h"
#include "adder/ops/linear/linear.h"
#include "adder/ops/linear/linear_int8_kernel.h"
#include "adder/ops/operator_test.h"

namespace adder {
namespace {

using test::kCuda;
using test::Near;
using test::OnCpu;
using test::OnCuda;
using test::RandomNormal;
using test::SameBits;
using LinearCudaTest = test::CudaTest;

constexpr DType kActivations[] = {DType::kF32, DType::kBF16, DType::kF16};

struct Case {
  int64_t rows, N, K;
  DType x = DType::kF32;
  DType W = DType::kF32;
  bool wide_y = false;  // f32 whatever x is
  bool bias = false;
  int64_t gap = 0;  // between rows

  // Whether x is rounded to 8 bits.
  bool rounds() const { return x == DType::kBF16 && IsQuantized(W) && rows <= 4; }
};

// Sums of up to 4096 terms in another order, which may be rounded to neighbours: one unit in the
// last place. With bf16 activations other weights than f32 may be rounded to bf16: 2^-9 of every
// term.
double Tolerance(const Case& c, DType y) {
  const bool bf16 = c.x == DType::kBF16 && c.W != DType::kF32 && c.W != c.x && !c.rounds();
  return (bf16 ? 4e-3 : 1e-5) + (y == DType::kF32 ? 0 : y == DType::kBF16 ? 0x1p-7 : 0x1p-10);
}

// x as few rows of it are multiplied with quantized weights: in blocks of 32 that share a scale. In
// f32, which adds 2^-24 to each term.
Tensor RoundedToBytes(const Tensor& x) {
  const Tensor rounded = x.To(DType::kF32).Clone();
  constexpr int64_t kBlock = 32;
  for (int64_t row = 0; row < x.dim(0); ++row) {
    float* values = rounded.data<float>() + row * x.dim(1);
    for (float* block = values; block < values + x.dim(1); block += kBlock) {
      float most = 0;
      for (int64_t i = 0; i < kBlock; ++i) most = std::max(most, std::abs(block[i]));
      const float d = most / 127;
      for (int64_t i = 0; i < kBlock; ++i) {
        block[i] = d > 0 ? d * std::nearbyint(block[i] * (1 / d)) : 0;
      }
    }
  }
  return rounded;
}

void ExpectAsOnCpu(Random& random, const Case& c) {
  const DType y_dtype = c.wide_y ? DType::kF32 : c.x;
  SCOPED_TRACE(testing::Message() << c.rows << " x " << c.N << " x " << c.K << ", "
                                  << DTypeName(c.x) << " · " << DTypeName(c.W) << " to "
                                  << DTypeName(y_dtype) << (c.bias ? " with bias" : "") << ", gap "
                                  << c.gap);
  const auto rows = [&](const Shape& shape, DType dtype) {
    const Tensor t = RandomNormal(random, shape).To(DType::kF32).To(dtype);
    return c.gap > 0 ? test::WithRowGap(t, c.gap) : t;
  };
  const Tensor x = rows({c.rows, c.K}, c.x);
  const Tensor W = IsQuantized(c.W) ? RandomNormal(random, {c.N, c.K}).To(DType::kF32).To(c.W)
                                    : rows({c.N, c.K}, c.W);
  const Tensor bias = c.bias ? RandomNormal(random, {c.N}).To(DType::kF32) : Tensor();
  // The CPU's x in f32, as which nothing is rounded that does not come rounded.
  const Tensor expected = Tensor::Empty({c.rows, c.N}, DType::kF32);
  Linear(c.rounds() ? RoundedToBytes(x) : x.To(DType::kF32), W, bias, expected);
  const auto run = [&] {
    const Tensor y = rows({c.rows, c.N}, y_dtype).To(kCuda);
    Linear(x.To(kCuda), W.To(kCuda), OnCuda(bias), y);
    return OnCpu(y);
  };
  const Tensor y = run();
  EXPECT_TRUE(Near(y, expected.To(y_dtype), Tolerance(c, y_dtype)));
  EXPECT_TRUE(SameBits(y, run()));
}

TEST_F(LinearCudaTest, MatchesTheCpu) {
  Random random(1);
  for (const DType dtype : kActivations) {
    for (const int64_t rows : {1, 2, 3, 5, 8, 9, 70, 300}) {
      for (const bool bias : {false, true}) {
        ExpectAsOnCpu(random, {.rows = rows,
                               .N = 160,
                               .K = 1536,
                               .x = dtype,
                               .W = dtype,
                               .wide_y = bias,
                               .bias = bias});
        ExpectAsOnCpu(
            random,
            {.rows = rows, .N = 130, .K = 64, .x = dtype, .W = dtype, .bias = bias, .gap = 8});
        ExpectAsOnCpu(
            random,
            {.rows = rows, .N = 3, .K = 37, .x = dtype, .W = dtype, .bias = bias, .gap = 1});
        ExpectAsOnCpu(random, {.rows = rows, .N = 1, .K = 1, .x = dtype, .W = dtype, .bias = bias});
      }
    }
  }
  // Few rows: rows of W that eight lanes, a warp or a block take, more than run at a time.
  for (const DType dtype : kActivations) {
    for (const int64_t rows : {1, 2, 3, 4}) {
      ExpectAsOnCpu(random, {.rows = rows, .N = 160, .K = 4096, .x = dtype, .W = dtype});
      ExpectAsOnCpu(random, {.rows = rows, .N = 9001, .K = 128, .x = dtype, .W = dtype});
      ExpectAsOnCpu(random, {.rows = rows, .N = 4500, .K = 1096, .x = dtype, .W = dtype, .gap = 8});
    }
    ExpectAsOnCpu(random, {.rows = 3, .N = 40, .K = 20000, .x = dtype, .W = dtype, .bias = true});
  }
  ExpectAsOnCpu(random, {.rows = 1, .N = 3, .K = 0, .bias = true});
  ExpectAsOnCpu(random, {.rows = 0, .N = 5, .K = 8});
  ExpectAsOnCpu(random, {.rows = 5, .N = 0, .K = 8});
  ExpectAsOnCpu(random, {.rows = 5, .N = 3, .K = 0, .bias = true});
  ExpectAsOnCpu(random, {.rows = 5, .N = 3, .K = 0});
}

// The shapes of a step of generation of a batch.
TEST_F(LinearCudaTest, MultipliesSomeRows) {
  Random random(6);
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    for (const int64_t rows : {5, 17, 64, 128, 129}) {
      ExpectAsOnCpu(random, {.rows = rows, .N = 160, .K = 4096, .x = dtype, .W = dtype});
      ExpectAsOnCpu(random,
                    {.rows = rows, .N = 4096, .K = 128, .x = dtype, .W = dtype, .bias = true});
      ExpectAsOnCpu(random, {.rows = rows,
                             .N = 70,
                             .K = 2048,
                             .x = dtype,
                             .W = dtype,
                             .wide_y = true,
                             .bias = true,
                             .gap = 8});
      ExpectAsOnCpu(random, {.rows = rows, .N = 130, .K = 96, .x = dtype, .W = dtype, .gap = 8});
      ExpectAsOnCpu(random, {.rows = rows, .N = 3, .K = 8, .x = dtype, .W = dtype});
    }
    ExpectAsOnCpu(random, {.rows = 20, .N = 34000, .K = 72, .x = dtype, .W = dtype});
  }
}

TEST_F(LinearCudaTest, MultipliesAnyWeightWithAnyActivation) {
  Random random(2);
  for (const DType x : kActivations) {
    for (const DType W : {DType::kF32, DType::kBF16, DType::kF16, DType::kQ8_0, DType::kQ4_0,
                          DType::kQ4_K, DType::kQ6_K}) {
      for (const int64_t rows : {1, 4, 40}) {
        ExpectAsOnCpu(random, {.rows = rows, .N = 70, .K = 512, .x = x, .W = W});
        ExpectAsOnCpu(
            random,
            {.rows = rows, .N = 33, .K = 256, .x = x, .W = W, .wide_y = true, .bias = true});
      }
    }
  }
}

// Rows of several chunks, whole and not, and more of them than run at a time.
TEST_F(LinearCudaTest, ReadsQuantizedWeightsForFewRows) {
  Random random(5);
  for (const DType W : {DType::kQ8_0, DType::kQ4_0, DType::kQ4_K, DType::kQ6_K}) {
    for (const int64_t rows : {1, 2, 3, 4, 5}) {
      ExpectAsOnCpu(random, {.rows = rows, .N = 13, .K = 2048, .W = W, .bias = true});
      ExpectAsOnCpu(random, {.rows = rows, .N = 1601, .K = 1280, .W = W});
    }
    for (const DType x : {DType::kF32, DType::kBF16}) {
      ExpectAsOnCpu(random, {.rows = 1, .N = 4096, .K = 256, .x = x, .W = W});
      ExpectAsOnCpu(random, {.rows = 1, .N = 160, .K = 4096, .x = x, .W = W});
      ExpectAsOnCpu(random, {.rows = 1, .N = 9000, .K = 256, .x = x, .W = W, .wide_y = true});
      ExpectAsOnCpu(random, {.rows = 3, .N = 70, .K = 512, .x = x, .W = W, .bias = true, .gap = 4});
      ExpectAsOnCpu(random, {.rows = 4, .N = 37, .K = 8192, .x = x, .W = W, .wide_y = true});
      if (W == DType::kQ8_0 || W == DType::kQ4_0) {
        ExpectAsOnCpu(random, {.rows = 1, .N = 70, .K = 96, .x = x, .W = W});
        ExpectAsOnCpu(random, {.rows = 3, .N = 4100, .K = 128, .x = x, .W = W});
        ExpectAsOnCpu(random, {.rows = 1, .N = 9001, .K = 160, .x = x, .W = W, .bias = true});
        ExpectAsOnCpu(random, {.rows = 2, .N = 5, .K = 32, .x = x, .W = W});
        ExpectAsOnCpu(random, {.rows = 4, .N = 601, .K = 1568, .x = x, .W = W});
      }
    }
  }
}

// Both backends round x to the same bytes and multiply these exactly: only the order of sums
// differs.
TEST_F(LinearCudaTest, RoundsFewActivationsAsTheCpuDoes) {
  if (!cpu::HasInt8Products()) GTEST_SKIP() << "this CPU does not multiply integers of 8 bits";
  Random random(8);
  for (const DType W_dtype : {DType::kQ8_0, DType::kQ4_0, DType::kQ4_K, DType::kQ6_K}) {
    for (const int64_t rows : {1, 2, 3, 4}) {
      for (const int64_t K : {256, 2048, 8192}) {
        SCOPED_TRACE(testing::Message() << rows << " x 161 x " << K << ", " << DTypeName(W_dtype));
        const Tensor x = RandomNormal(random, {rows, K}).To(DType::kBF16);
        const Tensor W = RandomNormal(random, {161, K}).To(DType::kF32).To(W_dtype);
        const Tensor here = Tensor::Empty({rows, 161}, DType::kF32);
        const Tensor there = here.To(kCuda);
        Linear(x, W, {}, here);
        Linear(x.To(kCuda), W.To(kCuda), {}, there);
        EXPECT_TRUE(Near(OnCpu(there), here, 3e-6));
      }
    }
  }
}

// A NaN or an infinity makes a row of NaN; blocks too small for a scale count as zeros.
TEST_F(LinearCudaTest, RoundsUnusualActivations) {
  Random random(9);
  constexpr int64_t kColumns = 512;
  const Tensor values = RandomNormal(random, {4, kColumns}).To(DType::kF32);
  auto* x = values.data<float>();
  x[70] = std::numeric_limits<float>::quiet_NaN();
  x[kColumns + 33] = -std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < kColumns; ++i) x[2 * kColumns + i] = i % 3 == 0 ? 1e-38f : 0;
  const Tensor bias = RandomNormal(random, {40}).To(DType::kF32);
  for (const DType W_dtype : {DType::kQ8_0, DType::kQ4_0, DType::kQ4_K, DType::kQ6_K}) {
    SCOPED_TRACE(DTypeName(W_dtype));
    const Tensor W = RandomNormal(random, {40, kColumns}).To(DType::kF32).To(W_dtype);
    const Tensor y = Tensor::Empty({4, 40}, DType::kF32, kCuda);
    Linear(values.To(DType::kBF16).To(kCuda), W.To(kCuda), bias.To(kCuda), y);
    const Tensor back = OnCpu(y);
    for (int64_t n = 0; n < 40; ++n) {
      EXPECT_TRUE(std::isnan(back.data<float>()[n]));
      EXPECT_TRUE(std::isnan(back.data<float>()[40 + n]));
      EXPECT_EQ(back.data<float>()[80 + n], bias.data<float>()[n]);
      EXPECT_TRUE(std::isfinite(back.data<float>()[120 + n]));
    }
  }
}

// W is converted in slices where it does not fit one.
TEST_F(LinearCudaTest, ConvertsLargeWeightsInSlices) {
  Random random(3);
  ExpectAsOnCpu(random, {.rows = 20, .N = 40000, .K = 1024, .W = DType::kBF16, .bias = true});
}

void ExpectBackwardAsOnCpu(Random& random, const Case& c, bool accumulate) {
  const DType dy_dtype = c.wide_y ? DType::kF32 : c.x;
  SCOPED_TRACE(testing::Message() << c.rows << " x " << c.N << " x " << c.K << ", "
                                  << DTypeName(c.x) << ", dy " << DTypeName(dy_dtype) << ", gap "
                                  << c.gap << (accumulate ? ", added" : ""));
  const auto rows = [&](const Shape& shape, DType dtype) {
    const Tensor t = RandomNormal(random, shape).To(dtype);
    return c.gap > 0 ? test::WithRowGap(t, c.gap) : t;
  };
  const Tensor x = rows({c.rows, c.K}, c.x);
  const Tensor W = rows({c.N, c.K}, c.x);
  const Tensor dy = rows({c.rows, c.N}, dy_dtype);
  const Tensor dx = rows({c.rows, c.K}, c.x);
  const Tensor dW = rows({c.N, c.K}, DType::kF32);
  const Tensor dbias = RandomNormal(random, {c.N}).To(DType::kF32);
  const auto run = [&](Device device) {
    const auto own = [&](const Tensor& t) { return t.To(device).Clone(); };
    const LinearGradients g = {
        .dx = own(dx), .accumulate_dx = accumulate, .dW = own(dW), .dbias = own(dbias)};
    LinearBackward(x.To(device), W.To(device), dy.To(device), g);
    return g;
  };
  const LinearGradients cpu = run({});
  const LinearGradients cuda = run(kCuda);
  const LinearGradients again = run(kCuda);
  // The CPU rounds what it adds to dx and the sum, cuBLASLt the sum only.
  EXPECT_TRUE(Near(OnCpu(cuda.dx), cpu.dx, (accumulate ? 1.5 : 1) * Tolerance(c, c.x)));
  EXPECT_TRUE(Near(OnCpu(cuda.dW), cpu.dW, 1e-5));
  EXPECT_TRUE(Near(OnCpu(cuda.dbias), cpu.dbias, 1e-5));
  EXPECT_TRUE(SameBits(OnCpu(cuda.dx), OnCpu(again.dx)));
  EXPECT_TRUE(SameBits(OnCpu(cuda.dW), OnCpu(again.dW)));
  EXPECT_TRUE(SameBits(OnCpu(cuda.dbias), OnCpu(again.dbias)));
}

// TF32 keeps 10 bits after the point of each factor: 2^-11 of every term.
TEST_F(LinearCudaTest, RoundsToTf32WhereThatIsAllowed) {
  Random random(7);
  const Tensor x = RandomNormal(random, {300, 1024}).To(DType::kF32).To(kCuda);
  const Tensor W = RandomNormal(random, {256, 1024}).To(DType::kF32).To(kCuda);
  const auto product = [&] {
    const Tensor y = Tensor::Empty({300, 256}, DType::kF32, kCuda);
    Linear(x, W, {}, y);
    return OnCpu(y);
  };
  const Tensor whole = product();
  AllowTf32(kCuda);
  const Tensor rounded = product();
  AllowTf32(kCuda, false);
  EXPECT_TRUE(Near(rounded, whole, 0x1p-10));
  EXPECT_FALSE(Near(rounded, whole, 1e-6));
  EXPECT_TRUE(SameBits(product(), whole));
}

TEST_F(LinearCudaTest, BackwardMatchesTheCpu) {
  Random random(4);
  for (const DType dtype : kActivations) {
    for (const bool wide : {false, true}) {
      for (const int64_t rows : {1, 7, 300}) {
        ExpectBackwardAsOnCpu(
            random, {.rows = rows, .N = 160, .K = 384, .x = dtype, .wide_y = wide}, rows == 7);
        ExpectBackwardAsOnCpu(
            random, {.rows = rows, .N = 35, .K = 21, .x = dtype, .wide_y = wide, .gap = 3},
            rows == 1);
      }
    }
  }
  ExpectBackwardAsOnCpu(random, {.rows = 0, .N = 3, .K = 5}, false);
}

}  // namespace
}  // namespace adder
