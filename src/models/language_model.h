// A language model: tokens in, logits or loss out, memory carried in a State. Jobs (training,
// generation, evaluation) know models through this interface only.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "adder/autograd/tape.h"
#include "adder/core/sequence_layout.h"
#include "adder/core/state.h"
#include "adder/core/tensor.h"
#include "adder/models/selection_trace.h"

namespace adder {

// What the sequences of a forward remember, as variables: State's entries and positions.
struct Memory {
  // One per entry of InitialState(), in that order, [sequences, ...] each; undefined: nothing was
  // read. Empty stands for that many undefined ones.
  std::vector<Variable> entries;
  // Rows that each sequence has read; empty: none.
  std::vector<int64_t> positions;
  // The positions on the model's device, i64 [sequences], or not given. Where every sequence reads
  // one row: what the work asked of the device reads, which can then be recorded and repeated with
  // other positions as long as no entry has to grow.
  Tensor device_positions;
};

// What a backward computes once more instead of keeping it from the forward. Nothing changes but
// memory and time.
enum class Recompute {
  kNone,   // what the operators' backwards recompute themselves
  kScan,   // a Mamba block's norm, and what lies between its first and last projection
  kBlock,  // all of a block: only what goes into it is kept (see Checkpoint)
};

class LanguageModel {
 public:
  virtual ~LanguageModel() = default;

  virtual int64_t vocab_size() const = 0;
  virtual int64_t n_layer() const = 0;
  // The dtype operators compute in: f32, bf16 or f16.
  virtual DType compute_dtype() const = 0;
  // Where it is computed: what operators read of the parameters, gradients, hidden rows, logits and
  // losses lie there. Tokens and targets may lie there or in host memory.
  virtual Device device() const { return {}; }
  // All parameters in checkpoint order; a tied head appears once, as the embedding.
  virtual std::span<Parameter> parameters() = 0;
  std::span<const Parameter> parameters() const {
    return const_cast<LanguageModel*>(this)->parameters();
  }
  // Identifies architecture, dimensions and parameters (xxHash64 over the config and over samples
  // of every parameter's bits): a saved State is accepted only by the model that made it.
  virtual uint64_t fingerprint() const = 0;

  // The memory of `sequences` sequences that have read nothing: all zero, on the model's device.
  virtual State InitialState(int64_t sequences) const = 0;

  // The one forward. tokens: i32 [rows]; memory: what the sequences have read before, on the
  // model's device, becomes what they have read after their last rows. Without a tape the tensors
  // given are overwritten where they have room. nullptr: begin from nothing and keep nothing.
  // Returns the normalised hidden rows, [rows, d_model], in the compute dtype. Throws
  // kInvalidArgument before any memory is touched when tokens, layout and memory disagree.
  virtual Variable Hidden(Tape* tape, const Tensor& tokens, const SequenceLayout& layout,
                          Memory* memory, Recompute recompute = Recompute::kNone,
                          SelectionTrace* trace = nullptr) const = 0;
  // f32 [rows, vocab] for hidden rows.
  virtual Tensor Logits(const Tensor& hidden) const = 0;
  // f32 [rows]: the cross-entropy in nats of each row's target (i32 [rows], kIgnoreTarget: 0).
  // Recorded on the tape; seed the result's gradient with the weight of each row.
  virtual Variable Loss(Tape* tape, const Variable& hidden, const Tensor& targets) const = 0;
  // The same where the weight of each row is known before the loss: d_loss, f32 [rows], on the
  // model's device. Collects the gradients at once and records nothing, which spares a model with a
  // head its second product with that.
  virtual Tensor LossWithGradients(const Variable& hidden, const Tensor& targets,
                                   const Tensor& d_loss) const;

  // Hidden without a tape, the state read and updated in place (positions too); a State() becomes
  // that of the layout's sequences, and one that lies elsewhere moves to the model's device.
  // nullptr: begin from zero and keep nothing. Throws kInvalidArgument for the state of another
  // model or of another number of sequences.
  Tensor Forward(const Tensor& tokens, const SequenceLayout& layout, State* state,
                 SelectionTrace* trace = nullptr) const;

  // Training needs f32 values of the model's own and gradients, on its device: copies or converts,
  // allocates zero gradients.
  void PrepareTraining();
  void ZeroGradients();
  // Refreshes what is derived from the parameters (Parameter::compute, the fingerprint) after
  // values were set or changed. Throws kInvalidArgument for a value of the wrong shape.
  virtual void ParametersChanged() = 0;
  // The same, for less, where whoever changed the values wrote the copies (compute_is_copy), too.
  virtual void ParametersTrained() { ParametersChanged(); }
  // After recorded work that holds a ParametersTrained() was repeated: what the host knows of the
  // parameters (the fingerprint) is out of date, too.
  virtual void ParametersRefreshed() {}
};

}  // namespace adder
