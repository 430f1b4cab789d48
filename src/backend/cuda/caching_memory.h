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

  // Between the two, blocks that are freed serve allocations made between the two, and nobody else:
  // recorded work uses them again whenever it is repeated. They belong to the caller then, until
  // they are given back. Copies from and to the host are errors meanwhile.
  using Blocks = std::map<int64_t, std::vector<std::byte*>>;  // by size; no entry is empty
  void BeginRecording();
  Blocks EndRecording();
  void GiveBack(const Blocks& blocks) noexcept;

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
  void RequireNotRecording();
  Stage& NextStage();

  int device_;
  cudaStream_t stream_;
  Faults& faults_;
  std::mutex mutex_;
  Blocks free_;
  bool recording_ = false;
  Blocks recorded_;  // freed while recording; they count as in use
  MemoryUse use_;
  std::mutex staging_mutex_;
  Stage stages_[2];
  int next_stage_ = 0;
};

}  // namespace adder::cuda
