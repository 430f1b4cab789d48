// The CUDA device's memory: the cache of freed blocks, transfers, copies within the device.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>
#include <type_traits>
#include <utility>

#include "adder/backend/cuda/caching_memory.h"
#include "adder/backend/cuda/runtime.cuh"
#include "adder/core/error.h"

namespace adder::cuda {
namespace {

constexpr int64_t kStageBytes = int64_t{4} << 20;
constexpr int64_t kSmallestBlock = 512;

// One of eight steps per power of two, so that nearly equal requests share blocks and at most an
// eighth is wasted.
int64_t SizeClass(int64_t bytes) {
  bytes = std::max(bytes, kSmallestBlock);
  const int64_t step = std::max(
      kSmallestBlock, static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(bytes))) / 8);
  return (bytes + step - 1) / step * step;
}

// What an allocation takes of a piece that is planned.
int64_t PlannedBytes(int64_t bytes) {
  return std::max<int64_t>(1, (bytes + kSmallestBlock - 1) / kSmallestBlock) * kSmallestBlock;
}

// One of the blocks of that size, no longer among them; null where there is none.
std::byte* Take(CachingMemory::Blocks& blocks, int64_t size) {
  const auto found = blocks.find(size);
  if (found == blocks.end()) return nullptr;
  std::byte* block = found->second.back();
  found->second.pop_back();
  if (found->second.empty()) blocks.erase(found);
  return block;
}

// A strided window, for kernels.
struct Window {
  int64_t dims[kMaxRank];
  int64_t from[kMaxRank];
  int64_t to[kMaxRank];
  int rank;
  int64_t elements;
};

constexpr int kThreads = 256;

// Rounded once.
template <class From, class To>
__device__ To Converted(From value) {
  if constexpr (std::is_same_v<From, double> && std::is_same_v<To, __nv_bfloat16>) {
    return __double2bfloat16(value);
  } else if constexpr (std::is_same_v<From, double> && std::is_same_v<To, __half>) {
    return __double2half(value);
  } else if constexpr (std::is_same_v<From, double>) {
    return static_cast<To>(value);
  } else {
    return static_cast<To>(static_cast<float>(value));
  }
}

template <class From, class To, bool kSame>
__global__ void CopyKernel(const From* from, To* to, Window window) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < window.elements;
       i += step) {
    int64_t rest = i;
    int64_t from_at = 0;
    int64_t to_at = 0;
    for (int axis = window.rank - 1; axis >= 0; --axis) {
      const int64_t index = rest % window.dims[axis];
      rest /= window.dims[axis];
      from_at += index * window.from[axis];
      to_at += index * window.to[axis];
    }
    if constexpr (kSame) {
      to[to_at] = from == nullptr ? To{} : from[from_at];
    } else {
      to[to_at] = Converted<From, To>(from[from_at]);
    }
  }
}

template <class From, class To, bool kSame>
void LaunchCopy(cudaStream_t stream, const void* from, void* to, const Window& window) {
  const int64_t blocks = std::min<int64_t>((window.elements + kThreads - 1) / kThreads, 1 << 16);
  CopyKernel<From, To, kSame><<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(
      static_cast<const From*>(from), static_cast<To*>(to), window);
  CheckLaunch("copy");
}

template <class Visit>
void VisitFloating(DType dtype, Visit&& visit) {
  switch (dtype) {
    case DType::kF64:
      return visit(double{});
    case DType::kF32:
      return visit(float{});
    case DType::kF16:
      return visit(__half{});
    default:
      return visit(__nv_bfloat16{});
  }
}

// Elements of one dtype, `from` null for zeros.
void CopyBytes(cudaStream_t stream, int64_t element_bytes, const void* from, void* to,
               const Window& window) {
  switch (element_bytes) {
    case 1:
      return LaunchCopy<uint8_t, uint8_t, true>(stream, from, to, window);
    case 2:
      return LaunchCopy<uint16_t, uint16_t, true>(stream, from, to, window);
    case 4:
      return LaunchCopy<uint32_t, uint32_t, true>(stream, from, to, window);
    default:
      return LaunchCopy<uint64_t, uint64_t, true>(stream, from, to, window);
  }
}

// The dimensions in which both sides lie densely, or at one distance, become one.
Window Collapsed(const Shape& shape, const DeviceWindow* from, const DeviceWindow& to) {
  Window window = {};
  window.elements = shape.elements();
  for (int i = 0; i < shape.rank(); ++i) {
    if (shape[i] == 1) continue;
    const int64_t from_stride = from != nullptr ? from->strides[static_cast<size_t>(i)] : 0;
    const int64_t to_stride = to.strides[static_cast<size_t>(i)];
    const int last = window.rank - 1;
    if (window.rank > 0 && window.to[last] == to_stride * shape[i] &&
        (from == nullptr || window.from[last] == from_stride * shape[i])) {
      window.dims[last] *= shape[i];
      window.from[last] = from_stride;
      window.to[last] = to_stride;
    } else {
      window.dims[window.rank] = shape[i];
      window.from[window.rank] = from_stride;
      window.to[window.rank] = to_stride;
      ++window.rank;
    }
  }
  return window;
}

bool Dense(const Window& window) {
  return window.rank == 0 ||
         (window.rank == 1 && window.to[0] == 1 && (window.from[0] == 1 || window.from[0] == 0));
}

}  // namespace

CachingMemory::CachingMemory(int device, cudaStream_t stream, Faults& faults)
    : device_(device), stream_(stream), faults_(faults) {}

void CachingMemory::MakeCurrent() const { Check(cudaSetDevice(device_), "cudaSetDevice"); }

std::byte* CachingMemory::Allocate(int64_t bytes) {
  MakeCurrent();
  // No device has more, and size classes need room to round up.
  if (bytes < 0 || bytes > int64_t{1} << 50) {
    throw Error(ErrorCode::kOutOfMemory,
                "out of device memory: " + std::to_string(bytes) + " bytes were asked for");
  }
  const int64_t size = SizeClass(bytes);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (planned_ != nullptr) {
    if (std::byte* place = NextPlannedLocked(bytes)) return place;
  }
  std::byte* block = Take(recorded_, size);
  if (block == nullptr) {
    block = Take(free_, size);
    if (block != nullptr) {
      use_.cached -= size;
    } else {
      block = AllocateLocked(size);
    }
    use_.in_use += size;
    use_.most_in_use = std::max(use_.most_in_use, use_.in_use);
  }
  if (recording_ && planned_ == nullptr) {
    traced_[block] = trace_.size();
    trace_.push_back({.bytes = PlannedBytes(bytes), .begin = events_++});
  }
  return block;
}

std::byte* CachingMemory::AllocateLocked(int64_t size) {
  void* data = nullptr;
  cudaError_t status = cudaMalloc(&data, static_cast<size_t>(size));
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // forgotten: it was expected
    ReleaseLocked();
    status = cudaMalloc(&data, static_cast<size_t>(size));
  }
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw Error(ErrorCode::kOutOfMemory,
                "out of device memory: " + std::to_string(size) + " bytes were asked for, " +
                    std::to_string(use_.in_use) + " are in use on cuda:" + std::to_string(device_));
  }
  Check(status, "cudaMalloc");
  return static_cast<std::byte*>(data);
}

std::byte* CachingMemory::NextPlannedLocked(int64_t bytes) {
  if (next_planned_ == trace_.size() || trace_[next_planned_].bytes != PlannedBytes(bytes)) {
    throw Error(ErrorCode::kUnsupported,
                "CUDA: work that takes other memory when it is done again cannot be recorded");
  }
  const PlannedBlock& block = trace_[next_planned_++];
  return block.end == PlannedBlock::kNever ? nullptr : planned_ + block.offset;
}

bool CachingMemory::InPieceLocked(const std::byte* data) const {
  return std::any_of(pieces_.begin(), pieces_.end(), [&](const auto& piece) {
    return data >= piece.first && data < piece.first + piece.second;
  });
}

void CachingMemory::Free(std::byte* data, int64_t bytes) noexcept {
  const int64_t size = SizeClass(bytes);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (InPieceLocked(data)) return;
  if (recording_) {
    if (const auto traced = traced_.find(data); traced != traced_.end()) {
      trace_[traced->second].end = events_++;
      traced_.erase(traced);
    }
    recorded_[size].push_back(data);
    return;
  }
  free_[size].push_back(data);
  use_.in_use -= size;
  use_.cached += size;
}

void CachingMemory::BeginRecording() {
  const std::lock_guard<std::mutex> lock(mutex_);
  recording_ = true;
  most_before_ = use_.most_in_use;
}

CachingMemory::Recorded CachingMemory::EndRecording() {
  const std::lock_guard<std::mutex> lock(mutex_);
  recording_ = false;
  planned_ = nullptr;
  traced_.clear();
  events_ = 0;
  Recorded recorded = {.blocks = std::exchange(recorded_, {}), .trace = std::exchange(trace_, {})};
  for (const auto& [size, list] : recorded.blocks) {
    recorded.bytes += size * static_cast<int64_t>(list.size());
  }
  return recorded;
}

void CachingMemory::GiveBack(const Blocks& blocks) noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& [size, list] : blocks) {
    auto& free = free_[size];
    free.insert(free.end(), list.begin(), list.end());
    const int64_t bytes = size * static_cast<int64_t>(list.size());
    use_.in_use -= bytes;
    use_.cached += bytes;
  }
}

std::byte* CachingMemory::BeginPlannedRecording(std::vector<PlannedBlock> plan, int64_t bytes) {
  MakeCurrent();
  const std::lock_guard<std::mutex> lock(mutex_);
  ReleaseLocked();
  use_.most_in_use = most_before_;  // nothing ever used what the trace was taken with
  planned_ = AllocateLocked(bytes);
  pieces_[planned_] = bytes;
  use_.in_use += bytes;
  use_.most_in_use = std::max(use_.most_in_use, use_.in_use);
  trace_ = std::move(plan);
  next_planned_ = 0;
  recording_ = true;
  return planned_;
}

void CachingMemory::GiveBackPiece(std::byte* piece) noexcept {
  cudaSetDevice(device_);
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = pieces_.find(piece);
  use_.in_use -= found->second;
  pieces_.erase(found);
  cudaFree(piece);
}

void CachingMemory::RequireNotRecording() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (recording_) {
    throw Error(ErrorCode::kUnsupported, "CUDA: a copy between host and device cannot be recorded");
  }
}

// cudaFree waits until the device has done what uses the block.
void CachingMemory::ReleaseLocked() noexcept {
  for (const auto& [size, blocks] : free_) {
    for (std::byte* block : blocks) cudaFree(block);
  }
  free_.clear();
  use_.cached = 0;
}

void CachingMemory::ReleaseCached() {
  MakeCurrent();
  const std::lock_guard<std::mutex> lock(mutex_);
  ReleaseLocked();
  use_.most_in_use = use_.in_use;
}

MemoryUse CachingMemory::use() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return use_;
}

CachingMemory::Stage& CachingMemory::NextStage() {
  Stage& stage = stages_[next_stage_];
  next_stage_ = 1 - next_stage_;
  if (stage.data == nullptr) {
    void* data = nullptr;
    Check(cudaMallocHost(&data, kStageBytes), "pinned memory");
    stage.data = static_cast<std::byte*>(data);
    Check(cudaEventCreateWithFlags(&stage.done, cudaEventDisableTiming), "event");
  } else {
    Check(cudaEventSynchronize(stage.done), "transfer");
  }
  return stage;
}

void CachingMemory::CopyFromHost(void* to, const void* from, int64_t bytes) {
  RequireNotRecording();
  MakeCurrent();
  const std::lock_guard<std::mutex> lock(staging_mutex_);
  for (int64_t begin = 0; begin < bytes; begin += kStageBytes) {
    const auto count = static_cast<size_t>(std::min(kStageBytes, bytes - begin));
    Stage& stage = NextStage();
    std::memcpy(stage.data, static_cast<const std::byte*>(from) + begin, count);
    Check(cudaMemcpyAsync(static_cast<std::byte*>(to) + begin, stage.data, count,
                          cudaMemcpyHostToDevice, stream_),
          "copy to the device");
    Check(cudaEventRecord(stage.done, stream_), "event");
  }
}

void CachingMemory::CopyToHost(void* to, const void* from, int64_t bytes) {
  RequireNotRecording();
  MakeCurrent();
  const std::lock_guard<std::mutex> lock(staging_mutex_);
  Stage* filled = nullptr;  // by the device, of the piece before
  int64_t filled_begin = 0;
  const auto take = [&](int64_t end) {
    if (filled == nullptr) return;
    Check(cudaEventSynchronize(filled->done), "copy to the host");
    std::memcpy(static_cast<std::byte*>(to) + filled_begin, filled->data,
                static_cast<size_t>(end - filled_begin));
  };
  for (int64_t begin = 0; begin < bytes; begin += kStageBytes) {
    const int64_t count = std::min(kStageBytes, bytes - begin);
    Stage& stage = NextStage();
    Check(cudaMemcpyAsync(stage.data, static_cast<const std::byte*>(from) + begin,
                          static_cast<size_t>(count), cudaMemcpyDeviceToHost, stream_),
          "copy to the host");
    Check(cudaEventRecord(stage.done, stream_), "event");
    take(begin);
    filled = &stage;
    filled_begin = begin;
  }
  take(bytes);
  faults_.Throw();
}

void CachingMemory::Copy(const Shape& shape, const DeviceWindow& from, const DeviceWindow& to) {
  MakeCurrent();
  if (shape.elements() == 0) return;
  const Window window = Collapsed(shape, &from, to);
  if (from.dtype != to.dtype) {
    VisitFloating(from.dtype, [&](auto source) {
      VisitFloating(to.dtype, [&](auto target) {
        using From = decltype(source);
        using To = decltype(target);
        if constexpr (!std::is_same_v<From, To>) {
          LaunchCopy<From, To, false>(stream_, from.data, to.data, window);
        }
      });
    });
    return;
  }
  const int64_t size = DTypeSize(to.dtype);
  if (Dense(window)) {
    Check(cudaMemcpyAsync(to.data, from.data, static_cast<size_t>(window.elements * size),
                          cudaMemcpyDeviceToDevice, stream_),
          "copy");
  } else {
    CopyBytes(stream_, size, from.data, to.data, window);
  }
}

void CachingMemory::SetZero(const Shape& shape, const DeviceWindow& to) {
  MakeCurrent();
  if (shape.elements() == 0) return;
  const Window window = Collapsed(shape, nullptr, to);
  const int64_t size = DTypeSize(to.dtype);
  if (Dense(window)) {
    Check(cudaMemsetAsync(to.data, 0, static_cast<size_t>(window.elements * size), stream_),
          "clear");
  } else {
    CopyBytes(stream_, size, nullptr, to.data, window);
  }
}

}  // namespace adder::cuda
