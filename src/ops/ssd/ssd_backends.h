// What the dispatch, the reference and the backends of ssd share: the argument checks and one
// function per backend. Not for callers of the operator.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "adder/ops/ssd/ssd.h"

namespace adder {

struct SsdShape {
  int64_t rows = 0;
  int64_t sequences = 0;
  int64_t heads = 0;     // H
  int64_t head_dim = 0;  // P
  int64_t groups = 1;    // G
  int64_t states = 0;    // N

  int64_t channels() const { return heads * head_dim; }
  int64_t projection() const { return groups * states; }
  // [count, H, P, N]
  Shape StateShape(int64_t count) const { return {count, heads, head_dim, states}; }
};

// Throw kInvalidArgument unless all tensors agree. `activations`: dtypes that x may have;
// `parameters`: the dtype of A, D, dt_bias, interval, states and their gradients.
SsdShape CheckSsd(const SsdInputs& inputs, const SsdOutputs& outputs,
                  std::initializer_list<DType> activations, DType parameters);
// The same but for chunk_states, which the reference doesn't take.
SsdShape CheckSsdBackward(const SsdInputs& inputs, const Tensor& dy, const Tensor& dhT,
                          const SsdGradients& gradients, std::initializer_list<DType> activations,
                          DType parameters);

namespace cpu {
// Arguments are checked already.
void Ssd(const SsdShape& shape, const SsdInputs& inputs, const SsdOutputs& outputs);
void SsdBackward(const SsdShape& shape, const SsdInputs& inputs, const Tensor& chunk_states,
                 const Tensor& dy, const Tensor& dhT, const SsdGradients& gradients);
}  // namespace cpu

namespace cuda {
// Arguments are checked already.
void Ssd(const SsdShape& shape, const SsdInputs& inputs, const SsdOutputs& outputs);
void SsdBackward(const SsdShape& shape, const SsdInputs& inputs, const Tensor& chunk_states,
                 const Tensor& dy, const Tensor& dhT, const SsdGradients& gradients);
}  // namespace cuda

}  // namespace adder
