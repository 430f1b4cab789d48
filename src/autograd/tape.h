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

// Where the gradient of a variable, or of some of its columns, is collected. A handle that lives on
// without the variable's value: closures hold a result's Gradient and not the result, so that
// values which no backward needs are freed while the forward still runs.
class Gradient {
 public:
  Gradient() = default;  // of a variable that needs none

  bool wanted() const { return slot_ != nullptr; }
  // What has been collected; undefined while there is nothing. Columns that nobody collected are
  // zero. It has the variable's dtype and shape.
  Tensor value() const;
  // Collects one contribution: write(target, accumulate) must set the target, or add to it when
  // `accumulate` is true. The target is not cleared first. Does nothing when not wanted.
  void Collect(const std::function<void(const Tensor& target, bool accumulate)>& write) const;

 private:
  friend class Variable;
  friend class Contribution;
  struct Slot;
  Gradient(std::shared_ptr<Slot> slot, int64_t begin, int64_t count)
      : slot_(std::move(slot)), begin_(begin), count_(count) {}
  Tensor Target(bool* accumulate) const;

  std::shared_ptr<Slot> slot_;
  int64_t begin_ = 0;  // the columns of the slot's gradient that are this one's
  int64_t count_ = 0;
};

// One contribution to a gradient by an operator that can only overwrite its target, or that writes
// several gradients in one call: fill target(), then call Add().
class Contribution {
 public:
  explicit Contribution(const Gradient& gradient);

  // The gradient itself where this contribution is its first, scratch memory otherwise;
  // uninitialised. Undefined where the gradient is not wanted.
  const Tensor& target() const { return target_; }
  // Adds the scratch memory to the gradient.
  void Add() const;

 private:
  Tensor target_;
  Tensor sum_;  // the gradient, where target_ is scratch
};

// A value on the tape: a tensor, and later its gradient. Copies are handles to the same value.
class Variable {
 public:
  Variable() = default;  // "not given"
  // A leaf. Its gradient is kept only when it is asked for.
  explicit Variable(Tensor value, bool requires_grad = false);

  bool defined() const { return value_.defined(); }
  explicit operator bool() const { return defined(); }
  const Tensor& value() const { return value_; }
  bool requires_grad() const { return gradient_.wanted(); }
  const Gradient& gradient() const { return gradient_; }

  // Shorthands for gradient().value(), .Collect(), and a Contribution.
  Tensor grad() const { return gradient_.value(); }
  void CollectGrad(const std::function<void(const Tensor& target, bool accumulate)>& write) const {
    gradient_.Collect(write);
  }
  void CollectGradOverwriting(const std::function<void(const Tensor& target)>& write) const;

  // A view of columns [begin, begin + count) of the last dimension. Its gradient is collected
  // directly in those columns of this variable's gradient.
  Variable Columns(int64_t begin, int64_t count) const;

 private:
  Tensor value_;
  Gradient gradient_;
};

// A trained tensor, with the names and groups the optimizer and the checkpoints need.
struct Parameter {
  std::string name;  // as in the checkpoint: "backbone.layers.0.mixer.A_log"
  Tensor value;      // what the checkpoint holds; f32 while training
  Tensor grad;       // f32, or undefined when not training; operators add to it
  Tensor compute;    // what the operators read: value, its copy in the compute dtype, or what the
                     // model derives from it (A = -exp(A_log))
  bool compute_is_copy = false;  // the copy is this parameter's own, to be written over
  bool full_precision = false;   // computed with in f32 whatever the compute dtype is, and so
                                 // saved: norms, convolutions, A_log, D, biases
  bool weight_decay = true;      // false for A_log, D, biases and norms
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
// function of its inputs and of parameters, and must not change its inputs' values. An undefined
// input stays undefined.
using BlockFunction =
    std::function<std::vector<Variable>(Tape* tape, const std::vector<Variable>& inputs)>;
std::vector<Variable> Checkpoint(Tape* tape, const BlockFunction& block,
                                 const std::vector<Variable>& inputs);

}  // namespace adder
