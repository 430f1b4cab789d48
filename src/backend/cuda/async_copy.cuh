// Copies from global to shared memory that go on while the thread does other work (cp.async,
// compute capability 8.0). Both addresses are multiples of the bytes copied.
#pragma once

#include <cstdint>

namespace adder::cuda {

__device__ inline uint32_t SharedAddress(const void* data) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(data));
}

// Begins to copy 16 bytes, to an address in shared memory or a pointer.
__device__ inline void CopyPiece(uint32_t to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
__device__ inline void CopyPiece(void* to, const void* from) { CopyPiece(SharedAddress(to), from); }
// The same, or zeros where not `valid`, when nothing is read.
__device__ inline void CopyPiece(uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}
__device__ inline void CopyPiece(void* to, const void* from, bool valid) {
  CopyPiece(SharedAddress(to), from, valid);
}
// The same of 4 bytes.
__device__ inline void CopyWord(void* to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(SharedAddress(to)), "l"(from)
               : "memory");
}
__device__ inline void CopyWord(void* to, const void* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(SharedAddress(to)), "l"(from),
               "r"(valid ? 4 : 0)
               : "memory");
}

// Ends a group of copies; waits for all groups of the thread but the newest kPending.
__device__ inline void CommitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ inline void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace adder::cuda
