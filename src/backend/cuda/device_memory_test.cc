// Tensors on a CUDA device: transfers, conversions, strides, the cache of freed blocks; and what is
// said where there is no device.
#include "adder/core/device_memory.h"

#include <gmock/gmock.h>

#include <vector>

#include "adder/backend/cuda/cuda_test.h"
#include "adder/core/error.h"
#include "adder/ops/operator_test.h"

namespace adder {
namespace {

using test::kCuda;
using test::OnCpu;
using test::RandomNormal;
using test::SameBits;
using DeviceMemoryTest = test::CudaTest;

TEST(DevicesTest, NamesAreParsed) {
  EXPECT_EQ(ParseDevice("cpu"), Device{});
  EXPECT_EQ(ParseDevice("auto").type,
            FindCudaDevices().reason.empty() ? DeviceType::kCuda : DeviceType::kCpu);
  for (const char* name : {"", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:1 ", "cuda0", "cpu:0"}) {
    EXPECT_THAT(test::ErrorOf([&] { ParseDevice(name); }), testing::HasSubstr("expected cpu"));
  }
}

TEST(DevicesTest, ADeviceThatIsNotThereIsAnErrorThatSaysWhy) {
  const FoundCudaDevices found = FindCudaDevices();
  EXPECT_TRUE(!found.reason.empty() || !found.devices.empty());
  const auto index = static_cast<int>(found.devices.size());
  try {
    Tensor::Empty({1}, DType::kF32, {DeviceType::kCuda, index});
    ADD_FAILURE() << "no error was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_THAT(error.what(), testing::StartsWith("CUDA: "));
  }
  EXPECT_THROW(ParseDevice("cuda:" + std::to_string(index)), Error);
}

TEST_F(DeviceMemoryTest, BytesSurviveTheRoundTrip) {
  Random random(1);
  // Past one and two pieces of the pinned staging memory, too.
  for (const int64_t elements : {0, 1, 7, 1 << 20, (1 << 20) + 1, (5 << 20) + 3}) {
    const Tensor host = Tensor::Empty({elements}, DType::kF32);
    FillUniform(host, random, -1, 1);
    EXPECT_TRUE(SameBits(OnCpu(host.To(kCuda)), host)) << elements;
  }
}

TEST_F(DeviceMemoryTest, ConvertsAsTheCpuDoes) {
  Random random(2);
  const Tensor values = RandomNormal(random, {37, 19}, 0, 1000);
  for (const DType from : {DType::kF64, DType::kF32, DType::kBF16, DType::kF16}) {
    for (const DType to : {DType::kF64, DType::kF32, DType::kBF16, DType::kF16}) {
      const Tensor source = values.To(from);
      EXPECT_TRUE(SameBits(OnCpu(source.To(kCuda).To(to)), source.To(to)))
          << DTypeName(from) << " to " << DTypeName(to);
    }
  }
}

TEST_F(DeviceMemoryTest, CopiesViewsOfAnyRank) {
  Random random(3);
  const Tensor host = RandomNormal(random, {5, 6, 7}).To(DType::kF32);
  const Tensor device = host.To(kCuda);
  const auto view = [](const Tensor& t) { return t.Slice(0, 1, 3).Slice(1, 2, 3).Slice(2, 1, 5); };
  EXPECT_TRUE(SameBits(OnCpu(view(device).Clone()), view(host).Clone()));
  EXPECT_TRUE(SameBits(OnCpu(view(device)), view(host).Clone()));
  const Tensor more = RandomNormal(random, {3, 3, 5}).To(DType::kBF16);
  view(host).CopyFrom(more);
  view(device).CopyFrom(more);
  EXPECT_TRUE(SameBits(OnCpu(device), host));
  view(host).SetZero();
  view(device).SetZero();
  EXPECT_TRUE(SameBits(OnCpu(device), host));
  const Tensor bytes = Tensor::Zeros({4, 3}, DType::kU8, kCuda);
  EXPECT_TRUE(SameBits(OnCpu(bytes.Columns(1, 1)), Tensor::Zeros({4, 1}, DType::kU8)));
}

TEST_F(DeviceMemoryTest, QuantizedTensorsTravelAsTheyAre) {
  Random random(4);
  const Tensor host = RandomNormal(random, {6, 64}).To(DType::kF32).To(DType::kQ8_0);
  const Tensor device = host.To(kCuda);
  EXPECT_TRUE(SameBits(OnCpu(device).To(DType::kF32), host.To(DType::kF32)));
  EXPECT_TRUE(SameBits(OnCpu(device.Rows(2, 3)).To(DType::kF32), host.Rows(2, 3).To(DType::kF32)));
  EXPECT_THROW(device.To(DType::kF32), Error);
}

TEST_F(DeviceMemoryTest, FreedBlocksAreReused) {
  const cuda::Module& module = cuda::GetModule();
  module.ReleaseCached(0);
  const int64_t before = module.Use(0).in_use;
  const void* first = Tensor::Empty({1000, 1000}, DType::kF32, kCuda).raw();
  EXPECT_GE(module.Use(0).cached, 4000000);
  EXPECT_EQ(module.Use(0).in_use, before);
  const Tensor again = Tensor::Empty({999, 1000}, DType::kF32, kCuda);
  EXPECT_EQ(again.raw(), first);
  EXPECT_GE(module.Use(0).in_use, before + 3996000);
  module.ReleaseCached(0);
  EXPECT_EQ(module.Use(0).cached, 0);
}

TEST_F(DeviceMemoryTest, TooMuchIsAnErrorAndNotTheEnd) {
  const int64_t all = cuda::GetModule().Devices()[0].memory_bytes;
  try {
    Tensor::Empty({2 * all}, DType::kU8, kCuda);
    ADD_FAILURE() << "no error was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kOutOfMemory);
  }
  EXPECT_TRUE(
      SameBits(OnCpu(Tensor::Zeros({3}, DType::kF32, kCuda)), Tensor::Zeros({3}, DType::kF32)));
}

}  // namespace
}  // namespace adder
