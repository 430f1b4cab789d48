// Finds and loads the CUDA module.
#include "adder/backend/cuda/module.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "adder/core/error.h"
#include "adder/core/version.h"
#include "adder/ops/cuda_operators.h"

namespace adder {
namespace cuda {
namespace {

constexpr const char* kFileName = "libadder_cuda.so";

std::vector<std::string> Candidates() {
  if (const char* named = std::getenv("ADDER_CUDA_MODULE"); named != nullptr && *named != '\0') {
    return {named};
  }
  std::vector<std::string> candidates;
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  if (!error) {
    const std::filesystem::path folder = program.parent_path();
    candidates.push_back(folder / kFileName);
    candidates.push_back(folder.parent_path() / ADDER_INSTALL_LIBDIR / "adder" / kFileName);
  }
  candidates.push_back(std::filesystem::path(ADDER_INSTALL_FULL_LIBDIR) / "adder" / kFileName);
  candidates.emplace_back(kFileName);
  return candidates;
}

[[noreturn]] void Unsupported(const std::string& message) {
  throw Error(ErrorCode::kUnsupported, message);
}

// The first candidate that is there. One that is there but cannot be loaded is reported, not passed
// over.
void* OpenLibrary(std::string* path) {
  for (const std::string& candidate : Candidates()) {
    const bool by_system = candidate.find('/') == std::string::npos;
    std::error_code error;
    if (!by_system && !std::filesystem::exists(candidate, error)) continue;
    *path = candidate;
    if (void* library = dlopen(candidate.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
    const char* reason = dlerror();
    if (!by_system) Unsupported(fmt::format("CUDA: {}: {}", candidate, reason));
  }
  Unsupported(
      fmt::format("CUDA: {} is not installed; this Adder computes on the CPU only", kFileName));
}

const Module& Load() {
  std::string path;
  void* library = OpenLibrary(&path);  // never closed
  using Entry = const ModuleHeader* (*)();
  const auto entry = reinterpret_cast<Entry>(dlsym(library, kModuleSymbol));
  if (entry == nullptr) Unsupported(fmt::format("CUDA: {} is no module of Adder", path));
  const ModuleHeader& header = *entry();
  if (header.version != Version() || header.operators_size != sizeof(CudaOperators)) {
    Unsupported(fmt::format("CUDA: {} belongs to Adder {}, expected the build of this Adder {}",
                            path, header.version, Version()));
  }
  return *header.module;
}

}  // namespace

const Module& GetModule() {
  static const Module& module = Load();  // again on the next call where it throws
  return module;
}

}  // namespace cuda

DeviceMemory& DeviceMemoryOf(Device device) {
  if (device.type != DeviceType::kCuda) {
    throw Error(ErrorCode::kUnsupported, ToString(device) + " has no memory of its own");
  }
  return cuda::GetModule().Memory(device.index);
}

}  // namespace adder
