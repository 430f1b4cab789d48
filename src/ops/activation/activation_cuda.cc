// activation on a CUDA device: hands the tensors to the module.
#include "adder/backend/cuda/module.h"
#include "adder/ops/activation/activation_backends.h"
#include "adder/ops/cuda_operators.h"

namespace adder::cuda {

void Elementwise(cpu::ElementwiseFunction function, const std::array<Tensor, 3>& inputs,
                 const std::array<Tensor, 2>& outputs) {
  GetModule().operators().elementwise(
      {.device = inputs[0].device().index,
       .function = function,
       .rows = inputs[0].dim(0),
       .columns = inputs[0].dim(1),
       .in = {RowsOf(inputs[0]), RowsOf(inputs[1]), RowsOf(inputs[2])},
       .out = {RowsOf(outputs[0]), RowsOf(outputs[1])}});
}

}  // namespace adder::cuda
