// The devices of this machine, by the names that users give them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "adder/backend/cuda/module.h"
#include "adder/core/device.h"

namespace adder {

// The CUDA devices, or why none can be used. Does not throw.
struct FoundCudaDevices {
  std::vector<cuda::DeviceInfo> devices;  // those that cannot be used, too
  std::string reason;                     // empty where one can
};
FoundCudaDevices FindCudaDevices();

// "cpu"; "cuda", which is "cuda:0"; "cuda:1"; "auto": the first CUDA device that can be used, or
// else the CPU. Throws kInvalidArgument for any other name, kUnsupported with the reason for a CUDA
// device that is not there or cannot be used.
Device ParseDevice(std::string_view name);

// What long texts are cut into: rows of one forward of a model that keep the device busy and take
// little of its memory.
int64_t UsualRows(Device device);

// Lets products of f32 matrices on a CUDA device round their factors to TF32, which has f32's range
// and 10 bits of its 23 after the point: its tensor cores multiply that several times as fast. For
// all models on that device, until it is forbidden again; at first it is. Sums, and everything but
// products of more than a few rows, stay f32. Throws kInvalidArgument for the CPU, which has none.
void AllowTf32(Device device, bool allow = true);

// Returns when all work asked of the device is done; at once for the CPU.
void Synchronize(Device device);

}  // namespace adder
