// What the core asks of a device other than the CPU: memory, and copies into, out of and within it.
// The core only declares it; the device's backend implements it.
#pragma once

#include <array>
#include <cstdint>

#include "adder/core/device.h"
#include "adder/core/dtype.h"
#include "adder/core/shape.h"

namespace adder {

// A strided window on device memory. Strides count elements.
struct DeviceWindow {
  void* data = nullptr;
  std::array<int64_t, kMaxRank> strides = {};
  DType dtype = DType::kF32;
};

// The memory of one device. Work on a device happens in the order it was asked for; what the host
// asks for returns before the device has done it, except that CopyToHost returns when the bytes are
// there. All throw kUnsupported with the driver's reason when the device fails. May be called from
// several threads.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  // Uninitialised, aligned to 256 bytes. Throws kOutOfMemory.
  virtual std::byte* Allocate(int64_t bytes) = 0;
  // What Allocate gave, with the same size. Work already asked for may still use it.
  virtual void Free(std::byte* data, int64_t bytes) noexcept = 0;

  // The host's bytes may be changed as soon as this returns.
  virtual void CopyFromHost(void* to, const void* from, int64_t bytes) = 0;
  virtual void CopyToHost(void* to, const void* from, int64_t bytes) = 0;
  // Within the device: converted where the dtypes differ, in which case both are floating.
  // Quantized tensors are passed as the bytes that they are.
  virtual void Copy(const Shape& shape, const DeviceWindow& from, const DeviceWindow& to) = 0;
  virtual void SetZero(const Shape& shape, const DeviceWindow& to) = 0;

 protected:
  ~DeviceMemory() = default;
};

// The device's memory. Throws kUnsupported, saying why, where there is no such device.
DeviceMemory& DeviceMemoryOf(Device device);

}  // namespace adder
