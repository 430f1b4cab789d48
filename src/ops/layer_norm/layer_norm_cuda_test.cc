// Tests of layer_norm on a CUDA device: the same results as the CPU's, and the same bits each time.
#include "adder/backend/devices.h"
#include "adder/ops/layer_norm/layer_norm.h"
#include "adder/ops/operator_test.h"

namespace adder {
namespace {

using test::Near;
using test::RandomNormal;
using test::SameBits;

constexpr Device kCpu = {};
constexpr Device kGpu = {DeviceType::kCuda, 0};
constexpr DType kActivations[] = {DType::kF32, DType::kBF16, DType::kF16};
// One thread's, odd, vectors, more than the registers hold.
const std::vector<Shape> kShapes = {{0, 5}, {5, 7}, {3, 16}, {37, 70}, {700, 768}, {3, 4500}};

// CPU and device each round once from f32: they may differ by one spacing of the dtype.
double Tolerance(DType dtype) {
  return dtype == DType::kBF16 ? 0x1p-7 : dtype == DType::kF16 ? 0x1p-10 : 1e-5;
}

class LayerNormCuda : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string reason = FindCudaDevices().reason; !reason.empty()) {
      GTEST_SKIP() << reason;
    }
  }
};

Tensor Zeros(const Shape& shape, DType dtype, Device device) {
  return Tensor::Zeros(shape, dtype, device);
}

TEST_F(LayerNormCuda, ForwardAgreesWithTheCpu) {
  Random random(1);
  for (const Shape& shape : kShapes) {
    for (const DType dtype : kActivations) {
      for (const bool options : {false, true}) {
        SCOPED_TRACE(testing::Message() << shape.ToString() << " " << DTypeName(dtype) << options);
        const Tensor x = RandomNormal(random, shape, 0.5).To(dtype);
        const Tensor residual = RandomNormal(random, shape, 2, 3).To(DType::kF32);
        const Tensor weight = RandomNormal(random, {shape[1]}).To(DType::kF32);
        const Tensor bias = RandomNormal(random, {shape[1]}).To(DType::kF32);
        const auto run = [&](Device device) {
          LayerNormInputs inputs;
          inputs.x = x.To(device);
          inputs.weight = weight.To(device);
          if (options) inputs.residual = residual.To(device);
          if (options) inputs.bias = bias.To(device);
          const LayerNormOutputs outputs = {Zeros(shape, dtype, device),
                                            Zeros(shape, DType::kF32, device)};
          LayerNorm(inputs, outputs);
          return std::pair(outputs.y.To(kCpu), outputs.residual_out.To(kCpu));
        };
        const auto [y, r] = run(kGpu);
        const auto [expected_y, expected_r] = run(kCpu);
        EXPECT_TRUE(Near(y, expected_y, Tolerance(dtype)));
        EXPECT_TRUE(SameBits(r, expected_r));
        EXPECT_TRUE(SameBits(run(kGpu).first, y));
      }
    }
  }
}

TEST_F(LayerNormCuda, BackwardAgreesWithTheCpu) {
  Random random(2);
  for (const Shape& shape : kShapes) {
    for (const DType dtype : kActivations) {
      SCOPED_TRACE(testing::Message() << shape.ToString() << " " << DTypeName(dtype));
      const Tensor r = RandomNormal(random, shape, 1, 2).To(DType::kF32);
      const Tensor weight = RandomNormal(random, {shape[1]}).To(DType::kF32);
      const Tensor dy = RandomNormal(random, shape).To(dtype);
      const Tensor through = RandomNormal(random, shape).To(DType::kF32);
      const auto run = [&](Device device) {
        const LayerNormGradients gradients = {
            Zeros(shape, DType::kF32, device), Zeros(shape, dtype, device),
            Zeros({shape[1]}, DType::kF32, device), Zeros({shape[1]}, DType::kF32, device)};
        LayerNormBackward(r.To(device), weight.To(device), 1e-5f, dy.To(device), through.To(device),
                          gradients);
        return std::vector{gradients.dr.To(kCpu), gradients.dx.To(kCpu), gradients.dweight.To(kCpu),
                           gradients.dbias.To(kCpu)};
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

}  // namespace
}  // namespace adder
