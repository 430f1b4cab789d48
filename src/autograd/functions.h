// The operators as functions of variables and parameters: each computes its result at once and,
// given a tape, records how gradients flow back through it. Parameters are read through
// Parameter::compute; their gradients are added to Parameter::grad where that is defined. Shapes,
// dtypes and errors are those of the operators' headers.
//
// Results need a gradient when any input or parameter does. What a backward needs is kept by its
// closure and freed once that has run; nothing else is kept.
#pragma once

#include <cstdint>
#include <limits>
#include <span>

#include "adder/autograd/tape.h"
#include "adder/core/sequence_layout.h"
#include "adder/ops/activation/activation.h"
#include "adder/ops/causal_conv1d/causal_conv1d.h"

namespace adder {

// How an operator that carries memory hands on the new one.
enum class MemoryUpdate {
  kReplace,    // the variable becomes a new tensor; the old one is left as it was
  kOverwrite,  // the variable's tensor is overwritten; only without a tape
};

// y [rows, N] = x · Wᵀ + bias, in x's dtype. bias may be null. Where x_again is given, the backward
// calls it for x, the same bits, instead of keeping x for so long.
Variable Linear(Tape* tape, const Variable& x, const Parameter& weight,
                const Parameter* bias = nullptr, const std::function<Tensor()>& x_again = {});

// x: [rows, D]. weight: [D, width], or [D, 1, width] as checkpoints store it. bias may be null.
// window: null (begin from zero, keep nothing), or the memory to begin from, f32
// [sequences, width-1, D] (undefined: zero), replaced by the final window.
Variable CausalConv1d(Tape* tape, const Variable& x, const Parameter& weight, const Parameter* bias,
                      const SequenceLayout& layout,
                      ConvActivation activation = ConvActivation::kSilu, Variable* window = nullptr,
                      MemoryUpdate update = MemoryUpdate::kReplace);

struct SelectiveScanVariables {
  Variable x, dt;  // [rows, D]
  Variable B, C;   // [rows, groups · N]
  Variable z;      // [rows, D], or undefined: no gate
};
// A_log.compute holds A = -exp(A_log), f32 [D, N]; its gradient is that of A_log: dA · A.
struct SelectiveScanParameters {
  const Parameter* A_log = nullptr;
  const Parameter* D = nullptr;        // null: no skip connection
  const Parameter* dt_bias = nullptr;  // null: 0
};
// y: [rows, D]. h: null (begin from zero, keep nothing), or the memory to begin from, f32
// [sequences, D, N] (undefined: zero), replaced by the state after each sequence's last row.
Variable SelectiveScan(Tape* tape, const SelectiveScanVariables& inputs,
                       const SelectiveScanParameters& parameters, const SequenceLayout& layout,
                       int64_t groups = 1, Variable* h = nullptr,
                       MemoryUpdate update = MemoryUpdate::kReplace);

struct SsdVariables {
  Variable x;     // [rows, heads · head_dim]
  Variable dt;    // [rows, heads]
  Variable B, C;  // [rows, groups · N]
};
// A_log.compute holds A = -exp(A_log), f32 [heads]; its gradient is that of A_log: dA · A.
struct SsdParameters {
  const Parameter* A_log = nullptr;
  const Parameter* D = nullptr;        // null: no skip connection
  const Parameter* dt_bias = nullptr;  // null: 0
};
struct SsdOptions {
  int64_t head_dim = 1;
  int64_t groups = 1;
  double dt_min = 0;  // limits of softplus(dt + dt_bias)
  double dt_max = std::numeric_limits<double>::infinity();
};
// Mamba-2's state space dual; y: [rows, heads · head_dim]. All of the variables may be columns of
// projections. h: null (begin from zero, keep nothing), or the memory to begin from, f32
// [sequences, heads, head_dim, N] (undefined: zero), replaced by the state after each sequence's
// last row.
Variable Ssd(Tape* tape, const SsdVariables& variables, const SsdParameters& parameters,
             const SequenceLayout& layout, const SsdOptions& options, Variable* h = nullptr,
             MemoryUpdate update = MemoryUpdate::kReplace);

// The norm of r = x + residual, in y_dtype. residual may be undefined. sum: null, or set to r, f32
// (x itself where that is r already).
Variable RmsNorm(Tape* tape, const Variable& x, const Variable& residual, const Parameter& weight,
                 double eps, DType y_dtype, Variable* sum = nullptr);
// The norm of x itself, with a weight of ones. x may be columns of another variable.
Variable RmsNorm(Tape* tape, const Variable& x, double eps, DType y_dtype);

// As RmsNorm, to mean 0 and variance 1. bias may be null.
Variable LayerNorm(Tape* tape, const Variable& x, const Variable& residual, const Parameter& weight,
                   const Parameter* bias, double eps, DType y_dtype, Variable* sum = nullptr);

// Mamba-2's norm, in x's dtype: of x · silu(z), or with norm_before_gate of x, which is gated then.
// group_size: channels that are normalised together, 0 for all.
Variable GatedRmsNorm(Tape* tape, const Variable& x, const Variable& z, const Parameter& weight,
                      double eps, int64_t group_size = 0, bool norm_before_gate = false);

// GELU, exact or as its tanh approximation, or SiLU, element by element, in x's dtype.
Variable Activate(Tape* tape, const Variable& x, Activation activation);
// silu(gate) · up, the middle of a gated MLP. Both may be columns of one projection.
Variable SwiGlu(Tape* tape, const Variable& gate, const Variable& up);
// a + b, of one shape and dtype.
Variable Add(Tape* tape, const Variable& a, const Variable& b);

// The first rotary_dim channels of each of x's heads of d_head channels, rotated by their row's
// position, i64 [rows]; see rotary.h. x may be columns of a projection.
Variable Rotary(Tape* tape, const Variable& x, const Tensor& positions, int64_t d_head,
                int64_t rotary_dim, double theta, bool interleaved = false);

// What an attention layer remembers: the keys and the values of each sequence's first lengths[s]
// rows, [sequences, capacity, kv_heads · d_head], f32, bf16 or f16 (undefined: empty, in k's
// dtype). A call replaces both by what they are once its own rows are appended. Where that takes
// more capacity than there is they grow, by half at least. Rows past those filled are zero.
struct AttentionMemory {
  Variable* keys = nullptr;
  Variable* values = nullptr;
  std::span<const int64_t> lengths;
  // The lengths on q's device, i64 [sequences], or not given. With them the work of a step of one
  // row a sequence is the same whatever the lengths are, until the memory grows; no tape records
  // it.
  Tensor device_lengths = {};
};
// Causal attention with grouped heads; y: [rows, heads · d_head], q's dtype. q: [rows, heads ·
// d_head], k and v: [rows, kv_heads · d_head]; all may be columns of a projection. memory: null
// (begin empty, keep nothing), or what was read before. With it k and v are attended to as the
// memory's dtype holds them, so that a sequence may be cut anywhere.
Variable Attention(Tape* tape, const Variable& q, const Variable& k, const Variable& v,
                   const SequenceLayout& layout, int64_t heads, int64_t kv_heads, double scale,
                   const AttentionMemory* memory = nullptr,
                   MemoryUpdate update = MemoryUpdate::kReplace);

// tokens: i32 [rows]. y: [rows, D] in y_dtype.
Variable Embedding(Tape* tape, const Tensor& tokens, const Parameter& weight, DType y_dtype);

// The language-model head and its loss, f32 [rows].
Variable SoftmaxCrossEntropy(Tape* tape, const Variable& hidden, const Parameter& weight,
                             const Tensor& targets);
// The same where the loss's gradient is known before the loss: d_loss, f32 [rows]. The gradients
// are collected at once, and no tape is needed; the logits are computed once instead of twice.
Tensor SoftmaxCrossEntropyWithGradients(const Variable& hidden, const Parameter& weight,
                                        const Tensor& targets, const Tensor& d_loss);

}  // namespace adder
