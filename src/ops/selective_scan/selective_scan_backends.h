// What the dispatch, the reference and the backends of selective_scan share: the argument checks
// and one function per backend. Not for callers of the operator.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "adder/ops/selective_scan/selective_scan.h"

namespace adder {

struct SelectiveScanShape {
  int64_t rows = 0;
  int64_t sequences = 0;
  int64_t channels = 0;  // D
  int64_t states = 0;    // N
  bool is_complex = false;
  int64_t groups = 1;  // G

  // Numbers in a channel's state: N, or 2·N.
  int64_t components() const { return is_complex ? 2 * states : states; }
  // Columns of B and C.
  int64_t projection() const { return groups * components(); }
  // [D, N(, 2)]
  Shape StateShape() const {
    return is_complex ? Shape({channels, states, 2}) : Shape({channels, states});
  }
  // [count, D, N(, 2)]
  Shape StateShape(int64_t count) const {
    return is_complex ? Shape({count, channels, states, 2}) : Shape({count, channels, states});
  }
};

// Throw kInvalidArgument unless all tensors agree. `activations`: dtypes that x and B may have;
// `parameters`: the dtype of A, D, dt_bias, interval, states and their gradients.
SelectiveScanShape CheckSelectiveScan(const SelectiveScanInputs& inputs,
                                      const SelectiveScanOutputs& outputs,
                                      std::initializer_list<DType> activations, DType parameters);
// The same but for chunk_states, which the reference doesn't take.
SelectiveScanShape CheckSelectiveScanBackward(const SelectiveScanInputs& inputs, const Tensor& dy,
                                              const Tensor& dhT,
                                              const SelectiveScanGradients& gradients,
                                              std::initializer_list<DType> activations,
                                              DType parameters);

namespace cpu {
// Arguments are checked already.
void SelectiveScan(const SelectiveScanShape& shape, const SelectiveScanInputs& inputs,
                   const SelectiveScanOutputs& outputs);
void SelectiveScanBackward(const SelectiveScanShape& shape, const SelectiveScanInputs& inputs,
                           const Tensor& chunk_states, const Tensor& dy, const Tensor& dhT,
                           const SelectiveScanGradients& gradients);
}  // namespace cpu

namespace cuda {
void SelectiveScan(const SelectiveScanShape& shape, const SelectiveScanInputs& inputs,
                   const SelectiveScanOutputs& outputs);
void SelectiveScanBackward(const SelectiveScanShape& shape, const SelectiveScanInputs& inputs,
                           const Tensor& chunk_states, const Tensor& dy, const Tensor& dhT,
                           const SelectiveScanGradients& gradients);
}  // namespace cuda

}  // namespace adder
