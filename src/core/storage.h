// The bytes behind tensors: an owned allocation, or foreign memory kept alive by an owner.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "adder/core/device.h"

namespace adder {

class DeviceMemory;

// Alignment of every allocation: a cache line, and the widest vector register.
inline constexpr size_t kStorageAlignment = 64;

class Storage {
 public:
  // Uninitialised memory on the device. Throws kOutOfMemory, or kUnsupported, with the reason, for
  // a device that is not there.
  static std::shared_ptr<Storage> Allocate(int64_t bytes, Device device);
  // Memory that somebody else owns (a mapped file, a caller's buffer); `owner` is held as long as
  // the storage lives.
  static std::shared_ptr<Storage> Wrap(void* data, int64_t bytes,
                                       std::shared_ptr<const void> owner);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  Device device() const { return device_; }

 private:
  Storage() = default;

  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
  Device device_;
  DeviceMemory* memory_ = nullptr;  // where data_ is from, unless from the host
  bool owned_ = false;
  std::shared_ptr<const void> owner_;
};

// Large host blocks are kept for reuse when freed, because a training step asks for the same sizes
// again and fresh pages cost more than the work done in them. The cache never holds more bytes than
// were in use at any one time. Returns all of it to the system, and forgets what was in use.
void ReleaseCachedHostMemory();
// Bytes that the cache holds now.
int64_t CachedHostBytes();
// The most bytes of large blocks that were in use at once since the cache was last released. 0 in
// builds without the cache.
int64_t MostHostBytes();

}  // namespace adder
