// The operators that the CUDA module implements: one table of functions, filled in the module
// (cuda_operators.cu) and called by each operator's dispatch. Arguments are checked already;
// tensors are on the device that each function's arguments name.
#pragma once

#include "adder/ops/activation/activation_cuda.h"
#include "adder/ops/adamw/adamw_cuda.h"
#include "adder/ops/attention/attention_cuda.h"
#include "adder/ops/attention/key_value_cache_cuda.h"
#include "adder/ops/causal_conv1d/causal_conv1d_cuda.h"
#include "adder/ops/elementwise/elementwise_cuda.h"
#include "adder/ops/embedding/embedding_cuda.h"
#include "adder/ops/gated_rms_norm/gated_rms_norm_cuda.h"
#include "adder/ops/layer_norm/layer_norm_cuda.h"
#include "adder/ops/linear/linear_cuda.h"
#include "adder/ops/mamba_step/mamba_step_cuda.h"
#include "adder/ops/most_likely/most_likely_cuda.h"
#include "adder/ops/rms_norm/rms_norm_cuda.h"
#include "adder/ops/rotary/rotary_cuda.h"
#include "adder/ops/sample/sample_cuda.h"
#include "adder/ops/selective_scan/selective_scan_cuda.h"
#include "adder/ops/softmax_cross_entropy/softmax_cross_entropy_cuda.h"
#include "adder/ops/ssd/ssd_cuda.h"

namespace adder {

struct CudaOperators {
  void (*rms_norm)(const cuda::RmsNormArguments&);
  void (*rms_norm_backward)(const cuda::RmsNormBackwardArguments&);
  void (*causal_conv1d)(const cuda::CausalConv1dArguments&);
  void (*causal_conv1d_backward)(const cuda::CausalConv1dBackwardArguments&);
  void (*selective_scan)(const cuda::SelectiveScanArguments&);
  void (*selective_scan_backward)(const cuda::SelectiveScanBackwardArguments&);
  void (*layer_norm)(const cuda::LayerNormArguments&);
  void (*layer_norm_backward)(const cuda::LayerNormBackwardArguments&);
  void (*gated_rms_norm)(const cuda::GatedRmsNormArguments&);
  void (*gated_rms_norm_backward)(const cuda::GatedRmsNormBackwardArguments&);
  void (*rotary)(const cuda::RotaryArguments&);
  void (*elementwise)(const cuda::ElementwiseArguments&);
  void (*embedding)(const cuda::EmbeddingArguments&);
  void (*embedding_backward)(const cuda::EmbeddingBackwardArguments&);
  void (*adamw)(const cuda::AdamWArguments&, const cuda::AdamWStep&);
  void (*clipped_adamw)(const cuda::ClippedAdamWArguments&);
  double (*sum_of_squares)(const cuda::FloatSpansArguments&);
  void (*set_zero)(const cuda::FloatSpansArguments&);
  void (*round)(const cuda::RoundArguments&);
  void (*add_to)(const cuda::AddToArguments&);
  void (*add_product)(const cuda::AddProductArguments&);
  void (*negative_exp)(const cuda::NegativeExpArguments&);
  void (*most_likely)(const cuda::MostLikelyArguments&);
  void (*sample)(const cuda::SampleArguments&);
  void (*copy_row_spans)(const cuda::CopyRowSpansArguments&);
  void (*append_rows)(const cuda::AppendRowsArguments&);
  void (*attention)(const cuda::AttentionProblem&);
  void (*attention_backward)(const cuda::AttentionBackwardProblem&);
  void (*linear)(const cuda::LinearArguments&);
  void (*linear_backward)(const cuda::LinearBackwardArguments&);
  bool (*mamba_step)(const cuda::MambaStepArguments&);
  void (*softmax_cross_entropy)(const cuda::SoftmaxCrossEntropyArguments&);
  void (*softmax_cross_entropy_backward)(const cuda::SoftmaxCrossEntropyBackwardArguments&);
  void (*ssd)(const cuda::SsdArguments&);
  void (*ssd_backward)(const cuda::SsdBackwardArguments&);
};

extern const CudaOperators kCudaOperators;  // in the module only

}  // namespace adder
