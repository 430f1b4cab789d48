// Tests of gated_rms_norm on a CUDA device: the same results as the CPU's, and the same bits each
// time.
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
};

TEST(GatedRmsNormCuda, AgreesWithTheCpu) {
  if (const std::string reason = FindCudaDevices().reason; !reason.empty()) {
    GTEST_SKIP() << reason;
  }
  Random random(1);
  for (const Case& c : {Case{{0, 5}, 0}, Case{{5, 7}, 0}, Case{{37, 70}, 35}, Case{{9, 96}, 1},
                        Case{{700, 768}, 256}, Case{{3, 5120}, 0}}) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      for (const bool norm_first : {false, true}) {
        SCOPED_TRACE(testing::Message() << c.shape.ToString() << " " << c.group_size << " "
                                        << DTypeName(dtype) << norm_first);
        const Tensor x = RandomNormal(random, c.shape).To(dtype);
        const Tensor z = RandomNormal(random, c.shape).To(dtype);
        const Tensor weight = RandomNormal(random, {c.shape[1]}).To(DType::kF32);
        const Tensor dy = RandomNormal(random, c.shape).To(dtype);
        const auto run = [&](Device device) {
          const GatedRmsNormInputs inputs = {x.To(device), z.To(device), weight.To(device),
                                             1e-5f,        c.group_size, norm_first};
          const Tensor y = Tensor::Zeros(c.shape, dtype, device);
          const GatedRmsNormGradients gradients = {
              Tensor::Zeros(c.shape, dtype, device), Tensor::Zeros(c.shape, dtype, device),
              Tensor::Zeros({c.shape[1]}, DType::kF32, device)};
          GatedRmsNorm(inputs, y);
          GatedRmsNormBackward(inputs, dy.To(device), gradients);
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
