// What lets launches overlap.
#include <algorithm>
#include <map>
#include <mutex>

#include "adder/backend/cuda/launch.cuh"

namespace adder::cuda {
namespace {

constexpr int kHopper = 9;                   // compute capability, major
constexpr int kHopperCode = 90;              // the same of code
constexpr int kGraphsKeepOverlap = 12030;    // CUDA 12.3
constexpr int kLaunchesSetCarveout = 12080;  // CUDA 12.8

// Only shows what the module's kernels were compiled for.
__global__ void MarkerKernel() {}

// The attributes that launches on a device have.
int CountOf(int device) {
  int major = 0;
  int driver = 0;
  Check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
        "device attributes");
  Check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  const int version = std::min(driver, CUDART_VERSION);
  cudaFuncAttributes code = {};
  Check(cudaFuncGetAttributes(&code, MarkerKernel), "the module's code");
  // Code for older devices neither waits nor says that the next kernel may begin.
  if (major < kHopper || code.ptxVersion < kHopperCode || version < kGraphsKeepOverlap) return 0;
  return version < kLaunchesSetCarveout ? 1 : 2;
}

}  // namespace

int OverlapAttributes(const Context& context, cudaLaunchAttribute* attributes) {
  static std::mutex mutex;
  static std::map<int, int> counts;
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
#if CUDART_VERSION >= 12080
  // A multiprocessor takes a kernel that wants more shared memory than it is set up for only once
  // it is idle: all are set up for the most.
  attributes[1].id = cudaLaunchAttributePreferredSharedMemoryCarveout;
  attributes[1].val.sharedMemCarveout = cudaSharedmemCarveoutMaxShared;
#endif
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = counts.find(context.device());
  if (found != counts.end()) return found->second;
  return counts[context.device()] = CountOf(context.device());
}

}  // namespace adder::cuda
