// Faults: a word of the host's memory that kernels write to, and the messages.
#include <algorithm>

#include "adder/backend/cuda/faults.cuh"
#include "adder/backend/cuda/runtime.cuh"
#include "adder/core/error.h"

namespace adder::cuda {

Faults::Faults() {
  void* data = nullptr;
  Check(cudaHostAlloc(&data, sizeof(uint32_t), cudaHostAllocMapped), "pinned memory");
  word_ = static_cast<uint32_t*>(data);
  *word_ = 0;
}

Fault Faults::Of(std::string_view message) {
  const std::lock_guard<std::mutex> lock(mutex_);
  auto found = std::find(messages_.begin(), messages_.end(), message);
  if (found == messages_.end()) found = messages_.insert(found, std::string(message));
  return {word_, static_cast<uint32_t>(found - messages_.begin() + 1)};
}

void Faults::Throw() {
  if (*word_ == 0) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  const uint32_t number = *word_;
  if (number == 0) return;
  *word_ = 0;
  throw Error(ErrorCode::kInvalidArgument, messages_[number - 1]);
}

}  // namespace adder::cuda
