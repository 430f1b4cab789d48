// For tests of what runs on a CUDA device: they are skipped, saying why, where there is none.
#pragma once

#include <gtest/gtest.h>

#include "adder/backend/cuda/module.h"
#include "adder/backend/devices.h"
#include "adder/core/error.h"
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
// Runs a test that takes more memory than some devices have: it is skipped there. The memory is
// given back to the driver afterwards.
template <class Body>
void WithLargeMemory(const Body& body) {
  try {
    body();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kOutOfMemory) throw;
    GTEST_SKIP() << error.what();
  }
  cuda::GetModule().ReleaseCached(kCuda.index);
}

inline Tensor OnCpu(const Tensor& tensor) { return tensor ? tensor.To(Device{}) : tensor; }

}  // namespace adder::test
