// mamba_step: its definition, by those of the operators that it is made of, in f64.
#include "adder/ops/linear/linear.h"
#include "adder/ops/mamba_step/mamba_step_backends.h"

namespace adder::reference {
namespace {

struct Operators {
  static void RmsNorm(const RmsNormInputs& inputs, const RmsNormOutputs& outputs) {
    reference::RmsNorm(inputs, outputs);
  }
  static void Linear(const Tensor& x, const Tensor& W, const Tensor& bias, const Tensor& y) {
    reference::Linear(x, W, bias, y);
  }
  static void CausalConv1d(const CausalConv1dInputs& inputs, const CausalConv1dOutputs& outputs) {
    reference::CausalConv1d(inputs, outputs);
  }
  static void SelectiveScan(const SelectiveScanInputs& inputs,
                            const SelectiveScanOutputs& outputs) {
    reference::SelectiveScan(inputs, outputs);
  }
};

}  // namespace

void MambaStep(const MambaStepInputs& inputs, const MambaStepWeights& weights,
               const MambaStepMemory& memory, const MambaStepOutputs& outputs) {
  CheckMambaStep(inputs, weights, memory, outputs, {DType::kF64}, {DType::kF64}, DType::kF64);
  MambaStepByParts<Operators>(inputs, weights, memory, outputs);
}

}  // namespace adder::reference
