// What generation does over and over: one more row of every sequence, and the logits after it. On a
// CUDA device the work is recorded once and then asked for as a whole, as long as every step is the
// same work in the same place: until the batch changes, or an attention layer's memory grows.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "adder/core/state.h"
#include "adder/core/tensor.h"
#include "adder/models/language_model.h"

namespace adder {

class Decoder {
 public:
  // The model must outlive the decoder and stay as it is and where it is.
  explicit Decoder(const LanguageModel& model);
  ~Decoder();
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  // Reads a token of each of the state's sequences, i32 [sequences] in host memory or on the
  // model's device, as LanguageModel::Forward does, and throws as that does. Returns the logits
  // that follow, f32 [sequences, vocab] on the model's device; the next step may overwrite them.
  // Tokens that are made on the device need not be known to the host: nothing waits for them.
  Tensor Step(const Tensor& tokens, State* state);

  // Steps that repeated a recording.
  int64_t repeated_steps() const { return repeated_steps_; }

 private:
  // A step on one place of the memory, recorded.
  struct Recording;
  // Where a state's entries lie, and the capacity of those that grow.
  using Place = std::vector<std::pair<const void*, int64_t>>;
  static Place PlaceOf(const State& state);
  // Whether every entry that grows has room for a row more of each sequence.
  static bool HasRoom(const State& state);

  bool CanRecord(const Tensor& tokens, const State& state) const;
  void Record(const State& state);

  const LanguageModel& model_;
  Place last_;  // of the step before
  std::unique_ptr<Recording> recording_;
  int64_t repeated_steps_ = 0;
  bool recordable_ = true;  // until a recording fails
};

}  // namespace adder
