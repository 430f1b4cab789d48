// Devices, contexts, tables: what runtime.cuh declares.
#include <nvtx3/nvToolsExt.h>

#include <array>
#include <cstring>
#include <mutex>
#include <string>
#include <utility>

#include "adder/backend/cuda/caching_memory.h"
#include "adder/backend/cuda/runtime.cuh"
#include "adder/core/error.h"

namespace adder::cuda {
namespace {

constexpr int kMostDevices = 64;
constexpr size_t kMostTables = 64;

}  // namespace

void Check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // what is thrown here is not the next launch's error
  throw Error(
      status == cudaErrorMemoryAllocation ? ErrorCode::kOutOfMemory : ErrorCode::kUnsupported,
      std::string("CUDA: ") + what + ": " + cudaGetErrorString(status));
}

struct Context::KeptTable {
  std::vector<std::byte> bytes;
  std::byte* data = nullptr;
  uint64_t used = 0;
  int holders = 0;
};

Context::Context(int device) : device_(device) {
  Check(cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount, device),
        "device attributes");
  Check(
      cudaDeviceGetAttribute(&most_shared_bytes_, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
      "device attributes");
  Check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream");
  memory_ = new CachingMemory(device, stream_, faults_);
}

const void* Context::Table(const void* data, int64_t bytes) {
  const auto size = static_cast<size_t>(bytes);
  const std::lock_guard<std::mutex> lock(tables_mutex_);
  ++uses_;
  KeptTable* oldest = nullptr;
  for (size_t i = 0; i < tables_.size(); ++i) {
    KeptTable& table = tables_[i];
    if (table.bytes.size() == size && std::memcmp(table.bytes.data(), data, size) == 0) {
      table.used = uses_;
      if (holding_) {
        ++table.holders;
        held_.push_back(i);
      }
      return table.data;
    }
    const bool fresh = table.used + kFreshTables > uses_;
    if (table.holders == 0 && !fresh && (oldest == nullptr || table.used < oldest->used)) {
      oldest = &table;
    }
  }
  if (holding_) {
    throw Error(ErrorCode::kUnsupported,
                "CUDA: work that was not done just before cannot be recorded");
  }
  // Whole before it is kept: what fails on the way leaves the tables as they were.
  const auto* from = static_cast<const std::byte*>(data);
  KeptTable made;
  made.bytes.assign(from, from + size);
  made.used = uses_;
  made.data = memory_->Allocate(bytes);
  try {
    memory_->CopyFromHost(made.data, data, bytes);
    if (tables_.size() < kMostTables || oldest == nullptr) oldest = &tables_.emplace_back();
  } catch (...) {
    memory_->Free(made.data, bytes);
    throw;
  }
  if (oldest->data != nullptr) {
    memory_->Free(oldest->data, static_cast<int64_t>(oldest->bytes.size()));
  }
  *oldest = std::move(made);
  return oldest->data;
}

void Context::BeginHoldingTables() {
  const std::lock_guard<std::mutex> lock(tables_mutex_);
  holding_ = true;
}

std::vector<size_t> Context::EndHoldingTables() {
  const std::lock_guard<std::mutex> lock(tables_mutex_);
  holding_ = false;
  return std::move(held_);
}

void Context::ReleaseTables(const std::vector<size_t>& held) {
  const std::lock_guard<std::mutex> lock(tables_mutex_);
  for (const size_t i : held) --tables_[i].holders;
}

Context& ContextOf(int device) {
  static std::mutex mutex;
  static std::array<Context*, kMostDevices> contexts = {};
  const std::lock_guard<std::mutex> lock(mutex);
  if (device < 0 || device >= kMostDevices) {
    throw Error(ErrorCode::kUnsupported, "CUDA: there is no device " + std::to_string(device));
  }
  Context*& context = contexts[static_cast<size_t>(device)];
  Check(cudaSetDevice(device), "cudaSetDevice");
  if (context == nullptr) context = new Context(device);
  return *context;
}

Scratch::Scratch(Context& context, int64_t bytes)
    : context_(context), data_(context.memory().Allocate(bytes)), bytes_(bytes) {}
Scratch::~Scratch() { context_.memory().Free(data_, bytes_); }

ProfilerRange::ProfilerRange(const char* name) { nvtxRangePushA(name); }
ProfilerRange::~ProfilerRange() { nvtxRangePop(); }

}  // namespace adder::cuda
