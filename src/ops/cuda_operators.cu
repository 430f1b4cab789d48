// The CUDA module's table of operators.
#include "adder/ops/cuda_operators.h"

namespace adder {
namespace cuda {

void RmsNorm(const RmsNormArguments& a);
void RmsNormBackward(const RmsNormBackwardArguments& a);
void CausalConv1d(const CausalConv1dArguments& a);
void CausalConv1dBackward(const CausalConv1dBackwardArguments& a);
void SelectiveScan(const SelectiveScanArguments& a);
void SelectiveScanBackward(const SelectiveScanBackwardArguments& b);
void LayerNorm(const LayerNormArguments& a);
void LayerNormBackward(const LayerNormBackwardArguments& a);
void GatedRmsNorm(const GatedRmsNormArguments& a);
void GatedRmsNormBackward(const GatedRmsNormBackwardArguments& a);
void Rotary(const RotaryArguments& a);

}  // namespace cuda

const CudaOperators kCudaOperators = {
    .rms_norm = cuda::RmsNorm,
    .rms_norm_backward = cuda::RmsNormBackward,
    .causal_conv1d = cuda::CausalConv1d,
    .causal_conv1d_backward = cuda::CausalConv1dBackward,
    .selective_scan = cuda::SelectiveScan,
    .selective_scan_backward = cuda::SelectiveScanBackward,
    .layer_norm = cuda::LayerNorm,
    .layer_norm_backward = cuda::LayerNormBackward,
    .gated_rms_norm = cuda::GatedRmsNorm,
    .gated_rms_norm_backward = cuda::GatedRmsNormBackward,
    .rotary = cuda::Rotary,
};

}  // namespace adder
