// The module's one exported symbol, and the Module behind it.
#include <string>
#include <utility>

#include "adder/backend/cuda/caching_memory.h"
#include "adder/backend/cuda/graph.cuh"
#include "adder/backend/cuda/module.h"
#include "adder/backend/cuda/runtime.cuh"
#include "adder/core/error.h"
#include "adder/ops/cuda_operators.h"

namespace adder::cuda {
namespace {

constexpr int kLeastMajor = 8;  // compute capability: bf16 arithmetic, asynchronous copies

class CudaModule final : public Module {
 public:
  std::vector<DeviceInfo> Devices() const override {
    int driver = 0;
    cudaDriverGetVersion(&driver);
    if (driver == 0) throw Error(ErrorCode::kUnsupported, "CUDA: no NVIDIA driver is installed");
    int count = 0;
    Check(cudaGetDeviceCount(&count), "looking for devices");
    std::vector<DeviceInfo> devices;
    for (int i = 0; i < count; ++i) {
      cudaDeviceProp properties;
      Check(cudaGetDeviceProperties(&properties, i), "device properties");
      std::string unusable;
      if (properties.major < kLeastMajor) {
        unusable = std::string("CUDA: device ") + std::to_string(i) + ", " + properties.name +
                   ", has compute capability " + std::to_string(properties.major) + "." +
                   std::to_string(properties.minor) + ", at least " + std::to_string(kLeastMajor) +
                   ".0 is needed";
      }
      devices.push_back({.index = i,
                         .name = properties.name,
                         .major = properties.major,
                         .minor = properties.minor,
                         .multiprocessors = properties.multiProcessorCount,
                         .memory_bytes = static_cast<int64_t>(properties.totalGlobalMem),
                         .l2_bytes = properties.l2CacheSize,
                         .unusable = std::move(unusable)});
    }
    if (devices.empty()) throw Error(ErrorCode::kUnsupported, "CUDA: no device was found");
    return devices;
  }
  int64_t FreeBytes(int device) const override {
    size_t free_bytes = 0;
    size_t total_bytes = 0;
    Check(cudaSetDevice(device), "cudaSetDevice");
    Check(cudaMemGetInfo(&free_bytes, &total_bytes), "memory in use");
    return static_cast<int64_t>(free_bytes);
  }
  Versions versions() const override {
    Versions versions;
    Check(cudaDriverGetVersion(&versions.driver), "driver version");
    Check(cudaRuntimeGetVersion(&versions.runtime), "runtime version");
    return versions;
  }
  DeviceMemory& Memory(int device) const override { return ContextOf(device).memory(); }
  MemoryUse Use(int device) const override { return ContextOf(device).memory().use(); }
  void ReleaseCached(int device) const override { ContextOf(device).memory().ReleaseCached(); }
  void Synchronize(int device) const override {
    Context& context = ContextOf(device);
    Check(cudaStreamSynchronize(context.stream()), "waiting for the device");
    context.faults().Throw();
  }
  void AllowTf32(int device, bool allow) const override { ContextOf(device).AllowTf32(allow); }
  double SecondsOf(int device, const std::function<void()>& work) const override {
    const Context& context = ContextOf(device);
    cudaEvent_t begin = nullptr;
    cudaEvent_t end = nullptr;
    Check(cudaEventCreate(&begin), "event");
    Check(cudaEventCreate(&end), "event");
    Check(cudaEventRecord(begin, context.stream()), "event");
    work();
    Check(cudaEventRecord(end, context.stream()), "event");
    Check(cudaEventSynchronize(end), "event");
    float milliseconds = 0;
    Check(cudaEventElapsedTime(&milliseconds, begin, end), "event");
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    return milliseconds * 1e-3;
  }
  std::unique_ptr<Graph> Record(int device, const std::function<void()>& work) const override {
    return RecordGraph(ContextOf(device), work);
  }
  void* Stream(int device) const override { return ContextOf(device).stream(); }
  const CudaOperators& operators() const override { return kCudaOperators; }
};

}  // namespace
}  // namespace adder::cuda

extern "C" __attribute__((visibility("default"))) const adder::cuda::ModuleHeader*
adder_cuda_module() {
  // Never destroyed: tensors of static lifetime may give memory back after main.
  static const auto* implementation = new adder::cuda::CudaModule;
  static const adder::cuda::ModuleHeader header = {ADDER_VERSION, sizeof(adder::CudaOperators),
                                                   implementation};
  return &header;
}
