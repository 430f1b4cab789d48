// What the recorded functions share: which of their sources want a gradient, what an operator reads
// of a parameter, and where it leaves new memory. Not for callers of the functions.
#pragma once

#include <string>

#include "adder/autograd/functions.h"
#include "adder/autograd/tape.h"
#include "adder/core/error.h"

namespace adder::recording {

inline bool Wanted(const Variable& variable) { return variable.requires_grad(); }
inline bool Wanted(const Parameter& parameter) { return parameter.grad.defined(); }
inline bool Wanted(const Parameter* parameter) {
  return parameter != nullptr && parameter->grad.defined();
}
inline bool Wanted(const Variable* variable) {
  return variable != nullptr && variable->requires_grad();
}

// Whether a function of these variables and parameters is recorded.
template <class... Sources>
bool Records(const Tape* tape, const Sources&... sources) {
  return tape != nullptr && (Wanted(sources) || ...);
}

inline Tensor Compute(const Parameter* parameter) {
  return parameter == nullptr ? Tensor() : parameter->compute;
}
inline Tensor Grad(const Parameter* parameter) {
  return parameter == nullptr ? Tensor() : parameter->grad;
}
inline Tensor Value(const Variable* variable) {
  return variable == nullptr ? Tensor() : variable->value();
}
inline Gradient GradientOf(const Variable* variable) {
  return variable == nullptr ? Gradient() : variable->gradient();
}

// Where an operator leaves its new memory: nowhere, in the old memory, or in a new tensor.
inline Tensor NewMemory(const Tape* tape, const Variable* memory, MemoryUpdate update,
                        const Shape& shape, Device device) {
  if (memory == nullptr) return {};
  if (update == MemoryUpdate::kReplace || !memory->defined()) {
    return Tensor::Empty(shape, DType::kF32, device);
  }
  if (tape != nullptr) {
    throw Error(ErrorCode::kInvalidArgument,
                "memory cannot be overwritten while a tape records: the backward needs it");
  }
  return memory->value();
}

inline void CheckRank(const Variable& x, int rank, const char* what) {
  if (x.value().rank() == rank) return;
  throw Error(ErrorCode::kInvalidArgument, std::string(what) + " is " + x.value().ToString() +
                                               ", expected " + std::to_string(rank) +
                                               " dimensions");
}

}  // namespace adder::recording
