// Names of devices, and what the CUDA module says of its own.
#include "adder/backend/devices.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "adder/core/error.h"

namespace adder {

FoundCudaDevices FindCudaDevices() {
  FoundCudaDevices found;
  try {
    found.devices = cuda::GetModule().Devices();
    const auto usable = [](const cuda::DeviceInfo& device) { return device.unusable.empty(); };
    if (std::none_of(found.devices.begin(), found.devices.end(), usable)) {
      found.reason = found.devices.front().unusable;
    }
  } catch (const Error& error) {
    found.reason = error.what();
  }
  return found;
}

Device ParseDevice(std::string_view name) {
  constexpr std::string_view kPrefix = "cuda:";
  if (name == "cpu") return {};
  if (name == "auto") {
    for (const cuda::DeviceInfo& device : FindCudaDevices().devices) {
      if (device.unusable.empty()) return {DeviceType::kCuda, device.index};
    }
    return {};
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
  const std::vector<cuda::DeviceInfo> devices = cuda::GetModule().Devices();
  if (static_cast<size_t>(index) >= devices.size()) {
    throw Error(
        ErrorCode::kUnsupported,
        fmt::format("CUDA: there is no device {}, the machine has {}", index, devices.size()));
  }
  const std::string& unusable = devices[static_cast<size_t>(index)].unusable;
  if (!unusable.empty()) throw Error(ErrorCode::kUnsupported, unusable);
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
