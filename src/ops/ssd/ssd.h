// ssd: the state space dual of Mamba-2 (Dao & Gu 2024, arXiv 2405.21060, sections 5 and 6): a
// selective state space model whose A is one number a head.
//
// For each sequence s, row t, head h of P channels p, state n (g is the group of head h):
//
//     dt' = clamp(softplus(dt[t,h] + dt_bias[h]), dt_min, dt_max) · interval[t]
//     h   = exp(dt' · A[h]) · h + dt' · B[t,g,n] · x[t,h,p]
//     y   = Σ_n C[t,g,n] · h + D[h] · x[t,h,p]
//
// starting from h = h0[s,h,p,n] and leaving hT[s,h,p,n]. Within a chunk of kSsdChunkRows rows all
// rows are computed at once as products of matrices (section 6), from chunk to chunk the state is
// passed on; a single row is the recurrence itself. The forward saves one state per chunk when
// asked to, the backward recomputes inside the chunk.
#pragma once

#include <cstdint>
#include <limits>

#include "adder/core/sequence_layout.h"
#include "adder/core/tensor.h"

namespace adder {

// Rows between two saved states. Chunks begin at each sequence's first row.
inline constexpr int64_t kSsdChunkRows = 64;

// x, dt, B and C share one activation dtype (f32, bf16 or f16), everything else is f32; the
// reference takes f64 in all of them. Channels are dense; rows may be further apart, so views of a
// projection's columns can be passed.
struct SsdInputs {
  Tensor x;               // [rows, H·P]
  Tensor dt;              // [rows, H]: before bias and softplus
  Tensor A;               // [H], negative for a stable model (not checked)
  Tensor B;               // [rows, G·N]
  Tensor C;               // [rows, G·N]
  Tensor D;               // [H], or not given: no skip connection
  Tensor dt_bias;         // [H], or not given: 0
  Tensor interval;        // [rows] ≥ 0, time since the previous sample, or not given: 1
  Tensor h0;              // [sequences, H, P, N], or not given: 0
  SequenceLayout layout;  // of the rows
  int64_t head_dim = 1;   // P
  int64_t groups = 1;     // G: head h uses group h / (H / G); G divides H
  double dt_min = 0;
  double dt_max = std::numeric_limits<double>::infinity();
};

// Allocated by the caller. hT may be h0; nothing else may share memory with an input or another
// output, which is checked (kInvalidArgument).
struct SsdOutputs {
  Tensor y;             // [rows, H·P], the activation dtype
  Tensor hT;            // [sequences, H, P, N], or not given; an empty sequence gets h0
  Tensor chunk_states;  // [SsdChunks(layout), H, P, N], or not given: the state before each chunk,
                        // sequence after sequence; what the backward needs
};

// Gradients of a scalar loss. Those left undefined are not computed. dA, dD, d_dt_bias, d_interval
// and dh0 are f32, the others have the activation dtype. All are overwritten, except dA, dD and
// d_dt_bias, which are added to. Where dt' is at a limit that it would exceed, no gradient flows to
// dt. None may share memory with what is read or with another, which is checked.
struct SsdGradients {
  Tensor dx, ddt, dA, dB, dC, dD, d_dt_bias, d_interval, dh0;
};

// Number of chunks that the layout's sequences have: Σ_s ceil(length(s) / kSsdChunkRows).
int64_t SsdChunks(const SequenceLayout& layout);

// Throw kInvalidArgument when shapes or dtypes disagree or memory is shared, kUnsupported for a
// device without this operator, and on a CUDA device for more than 256 states.
//
// There products of 16-bit activations are formed on tensor cores: within a chunk, the factors that
// rows weigh each other by, and the states that rows read, are rounded to that dtype before they
// are multiplied (f16's range, 65504, bounds such a state). All else is f32 arithmetic.
void Ssd(const SsdInputs& inputs, const SsdOutputs& outputs);
// chunk_states: as the forward left them. dy: [rows, H·P], the activation dtype. dhT: f32
// [sequences, H, P, N], or not given: 0.
void SsdBackward(const SsdInputs& inputs, const Tensor& chunk_states, const Tensor& dy,
                 const Tensor& dhT, const SsdGradients& gradients);

namespace reference {
// The definition, in f64: plain loops over sequences, rows, heads, channels and states.
void Ssd(const SsdInputs& inputs, const SsdOutputs& outputs);
void SsdBackward(const SsdInputs& inputs, const Tensor& dy, const Tensor& dhT,
                 const SsdGradients& gradients);
}  // namespace reference

}  // namespace adder
