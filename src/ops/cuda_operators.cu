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
void Elementwise(const ElementwiseArguments& a);
void Embedding(const EmbeddingArguments& a);
void EmbeddingBackward(const EmbeddingBackwardArguments& a);
void AdamW(const AdamWArguments& a, const AdamWStep& step);
void ClippedAdamW(const ClippedAdamWArguments& a);
double SumOfSquares(const FloatSpansArguments& a);
void SetZero(const FloatSpansArguments& a);
void Round(const RoundArguments& a);
void AddTo(const AddToArguments& a);
void AddProduct(const AddProductArguments& a);
void NegativeExp(const NegativeExpArguments& a);
void MostLikely(const MostLikelyArguments& a);
void Sample(const SampleArguments& a);
void CopyRowSpans(const CopyRowSpansArguments& a);
void AppendRows(const AppendRowsArguments& a);
void Attention(const AttentionProblem& p);
void AttentionBackward(const AttentionBackwardProblem& problem);
void Linear(const LinearArguments& a);
void LinearBackward(const LinearBackwardArguments& b);
bool MambaStep(const MambaStepArguments& a);
void SoftmaxCrossEntropy(const SoftmaxCrossEntropyArguments& a);
void SoftmaxCrossEntropyBackward(const SoftmaxCrossEntropyBackwardArguments& b);
void Ssd(const SsdArguments& a);
void SsdBackward(const SsdBackwardArguments& b);

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
    .elementwise = cuda::Elementwise,
    .embedding = cuda::Embedding,
    .embedding_backward = cuda::EmbeddingBackward,
    .adamw = cuda::AdamW,
    .clipped_adamw = cuda::ClippedAdamW,
    .sum_of_squares = cuda::SumOfSquares,
    .set_zero = cuda::SetZero,
    .round = cuda::Round,
    .add_to = cuda::AddTo,
    .add_product = cuda::AddProduct,
    .negative_exp = cuda::NegativeExp,
    .most_likely = cuda::MostLikely,
    .sample = cuda::Sample,
    .copy_row_spans = cuda::CopyRowSpans,
    .append_rows = cuda::AppendRows,
    .attention = cuda::Attention,
    .attention_backward = cuda::AttentionBackward,
    .linear = cuda::Linear,
    .linear_backward = cuda::LinearBackward,
    .mamba_step = cuda::MambaStep,
    .softmax_cross_entropy = cuda::SoftmaxCrossEntropy,
    .softmax_cross_entropy_backward = cuda::SoftmaxCrossEntropyBackward,
    .ssd = cuda::Ssd,
    .ssd_backward = cuda::SsdBackward,
};

}  // namespace adder
