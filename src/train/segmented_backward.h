// The gradient of long sequences, a segment of time at a time: with the memory of one segment,
// whatever the length.
//
// All that a Mamba model hands on from a row to the next is its memory, which is small and of fixed
// size. So the rows of a batch are cut into pieces. Forward, from the first to the last: nothing is
// kept but the memory at each cut. Backward, from the last to the first: a piece's forward is run
// again from its memory, on a tape, and gradients flow back through it; the gradient with respect
// to the memory it began with is what the piece before gets for the memory it ended with. That is
// the exact gradient (nothing is truncated), for one more forward of the pieces that end in a cut.
#pragma once

#include <cstdint>

#include "adder/core/sequence_layout.h"
#include "adder/core/tensor.h"
#include "adder/models/language_model.h"

namespace adder {

class SegmentedBackward {
 public:
  // segment: the rows of a batch that are on the tape at a time, at least 1. A sequence that has no
  // more is not cut, several that fit are taken together. recompute: within a piece. The model must
  // outlive this. Throws kInvalidArgument for a segment below 1, kUnsupported for a model with
  // attention.
  SegmentedBackward(const LanguageModel& model, int64_t segment, Recompute recompute);

  // Adds to the parameters' gradients those of weight · Σ losses; returns the losses, f32 [rows],
  // on the model's device. tokens, targets, layout and memory are those of LanguageModel::Hidden
  // and Loss: memory is what the sequences have read before and becomes what they have read
  // afterwards (no gradient flows into it); nullptr: begin from nothing and keep nothing.
  Tensor Run(const Tensor& tokens, const Tensor& targets, const SequenceLayout& layout,
             float weight, Memory* memory = nullptr) const;

 private:
  const LanguageModel& model_;
  int64_t segment_;
  Recompute recompute_;
};

}  // namespace adder
