// selective_scan: the selective state space model (S6) of Mamba (Gu & Dao 2023, arXiv 2312.00752,
// section 3.2; equations 2a and 2b with input-dependent Δ, B, C).
//
// For each sequence s, row t, channel d, state n (g is the group of channel d):
//
//     dt' = softplus(dt[t,d] + dt_bias[d]) · interval[t]
//     h   = exp(dt' · A[d,n]) · h + dt' · B[t,g,n] · x[t,d]
//     y   = Σ_n C[t,g,n] · h + D[d] · x[t,d],   then   y · silu(z[t,d]) where a gate is given
//
// starting from h = h0[s,d,n] and leaving hT[s,d,n]. The discretisation is exact for A and Euler
// for B, as the published checkpoints were trained. With complex A, B, C and h are complex too, the
// sum over n is replaced by 2·Re of it (the conjugate half is implied), and gradients of complex
// inputs are those with respect to their real and imaginary parts.
//
// Nothing of size rows · D · N is ever stored: the forward saves one state per chunk of
// kScanChunkRows rows when asked to, the backward recomputes inside the chunk.
#pragma once

#include <cstdint>

#include "adder/core/sequence_layout.h"
#include "adder/core/tensor.h"

namespace adder {

// Rows between two saved states. Chunks begin at each sequence's first row.
inline constexpr int64_t kScanChunkRows = 64;

// x, dt, z share one activation dtype (f32, bf16 or f16), B and C too; everything else is f32. The
// reference takes f64 in all of them. Matrices of rows (x, dt, z, B, C, y and their gradients) have
// dense channels, but rows may be further apart than their length, so that views of a projection's
// columns can be passed; all other tensors are dense.
struct SelectiveScanInputs {
  Tensor x;               // [rows, D]
  Tensor dt;              // [rows, D]: before bias and softplus
  Tensor A;               // [D, N], or [D, N, 2] complex; Re ≤ 0 for a stable model (not checked)
  Tensor B;               // [rows, G·N], or [rows, G·N·2] complex, interleaved re, im
  Tensor C;               // as B
  Tensor D;               // [D], or not given: no skip connection
  Tensor dt_bias;         // [D], or not given: 0
  Tensor z;               // [rows, D], or not given: no gate
  Tensor interval;        // [rows] ≥ 0, time since the previous sample, or not given: 1
  Tensor h0;              // [sequences, D, N(, 2)], or not given: 0
  SequenceLayout layout;  // of the rows
  int64_t groups = 1;     // G: channel d uses group d / (D / G); G divides D
};

// Allocated by the caller (see the helpers below). hT may be h0; nothing else may share memory with
// an input or another output, which is checked (kInvalidArgument).
struct SelectiveScanOutputs {
  Tensor y;             // [rows, D], the activation dtype
  Tensor hT;            // [sequences, D, N(, 2)], or not given; an empty sequence gets h0
  Tensor chunk_states;  // [ScanChunks(layout), D, N(, 2)], or not given: the state before each
                        // chunk, sequence after sequence; what the backward needs
};

// Gradients of a scalar loss. Those left undefined are not computed. Parameters' gradients (A, D,
// dt_bias) and dh0 are f32, the others have their input's dtype. All are overwritten, except
// dA, dD and d_dt_bias, which are added to (parameters accumulate). dx, ddt and dz may each lie
// exactly on x, dt, z or dy, and dh0 on dhT; nothing else may share memory with what is read or
// with another gradient, which is checked.
struct SelectiveScanGradients {
  Tensor dx = {}, ddt = {}, dA = {}, dB = {}, dC = {}, dD = {}, d_dt_bias = {}, dz = {};
  Tensor d_interval = {}, dh0 = {};
};

// Number of chunks that the layout's sequences have: Σ_s ceil(length(s) / kScanChunkRows).
int64_t ScanChunks(const SequenceLayout& layout);

// Throw kInvalidArgument when shapes or dtypes disagree or memory is shared, kUnsupported for a
// device without this operator, and on a CUDA device for more than 256 states.
void SelectiveScan(const SelectiveScanInputs& inputs, const SelectiveScanOutputs& outputs);
// chunk_states: as the forward left them. dy: [rows, D], the activation dtype. dhT: f32
// [sequences, D, N(, 2)], or not given: 0.
void SelectiveScanBackward(const SelectiveScanInputs& inputs, const Tensor& chunk_states,
                           const Tensor& dy, const Tensor& dhT,
                           const SelectiveScanGradients& gradients);

namespace reference {
// The definition, in f64: plain loops over sequences, rows, channels and states.
void SelectiveScan(const SelectiveScanInputs& inputs, const SelectiveScanOutputs& outputs);
void SelectiveScanBackward(const SelectiveScanInputs& inputs, const Tensor& dy, const Tensor& dhT,
                           const SelectiveScanGradients& gradients);
}  // namespace reference

}  // namespace adder
