// activation on a CUDA device computes what it computes on the CPU.
#include "adder/backend/cuda/cuda_test.h"
#include "adder/ops/activation/activation.h"
#include "adder/ops/operator_test.h"

namespace adder {
namespace {

using test::kCuda;
using test::Near;
using test::OnCpu;
using test::OnCuda;
using test::RandomNormal;
using test::SameBits;
using ActivationCudaTest = test::CudaTest;

constexpr Activation kActivations[] = {Activation::kGelu, Activation::kGeluTanh, Activation::kSilu};

// f32: a few roundings of exponentials. 16 bits: results that differ in f32's last places may
// differ by one unit in the last of theirs.
double Tolerance(DType dtype) {
  return dtype == DType::kF32 ? 2e-6 : dtype == DType::kBF16 ? 0x1p-8 : 0x1p-11;
}

void ExpectAsOnCpu(Random& random, const Shape& shape, DType dtype, int64_t gap) {
  SCOPED_TRACE(testing::Message() << shape.ToString() << " " << DTypeName(dtype) << ", gap "
                                  << gap);
  const auto rows = [&](double stddev) {
    const Tensor t = RandomNormal(random, shape, 0, stddev).To(dtype);
    return gap > 0 ? test::WithRowGap(t, gap) : t;
  };
  const Tensor x = rows(3);
  const Tensor up = rows(1);
  const Tensor dy = rows(1);
  const Tensor cuda_x = OnCuda(x);
  const Tensor cuda_up = OnCuda(up);
  const Tensor cuda_dy = OnCuda(dy);
  const Tensor y = Tensor::Empty(shape, dtype);
  const Tensor cuda_y = Tensor::Empty(shape, dtype, kCuda);
  const double tolerance = Tolerance(dtype);
  for (const Activation activation : kActivations) {
    SCOPED_TRACE(static_cast<int>(activation));
    Activate(activation, x, y);
    Activate(activation, cuda_x, cuda_y);
    EXPECT_TRUE(Near(OnCpu(cuda_y), y, tolerance));
    const Tensor in_place = OnCuda(x);
    Activate(activation, in_place, in_place);
    EXPECT_TRUE(SameBits(OnCpu(in_place), OnCpu(cuda_y)));
    ActivateBackward(activation, x, dy, y);
    ActivateBackward(activation, cuda_x, cuda_dy, cuda_y);
    EXPECT_TRUE(Near(OnCpu(cuda_y), y, tolerance));
  }
  SwiGlu(x, up, y);
  SwiGlu(cuda_x, cuda_up, cuda_y);
  EXPECT_TRUE(Near(OnCpu(cuda_y), y, tolerance));
  const SwiGluGradients g = {y.Clone(), y.Clone()};
  const SwiGluGradients cuda_g = {cuda_y.Clone(), cuda_y.Clone()};
  SwiGluBackward(x, up, dy, g);
  SwiGluBackward(cuda_x, cuda_up, cuda_dy, cuda_g);
  EXPECT_TRUE(Near(OnCpu(cuda_g.dgate), g.dgate, tolerance));
  EXPECT_TRUE(Near(OnCpu(cuda_g.dup), g.dup, tolerance));
  const SwiGluGradients part = {{}, cuda_y};
  SwiGluBackward(cuda_x, cuda_up, cuda_dy, part);
  EXPECT_TRUE(SameBits(OnCpu(cuda_y), OnCpu(cuda_g.dup)));
  Add(x, up, y);
  Add(cuda_x, cuda_up, cuda_y);
  EXPECT_TRUE(SameBits(OnCpu(cuda_y), y));
}

TEST_F(ActivationCudaTest, MatchesTheCpu) {
  Random random(1);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const Shape& shape : {Shape{0, 5}, Shape{3, 0}, Shape{1, 1}, Shape{5, 7}, Shape{3, 16},
                               Shape{2, 33}, Shape{37, 70}, Shape{129, 1536}}) {
      for (const int64_t gap : {0, 3, 8}) ExpectAsOnCpu(random, shape, dtype, gap);
    }
  }
}

// Far out the functions are 0 or x, and nothing is NaN.
TEST_F(ActivationCudaTest, ExtremeArguments) {
  const std::vector<float> values = {-3e38f, -1e10f, -100, -14, -6, 0, 6, 14, 100, 1e10f, 3e38f};
  const auto count = static_cast<int64_t>(values.size());
  const Tensor x = Tensor::From<float>({1, count}, values);
  const Tensor ones = Tensor::From<float>({1, count}, std::vector<float>(values.size(), 1.0f));
  for (const Activation activation : kActivations) {
    SCOPED_TRACE(static_cast<int>(activation));
    const Tensor y = Tensor::Empty({1, count}, DType::kF32);
    const Tensor cuda_y = Tensor::Empty({1, count}, DType::kF32, kCuda);
    const auto expect_near = [&] {
      const Tensor results = OnCpu(cuda_y);
      for (int64_t i = 0; i < count; ++i) {
        const float expected = y.data<float>()[i];
        EXPECT_NEAR(results.data<float>()[i], expected, 1e-5 + 1e-5 * std::abs(expected))
            << values[static_cast<size_t>(i)];
      }
    };
    Activate(activation, x, y);
    Activate(activation, OnCuda(x), cuda_y);
    expect_near();
    ActivateBackward(activation, x, ones, y);
    ActivateBackward(activation, OnCuda(x), OnCuda(ones), cuda_y);
    expect_near();
  }
}

// Matrices past 2^31 elements.
TEST_F(ActivationCudaTest, IndexesInSixtyFourBits) {
  test::WithLargeMemory([] {
    Random random(2);
    constexpr int64_t kRows = (int64_t{1} << 21) + 3;
    for (const int64_t gap : {0, 8}) {  // one long row, many rows
      const Tensor last = RandomNormal(random, {1, 1024}).To(DType::kBF16);
      const Tensor wide = Tensor::Empty({kRows, 1024 + gap}, DType::kBF16, kCuda);
      const Tensor x = wide.Columns(0, 1024);
      x.Rows(kRows - 1, 1).CopyFrom(last);
      Activate(Activation::kSilu, x, x);
      const Tensor y = Tensor::Empty({1, 1024}, DType::kBF16);
      Activate(Activation::kSilu, last, y);
      EXPECT_TRUE(Near(OnCpu(x.Rows(kRows - 1, 1)), y, Tolerance(DType::kBF16)));
    }
  });
}

}  // namespace
}  // namespace adder
