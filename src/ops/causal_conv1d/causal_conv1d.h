// causal_conv1d: the short depthwise convolution in front of Mamba's scan (arXiv 2312.00752,
// section 3.4), with the activation fused.
//
//     y[t,d] = act(bias[d] + Σ_{k=0}^{width-1} weight[d,k] · x[t - (width-1) + k, d])
//
// Rows before a sequence's first are its initial window's: window row j (of width-1) is
// x[j - (width-1)]. The final window is the last width-1 rows seen, the initial window's included
// where the sequence is shorter. So a sequence cut anywhere and continued gives the same rows.
#pragma once

#include <cstdint>

#include "adder/core/sequence_layout.h"
#include "adder/core/tensor.h"

namespace adder {

enum class ConvActivation { kNone, kSilu };  // silu(v) = v · sigmoid(v)

// x: f32, bf16 or f16; the others f32. The reference takes f64 in all. Rows may be strided.
struct CausalConv1dInputs {
  Tensor x;               // [rows, D]
  Tensor weight;          // [D, width], 2 ≤ width ≤ 8
  Tensor bias;            // [D], or not given: 0
  Tensor initial_window;  // [sequences, width-1, D], or not given: 0
  SequenceLayout layout;
  ConvActivation activation = ConvActivation::kSilu;
};

struct CausalConv1dOutputs {
  // Neither may share memory with an input or the other, but for the windows.
  Tensor y;             // [rows, D], x's dtype
  Tensor final_window;  // [sequences, width-1, D], or not given; may be the initial window
};

// Those left undefined are not computed. dweight and dbias are added to, the others overwritten.
// None may share memory with what is read (dx not with x and dy, whose later rows are still needed)
// or with another.
struct CausalConv1dGradients {
  Tensor dx, dweight, dbias, d_initial_window;
};

// Throw kInvalidArgument when shapes or dtypes disagree or memory is shared, kUnsupported for a
// device without this operator.
void CausalConv1d(const CausalConv1dInputs& inputs, const CausalConv1dOutputs& outputs);
// dy: [rows, D], x's dtype. d_final_window: f32 [sequences, width-1, D], or not given: 0.
void CausalConv1dBackward(const CausalConv1dInputs& inputs, const Tensor& dy,
                          const Tensor& d_final_window, const CausalConv1dGradients& gradients);

namespace reference {
void CausalConv1d(const CausalConv1dInputs& inputs, const CausalConv1dOutputs& outputs);
void CausalConv1dBackward(const CausalConv1dInputs& inputs, const Tensor& dy,
                          const Tensor& d_final_window, const CausalConv1dGradients& gradients);
}  // namespace reference

}  // namespace adder
