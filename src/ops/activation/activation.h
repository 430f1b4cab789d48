// activation: the elementwise functions between two projections, and the sum of two branches.
//
//     gelu:       y = x · Φ(x), Φ the normal distribution (Hendrycks & Gimpel 2016, arXiv
//     1606.08415) gelu, tanh: y = x/2 · (1 + tanh(√(2/π) · (x + 0.044715·x³))) swiglu:     y =
//     silu(gate) · up, silu(g) = g / (1 + e^-g)   (Shazeer 2020, arXiv 2002.05202) add:        y =
//     a + b
#pragma once

#include "adder/core/tensor.h"

namespace adder {

enum class Activation { kGelu, kGeluTanh, kSilu };

// All tensors of a call are [rows, columns] of one shape and dtype: f32, bf16 or f16 (the
// references: f64). Columns are dense, rows may be further apart. Results are overwritten and may
// be one of the inputs. Throw kInvalidArgument when shapes or dtypes disagree, kUnsupported for a
// device without this operator.
void Activate(Activation activation, const Tensor& x, const Tensor& y);
void ActivateBackward(Activation activation, const Tensor& x, const Tensor& dy, const Tensor& dx);

void SwiGlu(const Tensor& gate, const Tensor& up, const Tensor& y);
// Those left undefined are not computed.
struct SwiGluGradients {
  Tensor dgate, dup;
};
void SwiGluBackward(const Tensor& gate, const Tensor& up, const Tensor& dy,
                    const SwiGluGradients& gradients);

// Its gradients are dy itself.
void Add(const Tensor& a, const Tensor& b, const Tensor& y);

namespace reference {
void Activate(Activation activation, const Tensor& x, const Tensor& y);
void ActivateBackward(Activation activation, const Tensor& x, const Tensor& dy, const Tensor& dx);
void SwiGlu(const Tensor& gate, const Tensor& up, const Tensor& y);
void SwiGluBackward(const Tensor& gate, const Tensor& up, const Tensor& dy,
                    const SwiGluGradients& gradients);
void Add(const Tensor& a, const Tensor& b, const Tensor& y);
}  // namespace reference

}  // namespace adder
