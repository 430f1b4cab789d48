// A CUDA device's memory: freed blocks are kept for reuse, because cudaMalloc waits for the device
// and a model asks for the same sizes again and again.
#pragma once

#include <cuda_runtime.h>

#include <map>
#include <mutex>
#include <vector>

#include "adder/backend/cuda/faults.cuh"
#include "adder/backend/cuda/memory_plan.h"
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
  struct Recorded {
    Blocks blocks;
    int64_t bytes = 0;                // of the blocks
    std::vector<PlannedBlock> trace;  // all allocations in their order, without places
  };
  void BeginRecording();
  Recorded EndRecording();
  void GiveBack(const Blocks& blocks) noexcept;

  // The same for work whose trace is known and given back: the allocations that it frees again lie
  // in one piece of memory, of `bytes` bytes, at the offsets planned. Takes the cache's memory for
  // that. Other allocations than those of the trace throw kUnsupported.
  std::byte* BeginPlannedRecording(std::vector<PlannedBlock> plan, int64_t bytes);
  void GiveBackPiece(std::byte* piece) noexcept;

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
  // From the driver.
  std::byte* AllocateLocked(int64_t size);
  // The next of the plan's; null where that is none of the piece's.
  std::byte* NextPlannedLocked(int64_t bytes);
  void ReleaseLocked() noexcept;
  bool InPieceLocked(const std::byte* data) const;
  void RequireNotRecording();
  Stage& NextStage();

  int device_;
  cudaStream_t stream_;
  Faults& faults_;
  std::mutex mutex_;
  Blocks free_;
  bool recording_ = false;
  Blocks recorded_;  // freed while recording; they count as in use
  std::vector<PlannedBlock> trace_;
  std::map<const std::byte*, size_t> traced_;  // those not freed yet
  int64_t events_ = 0;
  int64_t most_before_ = 0;       // most_in_use when the recording began
  std::byte* planned_ = nullptr;  // the piece that allocations lie in now, as trace_ has it
  size_t next_planned_ = 0;
  std::map<std::byte*, int64_t> pieces_;  // all that were not given back: their bytes
  MemoryUse use_;
  std::mutex staging_mutex_;
  Stage stages_[2];
  int next_stage_ = 0;
};

}  // namespace adder::cuda
