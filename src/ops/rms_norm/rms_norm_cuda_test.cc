// rms_norm on a CUDA device computes what it computes on the CPU.
#include <algorithm>
#include <cmath>

#include "adder/backend/cuda/cuda_test.h"
#include "adder/ops/operator_test.h"
#include "adder/ops/rms_norm/rms_norm.h"

namespace adder {
namespace {

using test::kCuda;
using test::Near;
using test::OnCpu;
using test::OnCuda;
using test::RandomNormal;
using test::SameBits;
using RmsNormCudaTest = test::CudaTest;

// f32: the sums' order differs, a few roundings. 16 bits: the result is rounded once, so two that
// differ in f32's last places may differ by one unit in the last of theirs.
double Tolerance(DType dtype) {
  return dtype == DType::kF32 ? 2e-6 : dtype == DType::kBF16 ? 0x1p-8 : 0x1p-11;
}

struct Case {
  int64_t rows;
  int64_t channels;
  DType x = DType::kF32;
  DType y = DType::kF32;
  bool options = true;  // residual, weight
  int64_t gap = 0;      // between rows
  float eps = 1e-5f;
  double scale = 1;
};

// How much larger than the largest |dr| the largest |w · dy| / sqrt(mean(r²) + eps) is, at least 1.
double TermsOverGradient(const Tensor& r, const Tensor& weight, float eps, const Tensor& dy,
                         const Tensor& dr) {
  const Tensor r64 = r.Clone().To(DType::kF64);
  const Tensor dy64 = dy.Clone().To(DType::kF64);
  const Tensor dr64 = dr.Clone().To(DType::kF64);
  const int64_t channels = r.dim(1);
  double largest_term = 0;
  double largest = 0;
  for (int64_t row = 0; row < r.dim(0); ++row) {
    double squares = 0;
    double most = 0;
    for (int64_t d = 0; d < channels; ++d) {
      const int64_t i = row * channels + d;
      squares += r64.data<double>()[i] * r64.data<double>()[i];
      const double w = weight.defined() ? weight.data<float>()[d] : 1.0;
      most = std::max(most, std::abs(w * dy64.data<double>()[i]));
      largest = std::max(largest, std::abs(dr64.data<double>()[i]));
    }
    const double rms = std::sqrt(squares / static_cast<double>(channels) + eps);
    largest_term = std::max(largest_term, most / rms);
  }
  return largest > 0 ? std::max(1.0, largest_term / largest) : 1.0;
}

void ExpectAsOnCpu(Random& random, const Case& c) {
  SCOPED_TRACE(testing::Message() << c.rows << " x " << c.channels << " " << DTypeName(c.x)
                                  << " to " << DTypeName(c.y) << ", gap " << c.gap);
  const auto rows = [&](DType dtype) {
    const Tensor t = RandomNormal(random, {c.rows, c.channels}, 0, c.scale).To(dtype);
    return c.gap > 0 ? test::WithRowGap(t, c.gap) : t;
  };
  RmsNormInputs in = {.x = rows(c.x), .residual = {}, .weight = {}, .eps = c.eps};
  if (c.options) {
    in.residual = rows(DType::kF32);
    in.weight = RandomNormal(random, {c.channels}).To(DType::kF32);
  }
  const auto empty = [&](DType dtype, Device device) {
    return Tensor::Empty({c.rows, c.channels}, dtype, device);
  };
  const RmsNormOutputs out = {.y = empty(c.y, {}), .residual_out = empty(DType::kF32, {})};
  RmsNorm(in, out);
  const RmsNormInputs cuda_in = {.x = OnCuda(in.x),
                                 .residual = OnCuda(in.residual),
                                 .weight = OnCuda(in.weight),
                                 .eps = c.eps};
  const RmsNormOutputs cuda_out = {.y = empty(c.y, kCuda),
                                   .residual_out = empty(DType::kF32, kCuda)};
  RmsNorm(cuda_in, cuda_out);
  EXPECT_TRUE(Near(OnCpu(cuda_out.y), out.y, Tolerance(c.y)));
  EXPECT_TRUE(SameBits(OnCpu(cuda_out.residual_out), out.residual_out));

  const Tensor dy = rows(c.y);
  const Tensor through = c.options ? rows(DType::kF32) : Tensor();
  const auto gradients = [&](Device device) {
    return RmsNormGradients{.dr = empty(DType::kF32, device),
                            .dx = empty(c.x, device),
                            .dweight = Tensor::Zeros({c.channels}, DType::kF32, device)};
  };
  const RmsNormGradients g = gradients({});
  RmsNormBackward(out.residual_out, in.weight, c.eps, dy, through, g);
  const RmsNormGradients cuda_g = gradients(kCuda);
  const auto backward = [&](const RmsNormGradients& results) {
    RmsNormBackward(OnCuda(out.residual_out), OnCuda(in.weight), c.eps, OnCuda(dy), OnCuda(through),
                    results);
  };
  backward(cuda_g);
  // dr is a difference of two terms that cancel where a row has few channels (one: all but eps of
  // it), so that its roundings are those of the terms.
  const double terms = TermsOverGradient(out.residual_out, in.weight, c.eps, dy, g.dr);
  EXPECT_TRUE(Near(OnCpu(cuda_g.dr), g.dr, 4e-6 * terms));
  EXPECT_TRUE(Near(OnCpu(cuda_g.dx), g.dx, 4e-6 * terms + Tolerance(c.x)));
  EXPECT_TRUE(Near(OnCpu(cuda_g.dweight), g.dweight, 1e-5));
  const RmsNormGradients again = gradients(kCuda);
  backward(again);
  EXPECT_TRUE(SameBits(OnCpu(again.dweight), OnCpu(cuda_g.dweight)));
}

TEST_F(RmsNormCudaTest, MatchesTheCpuOnOddShapes) {
  Random random(1);
  for (const int64_t channels : {1, 3, 4, 31, 64, 257, 768, 1024, 1028, 2047, 2560, 8200}) {
    ExpectAsOnCpu(random, {.rows = 13, .channels = channels});
    ExpectAsOnCpu(random, {.rows = 5, .channels = channels, .options = false, .gap = 3});
    ExpectAsOnCpu(random, {.rows = 3, .channels = channels, .gap = 4});
  }
  ExpectAsOnCpu(random, {.rows = 0, .channels = 8});
  ExpectAsOnCpu(random, {.rows = 1, .channels = 8});
  ExpectAsOnCpu(random, {.rows = 3001, .channels = 768});
  for (const int64_t channels : {4, 1028, 2560, 4100, 8200}) {
    ExpectAsOnCpu(random, {.rows = 300, .channels = channels});
    ExpectAsOnCpu(random, {.rows = 1, .channels = channels, .gap = 4});
  }
}

TEST_F(RmsNormCudaTest, MatchesTheCpuInHalfPrecision) {
  Random random(2);
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    ExpectAsOnCpu(random, {.rows = 33, .channels = 768, .x = dtype, .y = dtype});
    ExpectAsOnCpu(random, {.rows = 7, .channels = 1531, .x = dtype, .y = dtype});
    ExpectAsOnCpu(random, {.rows = 7, .channels = 640, .x = DType::kF32, .y = dtype});
    ExpectAsOnCpu(random, {.rows = 2, .channels = 5120, .x = dtype, .y = dtype});
    ExpectAsOnCpu(random, {.rows = 300, .channels = 2048, .x = dtype, .y = dtype});
  }
}

TEST_F(RmsNormCudaTest, KeepsTheDigitsOfTinyAndHugeRows) {
  Random random(3);
  for (const double scale : {1e-25, 1e-18, 1e18, 1e25}) {
    ExpectAsOnCpu(random, {.rows = 4,
                           .channels = 300,
                           .options = false,
                           .eps = scale < 1 ? 0.0f : 1e-5f,
                           .scale = scale});
  }
}

}  // namespace
}  // namespace adder
