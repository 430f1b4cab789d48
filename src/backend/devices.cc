// Names of devices, and what the CUDA module says of its own.
#include "adder/backend/devices.h"

#include <fmt/format.h>

#include <charconv>

#include "adder/core/error.h"

namespace adder {

FoundCudaDevices FindCudaDevices() {
  FoundCudaDevices found;
  try {
    found.devices = cuda::GetModule().Devices();
  } catch (const Error& error) {
    found.reason = error.what();
  }
  return found;
}

Device ParseDevice(std::string_view name) {
  constexpr std::string_view kPrefix = "cuda:";
  if (name == "cpu") return {};
  if (name == "auto") {
    return FindCudaDevices().devices.empty() ? Device{} : Device{DeviceType::kCuda, 0};
  }
  int index = 0;
  if (name != "cuda") {
    const std::string_view number = name.substr(name.starts_with(kPrefix) ? kPrefix.size() : 0);
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), index);
    if (!name.starts_with(kPrefix) || error != std::errc() || index < 0 ||
        end != number.data() + number.size()) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("there is no device '{}', expected cpu, cuda, cuda:N or auto", name));
    }
  }
  const auto devices = cuda::GetModule().Devices().size();
  if (static_cast<size_t>(index) >= devices) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("CUDA: there is no device {}, the machine has {}", index, devices));
  }
  return {DeviceType::kCuda, index};
}

int64_t UsualRows(Device device) { return device.type == DeviceType::kCpu ? 1024 : 16384; }

void AllowTf32(Device device, bool allow) {
  if (device.type == DeviceType::kCuda) return cuda::GetModule().AllowTf32(device.index, allow);
  if (!allow) return;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("TF32 is what CUDA devices multiply in, {} has none", ToString(device)));
}

void Synchronize(Device device) {
  if (device.type == DeviceType::kCuda) cuda::GetModule().Synchronize(device.index);
}

}  // namespace adder
