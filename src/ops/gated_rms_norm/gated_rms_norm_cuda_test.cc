// Tests of gated_rms_norm on a CUDA device: the same results as the CPU's, and the same bits each
// time.
#include "adder/backend/cuda/cuda_test.h"
#include "adder/backend/devices.h"
#include "adder/ops/gated_rms_norm/gated_rms_norm.h"
#include "adder/ops/operator_test.h"

namespace adder {
namespace {

using test::Near;
using test::RandomNormal;
using test::SameBits;

constexpr Device kCpu = {};
constexpr Device kGpu = {DeviceType::kCuda, 0};

// CPU and device each round once from f32: they may differ by one spacing of the dtype.
double Tolerance(DType dtype) {
  return dtype == DType::kBF16 ? 0x1p-7 : dtype == DType::kF16 ? 0x1p-10 : 1e-5;
}

struct Case {
  Shape shape;
  int64_t group_size;
  int64_t gap = 0;   // between rows
  double scale = 1;  // of x: where its squares leave f32's range
};

TEST(GatedRmsNormCuda, AgreesWithTheCpu) {
  if (const std::string reason = FindCudaDevices().reason; !reason.empty()) {
    GTEST_SKIP() << reason;
  }
  Random random(1);
  for (const Case& c : {Case{{0, 5}, 0}, Case{{5, 7}, 0}, Case{{37, 70}, 35}, Case{{9, 96}, 1},
                        Case{{700, 768}, 256}, Case{{3, 5120}, 0}, Case{{900, 1536}, 0, 8},
                        Case{{40, 2048}, 0, 3}, Case{{5, 5128}, 0}, Case{{30, 64}, 8},
                        Case{{20, 1536}, 0, 0, 1e20}, Case{{20, 96}, 48, 8, 1e-18}}) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      if (dtype == DType::kF16 && c.scale != 1) continue;
      for (const bool norm_first : {false, true}) {
        SCOPED_TRACE(testing::Message() << c.shape.ToString() << " " << c.group_size << " "
                                        << DTypeName(dtype) << norm_first);
        const auto rows = [&](double scale) {
          const Tensor t = RandomNormal(random, c.shape, 0, scale).To(dtype);
          return c.gap > 0 ? test::WithRowGap(t, c.gap) : t;
        };
        const Tensor x = rows(c.scale);
        const Tensor z = rows(1);
        const Tensor weight = RandomNormal(random, {c.shape[1]}).To(DType::kF32);
        const Tensor dy = rows(1);
        const float eps = c.scale < 1 ? 1e-38f : 1e-5f;
        const auto run = [&](Device device) {
          const auto there = [&](const Tensor& t) { return device == kGpu ? test::OnCuda(t) : t; };
          const GatedRmsNormInputs inputs = {there(x), there(z),     there(weight),
                                             eps,      c.group_size, norm_first};
          const Tensor y = Tensor::Zeros(c.shape, dtype, device);
          const GatedRmsNormGradients gradients = {
              Tensor::Zeros(c.shape, dtype, device), Tensor::Zeros(c.shape, dtype, device),
              Tensor::Zeros({c.shape[1]}, DType::kF32, device)};
          GatedRmsNorm(inputs, y);
          GatedRmsNormBackward(inputs, there(dy), gradients);
          return std::vector{y.To(kCpu), gradients.dx.To(kCpu), gradients.dz.To(kCpu),
                             gradients.dweight.To(kCpu)};
        };
        const std::vector<Tensor> actual = run(kGpu);
        const std::vector<Tensor> expected = run(kCpu);
        const std::vector<Tensor> again = run(kGpu);
        for (size_t i = 0; i < actual.size(); ++i) {
          EXPECT_TRUE(Near(actual[i], expected[i], Tolerance(expected[i].dtype()))) << i;
          EXPECT_TRUE(SameBits(again[i], actual[i])) << i;
        }
      }
    }
  }
}

}  // namespace
}  // namespace adder
