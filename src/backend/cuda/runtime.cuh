// What every CUDA file of the module uses: errors, a device's context, scratch memory, tables that
// the host makes and kernels read, and ranges that profilers show. Not for libadder.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "adder/backend/cuda/faults.cuh"
#include "adder/backend/cuda/module.h"

namespace adder::cuda {

// Throws kUnsupported (kOutOfMemory for that) "CUDA: WHAT: the driver's words".
void Check(cudaError_t status, const char* what);
// After a launch: whether it was accepted.
inline void CheckLaunch(const char* kernel) { Check(cudaGetLastError(), kernel); }

class CachingMemory;

// One device: its queue, its memory, its measures. Made when first asked for, never destroyed.
class Context {
 public:
  explicit Context(int device);  // the current one

  int device() const { return device_; }
  cudaStream_t stream() const { return stream_; }
  int multiprocessors() const { return multiprocessors_; }
  // Bytes of shared memory that a block can have.
  int64_t most_shared_bytes() const { return most_shared_bytes_; }
  CachingMemory& memory() const { return *memory_; }
  Faults& faults() { return faults_; }

  // Whether products of f32 matrices may round their factors to TF32.
  bool tf32() const { return tf32_; }
  void AllowTf32(bool allow) { tf32_ = allow; }

  // `bytes` of a table on the device, equal to those given. Kept, so that the same table asked for
  // again costs a comparison. The pointer holds good for work asked for before kFreshTables more
  // calls: as many tables an operator may use at a time.
  static constexpr uint64_t kFreshTables = 16;
  const void* Table(const void* data, int64_t bytes);

  // Tables that are asked for between the two stay as they are until they are released. They must
  // have been made before: what makes them is no work that can be recorded.
  void BeginHoldingTables();
  std::vector<size_t> EndHoldingTables();
  void ReleaseTables(const std::vector<size_t>& held);

 private:
  struct KeptTable;

  int device_;
  cudaStream_t stream_ = nullptr;
  int multiprocessors_ = 0;
  int most_shared_bytes_ = 0;
  std::atomic<bool> tf32_ = false;
  Faults faults_;
  CachingMemory* memory_ = nullptr;
  std::mutex tables_mutex_;
  std::vector<KeptTable> tables_;
  bool holding_ = false;
  std::vector<size_t> held_;  // places in tables_
  uint64_t uses_ = 0;
};

// The context of a device, which becomes the calling thread's current one. Throws kUnsupported
// where there is no such device.
Context& ContextOf(int device);

// Device memory for one operator call, from the cache and back.
class Scratch {
 public:
  Scratch(Context& context, int64_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  template <class T>
  T* data() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  Context& context_;
  std::byte* data_;
  int64_t bytes_;
};

// A named range on profilers' time lines, for as long as it lives.
class ProfilerRange {
 public:
  explicit ProfilerRange(const char* name);
  ~ProfilerRange();
  ProfilerRange(const ProfilerRange&) = delete;
  ProfilerRange& operator=(const ProfilerRange&) = delete;
};

}  // namespace adder::cuda
