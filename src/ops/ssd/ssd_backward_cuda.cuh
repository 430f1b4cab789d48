// What the CUDA kernels of ssd's backward share. After the walk that finds the gradient of the
// state after every chunk, chunks are independent: a block takes a chunk, a group and some of its
// heads, one after the other, and sums their parts of dB and dC. With
//     v[t, s] = (dy[t]·x[s]) · (C[t]·B[s]) · e^(a[t] - a[s]),  s ≤ t,
// what reaches row t from row s, the gradient of dt' as the weight of x[s] is Σ_t v[t, s], and that
// of a row's dt'·A the sum of v · dt' over all pairs s < row ≤ t: differences of sums over rows and
// columns, to be summed over the rows of the chunk. A last kernel does that for all heads.
#pragma once

#include "adder/ops/ssd/ssd_cuda.cuh"

namespace adder::cuda {

// What is found for a row and head.
struct alignas(16) SsdRowGradient {
  float arriving;  // adds to the gradient of dt'·A of this row and all before it,
  float leaving;   // of all after it,
  float own;       // of this row
  float step;      // the gradient of dt' as x's weight
};

struct SsdBackwardWork {
  SsdBackwardArguments b;
  const SsdChunk* chunks;
  const SsdStep* steps;         // [chunks, H, kSsdRows]
  const float* products;        // [chunks, G, kSsdProducts]
  const void* state_gradients;  // [chunks, H, P, N]: after each chunk, in the activation dtype
  SsdRowGradient* rows;         // [chunks, H, kSsdRows]
  float* dD;                    // [chunks, H]
  int64_t splits;               // of a group's heads
  float* dB;                    // [splits, rows, G·N] each
  float* dC;
};

namespace tensor {
void LaunchSsdBackward(Context& context, const SsdBackwardWork& work, int64_t chunks);
}  // namespace tensor
namespace plain {
void LaunchSsdBackward(Context& context, const SsdBackwardWork& work, int64_t chunks);
}  // namespace plain

}  // namespace adder::cuda
