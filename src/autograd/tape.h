// Reverse-mode differentiation at the grain of operators. A forward function computes its result at
// once and, when given a tape, pushes one closure that turns the gradient of its result into
// gradients of its inputs. Without a tape (nullptr) nothing is recorded and intermediate results
// are freed as soon as they fall out of scope: inference is the same code.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "adder/core/tensor.h"

namespace adder {

// A value on the tape: a tensor, and later its gradient. Copies are handles to the same value.
class Variable {
 public:
  Variable() = default;  // "not given"
  // A leaf. Its gradient is kept only when it is asked for.
  explicit Variable(Tensor value, bool requires_grad = false);

  bool defined() const { return node_ != nullptr; }
  const Tensor& value() const;
  bool requires_grad() const;

  // The gradient collected so far; undefined while there is none. It has the value's dtype and
  // shape.
  Tensor grad() const;
  // Collects one contribution: write(target, accumulate) must set the target, or add to it when
  // `accumulate` is true. Does nothing for a variable that needs no gradient.
  void CollectGrad(const std::function<void(const Tensor& target, bool accumulate)>& write) const;
  // The same for a writer that can only overwrite: it is given a scratch tensor where needed.
  void CollectGradOverwriting(const std::function<void(const Tensor& target)>& write) const;

  // A view of columns [begin, begin + count) of a [rows, channels] variable. Its gradient is
  // collected directly in those columns of this variable's gradient; columns that nobody
  // collects are zero. Views of one variable must not overlap.
  Variable Columns(int64_t begin, int64_t count) const;

 private:
  struct Node;
  std::shared_ptr<Node> node_;
};

// A trained tensor, with the names and groups the optimizer and the checkpoints need.
struct Parameter {
  std::string name;           // as in the checkpoint: "backbone.layers.0.mixer.A_log"
  Tensor value;               // what the checkpoint holds; f32 while training
  Tensor grad;                // f32, or undefined when not training; operators add to it
  Tensor compute;             // what the operators read: value, or its copy in the compute dtype
  bool weight_decay = true;   // false for A_log, D, biases and norms
  double learning_rate_scale = 1.0;
};

class Tape {
 public:
  Tape() = default;
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  // Called by forward functions: `backward` runs once, after those of all later results.
  void Record(std::function<void()> backward);
  // Runs the closures from the last to the first, dropping each, and what it held, once it ran.
  // Seed the gradients of the results first (CollectGrad).
  void Backward();

 private:
  std::vector<std::function<void()>> closures_;
};

// Recomputation: runs `block` without recording and keeps only its inputs; the backward runs it
// again, recorded on a tape of its own, and goes back through that. The block must be a pure
// function of its inputs and of parameters. An undefined input stays undefined.
using Block =
    std::function<std::vector<Variable>(Tape* tape, const std::vector<Variable>& inputs)>;
std::vector<Variable> Checkpoint(Tape* tape, const Block& block,
                                 const std::vector<Variable>& inputs);

}  // namespace adder
