// A CUDA device's memory: freed blocks are kept for reuse, because cudaMalloc waits for the device
// and a model asks for the same sizes again and again.
#pragma once

#include <cuda_runtime.h>

#include <map>
#include <mutex>
#include <vector>

#include "adder/backend/cuda/faults.cuh"
#include "adder/backend/cuda/module.h"
#include "adder/core/device_memory.h"

namespace adder::cuda {

class CachingMemory final : public DeviceMemory {
 public:
  CachingMemory(int device, cudaStream_t stream, Faults& faults);

  std::byte* Allocate(int64_t bytes) override;
  // The block may be given out again at once: what uses it next comes later in the same queue.
  void Free(std::byte* data, int64_t bytes) noexcept override;
  void CopyFromHost(void* to, const void* from, int64_t bytes) override;
  // Throws the fault that a kernel before it raised.
  void CopyToHost(void* to, const void* from, int64_t bytes) override;
  void Copy(const Shape& shape, const DeviceWindow& from, const DeviceWindow& to) override;
  void SetZero(const Shape& shape, const DeviceWindow& to) override;

  MemoryUse use();
  void ReleaseCached();

 private:
  // Pinned host memory that copies go through in turns: the device copies one piece while the host
  // copies another.
  struct Stage {
    std::byte* data = nullptr;
    cudaEvent_t done = nullptr;  // the device has finished with it
  };

  void MakeCurrent() const;
  void ReleaseLocked() noexcept;
  Stage& NextStage();

  int device_;
  cudaStream_t stream_;
  Faults& faults_;
  std::mutex mutex_;
  std::map<int64_t, std::vector<std::byte*>> free_;  // by size; no entry is empty
  MemoryUse use_;
  std::mutex staging_mutex_;
  Stage stages_[2];
  int next_stage_ = 0;
};

}  // namespace adder::cuda
