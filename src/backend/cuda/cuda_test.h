// For tests of what runs on a CUDA device: they are skipped, saying why, where there is none.
#pragma once

#include <gtest/gtest.h>

#include "adder/backend/devices.h"
#include "adder/core/tensor.h"

namespace adder::test {

inline constexpr Device kCuda = {DeviceType::kCuda, 0};

class CudaTest : public testing::Test {
 protected:
  void SetUp() override {
    const FoundCudaDevices found = FindCudaDevices();
    if (!found.reason.empty()) GTEST_SKIP() << found.reason;
  }
};

// A copy there; an undefined tensor stays undefined. Rows with gaps keep them.
inline Tensor OnCuda(const Tensor& tensor) {
  if (!tensor) return {};
  if (tensor.contiguous() || tensor.rank() != 2) return tensor.To(kCuda);
  const Tensor wide = Tensor::Empty({tensor.dim(0), tensor.stride(0)}, tensor.dtype(), kCuda);
  const int64_t gap = (tensor.stride(0) - tensor.dim(1)) / 2;
  const Tensor view = wide.Columns(gap, tensor.dim(1));
  view.CopyFrom(tensor);
  return view;
}
inline Tensor OnCpu(const Tensor& tensor) { return tensor ? tensor.To(Device{}) : tensor; }

}  // namespace adder::test
