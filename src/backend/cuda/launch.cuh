// Launches that overlap: the blocks of a kernel take their places on the device, and begin to fetch
// weights, while the kernel before it still runs (programmatic dependent launch, from compute
// capability 9.0 on). Generation is a chain of hundreds of kernels of a few microseconds each,
// whose beginnings and ends would otherwise cost as much as their work. Recorded graphs keep the
// overlap.
//
// The rules for a kernel that LaunchOverlapped starts:
//
// - Before WaitForKernelsBefore() it reads and writes no global memory, weights included: kernels
//   before it may not have written it yet, or may still read it. Its own arguments, arithmetic on
//   addresses, shared memory and Prefetch are all it may use. Prefetching into L2 is harmless: L2
//   is where all multiprocessors' writes meet.
// - Every block waits before it ends, so that "the kernel before has ended" holds for all kernels
//   before that one, too.
// - LetNextKernelBegin() says that the next kernel's blocks may take what room is left. It promises
//   nothing about memory: the next kernel waits for the end of this one whenever it was called. A
//   kernel that reads little calls it first, so that those that follow come into their places; one
//   that reads much calls it after the wait, which keeps the kernels of only one stretch of work
//   prefetching at a time. Without the call the next kernel begins when this one has ended.
//
// Kernels launched as usual, copies and events wait for the end of all that is before them.
#pragma once

#include <cstdint>
#include <utility>

#include "adder/backend/cuda/runtime.cuh"

namespace adder::cuda {

// Whether launches of a kernel overlap, by what the device, its driver and the module's code can.
bool LaunchesOverlap(const Context& context, const void* kernel);

struct LaunchShape {
  const char* name;  // for errors
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;
};

template <class... Parameters, class... Arguments>
void LaunchOverlapped(Context& context, const LaunchShape& shape, void (*kernel)(Parameters...),
                      Arguments&&... arguments) {
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = context.stream();
  config.attrs = &overlap;
  config.numAttrs = LaunchesOverlap(context, reinterpret_cast<const void*>(kernel)) ? 1 : 0;
  Check(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...), shape.name);
}

// Returns when all kernels before this one have ended and what they wrote is visible.
__device__ inline void WaitForKernelsBefore() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ inline void LetNextKernelBegin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Begins to fetch the line with this address into L2.
__device__ inline void Prefetch(const void* address) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}

// The same for `bytes` from an address on, both multiples of 16.
__device__ inline void PrefetchBytes(const void* address, uint32_t bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(address), "r"(bytes));
#endif
}

}  // namespace adder::cuda
