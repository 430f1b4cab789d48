// Tests of rotary on a CUDA device: the same results as the CPU's, forwards and back.
#include "adder/backend/devices.h"
#include "adder/ops/operator_test.h"
#include "adder/ops/rotary/rotary.h"

namespace adder {
namespace {

using test::Near;
using test::RandomNormal;

constexpr Device kCpu = {};
constexpr Device kGpu = {DeviceType::kCuda, 0};

// CPU and device each round once from f32: they may differ by one spacing of the dtype.
double Tolerance(DType dtype) {
  return dtype == DType::kBF16 ? 0x1p-7 : dtype == DType::kF16 ? 0x1p-10 : 1e-6;
}

TEST(RotaryCuda, AgreesWithTheCpu) {
  if (const std::string reason = FindCudaDevices().reason; !reason.empty()) {
    GTEST_SKIP() << reason;
  }
  Random random(1);
  const std::vector<int64_t> positions = {0, 1, 17, 2047, 1000003, (int64_t{1} << 40) - 1, -5};
  const auto rows = static_cast<int64_t>(positions.size());
  for (const int64_t rotary_dim : {0, 2, 10, 64}) {
    for (const bool interleaved : {false, true}) {
      for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
        SCOPED_TRACE(testing::Message() << rotary_dim << interleaved << " " << DTypeName(dtype));
        const Tensor x = RandomNormal(random, {rows, 5 * 64}).To(dtype);
        const auto run = [&](Device device) {
          RotaryEmbedding embedding;
          embedding.positions =
              Tensor::From({rows}, std::span<const int64_t>(positions)).To(device);
          embedding.d_head = 64;
          embedding.rotary_dim = rotary_dim;
          embedding.interleaved = interleaved;
          const Tensor y = Tensor::Zeros(x.shape(), dtype, device);
          Rotary(x.To(device), embedding, y);
          const Tensor back = y.Clone();
          RotaryBackward(embedding, back, back);  // in place
          return std::pair(y.To(kCpu), back.To(kCpu));
        };
        const auto [y, back] = run(kGpu);
        const auto [expected_y, expected_back] = run(kCpu);
        EXPECT_TRUE(Near(y, expected_y, Tolerance(dtype)));
        EXPECT_TRUE(Near(back, expected_back, 2 * Tolerance(dtype)));  // rounded twice
      }
    }
  }
}

}  // namespace
}  // namespace adder
