// The recorded functions that treat each element or pair of elements alone.
#include "adder/autograd/functions.h"
#include "adder/autograd/recording.h"
#include "adder/ops/activation/activation.h"
#include "adder/ops/rotary/rotary.h"

namespace adder {
namespace {

using recording::CheckRank;
using recording::Records;

Tensor EmptyLike(const Variable& x) {
  return Tensor::Empty(x.value().shape(), x.value().dtype(), x.value().device());
}

}  // namespace

Variable Activate(Tape* tape, const Variable& x, Activation activation) {
  CheckRank(x, 2, "activation: x");
  const Tensor y = EmptyLike(x);
  Activate(activation, x.value(), y);
  const bool records = Records(tape, x);
  Variable result(y, records);
  if (!records) return result;
  tape->Record([activation, x = x.value(), dx = x.gradient(), dy = result.gradient()] {
    const Tensor seed = dy.value();
    if (!seed.defined()) return;
    const Contribution to_x(dx);
    ActivateBackward(activation, x, seed, to_x.target());
    to_x.Add();
  });
  return result;
}

Variable SwiGlu(Tape* tape, const Variable& gate, const Variable& up) {
  CheckRank(gate, 2, "swiglu: gate");
  const Tensor y = EmptyLike(gate);
  SwiGlu(gate.value(), up.value(), y);
  const bool records = Records(tape, gate, up);
  Variable result(y, records);
  if (!records) return result;
  tape->Record([gate = gate.value(), up = up.value(), dgate = gate.gradient(), dup = up.gradient(),
                dy = result.gradient()] {
    const Tensor seed = dy.value();
    if (!seed.defined()) return;
    const Contribution to_gate(dgate);
    const Contribution to_up(dup);
    SwiGluBackward(gate, up, seed, {.dgate = to_gate.target(), .dup = to_up.target()});
    to_gate.Add();
    to_up.Add();
  });
  return result;
}

Variable Add(Tape* tape, const Variable& a, const Variable& b) {
  CheckRank(a, 2, "add: a");
  const Tensor y = EmptyLike(a);
  Add(a.value(), b.value(), y);
  const bool records = Records(tape, a, b);
  Variable result(y, records);
  if (!records) return result;
  tape->Record([da = a.gradient(), db = b.gradient(), dy = result.gradient()] {
    const Tensor seed = dy.value();
    if (!seed.defined()) return;
    for (const Gradient* gradient : {&da, &db}) {
      gradient->Collect([&](const Tensor& target, bool accumulate) {
        if (accumulate) {
          Add(target, seed, target);
        } else {
          target.CopyFrom(seed);
        }
      });
    }
  });
  return result;
}

Variable Rotary(Tape* tape, const Variable& x, const Tensor& positions, int64_t d_head,
                int64_t rotary_dim, double theta, bool interleaved) {
  CheckRank(x, 2, "rotary: x");
  const RotaryEmbedding embedding{.positions = positions,
                                  .d_head = d_head,
                                  .rotary_dim = rotary_dim,
                                  .theta = theta,
                                  .interleaved = interleaved};
  const Tensor y = EmptyLike(x);
  Rotary(x.value(), embedding, y);
  const bool records = Records(tape, x);
  Variable result(y, records);
  if (!records) return result;
  tape->Record([embedding, dx = x.gradient(), dy = result.gradient()] {
    const Tensor seed = dy.value();
    if (!seed.defined()) return;
    const Contribution to_x(dx);
    RotaryBackward(embedding, seed, to_x.target());
    to_x.Add();
  });
  return result;
}

}  // namespace adder
