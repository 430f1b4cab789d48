// A residual block: reads the stream, and returns what it adds to it. A language model is a list of
// them between embedding and head.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "adder/autograd/functions.h"
#include "adder/autograd/tape.h"
#include "adder/core/sequence_layout.h"
#include "adder/models/language_model.h"
#include "adder/models/model_config.h"
#include "adder/models/parameter_list.h"

namespace adder {

// The norm before a block, and the one before the head.
struct Norm {
  const Parameter* weight = nullptr;
  const Parameter* bias = nullptr;  // a layer norm's; null for an RMS norm
  double eps = 0;

  // Adds "PREFIX.weight", and "PREFIX.bias" for a layer norm.
  static Norm Make(ParameterList& list, const std::string& prefix, const ModelConfig& config);

  // The norm of x + residual, in y_dtype; *sum becomes that sum, f32. residual may be undefined,
  // sum null.
  Variable Apply(Tape* tape, const Variable& x, const Variable& residual, DType y_dtype,
                 Variable* sum = nullptr) const;
};

struct BlockContext;

// A block's first projection: of the norm of x + *residual, which *residual becomes. Where the
// context asks for Recompute::kScan the norm is computed once more in the backward.
Variable Project(const BlockContext& context, const Norm& norm, const Variable& x,
                 Variable* residual, DType dtype, const Parameter& weight, const Parameter* bias);

// What all blocks of a forward have in common.
struct BlockContext {
  Tape* tape = nullptr;
  const SequenceLayout& layout;
  // Rows that each sequence has read before.
  std::span<const int64_t> positions;
  // i64 [rows]: each row's place in its sequence; only for models with attention.
  Tensor row_positions;
  MemoryUpdate update = MemoryUpdate::kReplace;
  Recompute recompute = Recompute::kNone;
  SelectionTrace* trace = nullptr;  // may be null
};

// What a Mamba block does between its first and its last projection: a function of the first one's
// result and of the block's memory, which it replaces. It reads layout, tape, update and trace of
// the context.
using Mixing = std::function<Variable(const BlockContext& context, const Variable& projected,
                                      std::span<Variable> memory)>;
// Its result, computed once more in the backward where the context asks for that.
Variable Mix(const BlockContext& context, const Variable& projected, std::span<Variable> memory,
             const Mixing& mixing);

class Block {
 public:
  // A part of what a block remembers, as State has it: [sequences, dims…], or, where it grows,
  // [sequences, capacity, dims…].
  struct MemoryPart {
    std::string name;
    std::vector<int64_t> dims;
    bool grows = false;
    DType dtype = DType::kF32;
  };

  virtual ~Block() = default;

  virtual std::vector<MemoryPart> memory() const { return {}; }

  // x: [rows, d_model], what the block before (or the embedding) adds to the stream.
  // residual: f32 [rows, d_model], the stream without x, undefined at first; becomes their sum.
  // memory: one variable for each of memory(), replaced by what is remembered after the last row;
  // or none at all: begin from zero and keep nothing.
  // Returns what this block adds to the stream, [rows, d_model] in the compute dtype.
  virtual Variable Forward(const BlockContext& context, const Variable& x, Variable* residual,
                           std::span<Variable> memory) const = 0;
};

}  // namespace adder
