// Whether launches may overlap.
#include <map>
#include <mutex>
#include <utility>

#include "adder/backend/cuda/launch.cuh"

namespace adder::cuda {
namespace {

constexpr int kHopper = 9;                 // compute capability, major
constexpr int kHopperCode = 90;            // the same of code
constexpr int kGraphsKeepOverlap = 12030;  // CUDA 12.3

// Only shows what the module's kernels were compiled for.
__global__ void MarkerKernel() {}

bool CanOverlap(int device) {
  int major = 0;
  int driver = 0;
  Check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
        "device attributes");
  Check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  cudaFuncAttributes code = {};
  Check(cudaFuncGetAttributes(&code, MarkerKernel), "the module's code");
  // Code for older devices neither waits nor says that the next kernel may begin.
  return major >= kHopper && code.ptxVersion >= kHopperCode && driver >= kGraphsKeepOverlap &&
         CUDART_VERSION >= kGraphsKeepOverlap;
}

}  // namespace

bool LaunchesOverlap(const Context& context, const void* kernel) {
  static std::mutex mutex;
  static std::map<std::pair<int, const void*>, bool> known;
  const std::lock_guard<std::mutex> lock(mutex);
  const std::pair<int, const void*> key(context.device(), kernel);
  const auto found = known.find(key);
  if (found != known.end()) return found->second;
  const bool can = CanOverlap(context.device());
  if (can) {
    // A multiprocessor takes a kernel that wants more shared memory than it is set up for only once
    // it is idle: all are set up for the most.
    Check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                               cudaSharedmemCarveoutMaxShared),
          "a kernel's shared memory");
  }
  return known[key] = can;
}

}  // namespace adder::cuda
