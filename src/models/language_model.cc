// What every language model does alike: inference on a State, and getting ready to train.
#include "adder/models/language_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "adder/core/error.h"
#include "adder/core/storage.h"
#include "adder/ops/adamw/adamw.h"

namespace adder {

Tensor LanguageModel::Forward(const Tensor& tokens, const SequenceLayout& layout, State* state,
                              SelectionTrace* trace) const {
  if (state == nullptr)
    return Hidden(nullptr, tokens, layout, nullptr, Recompute::kNone, trace).value();
  if (state->entries().empty() && state->sequences() == 0) {
    State begun = InitialState(layout.sequences());
    Tensor hidden = Forward(tokens, layout, &begun, trace);
    *state = std::move(begun);
    return hidden;
  }
  if (state->fingerprint() != fingerprint()) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("the state belongs to another model (fingerprint {:016x}, this one has "
                            "{:016x})",
                            state->fingerprint(), fingerprint()));
  }
  if (state->sequences() != layout.sequences()) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("a state of {} sequences for a layout of {}", state->sequences(),
                            layout.sequences()));
  }
  if (state->device() != device()) *state = std::move(*state).To(device());
  Memory memory;
  memory.entries.reserve(state->entries().size());
  for (const State::Entry& entry : state->entries()) memory.entries.emplace_back(entry.value);
  memory.positions.assign(state->positions().begin(), state->positions().end());
  Tensor hidden = Hidden(nullptr, tokens, layout, &memory, Recompute::kNone, trace).value();
  for (size_t i = 0; i < memory.entries.size(); ++i) {
    state->mutable_entries()[i].value = memory.entries[i].value();
  }
  std::copy(memory.positions.begin(), memory.positions.end(), state->mutable_positions().begin());
  return hidden;
}

Tensor LanguageModel::LossWithGradients(const Variable& hidden, const Tensor& targets,
                                        const Tensor& d_loss) const {
  Tape tape;
  const Variable loss = Loss(&tape, hidden, targets);
  loss.CollectGradOverwriting([&](const Tensor& target) { target.CopyFrom(d_loss); });
  tape.Backward();
  return loss.value();
}

void LanguageModel::PrepareTraining() {
  for (Parameter& p : parameters()) {
    if (!p.value.defined()) {
      throw Error(ErrorCode::kInvalidArgument, "parameter " + p.name + " has no value yet");
    }
    if (p.grad.defined() && p.value.dtype() == DType::kF32) continue;
    // Memory of its own: what is trained must not be the mapping of a checkpoint.
    p.compute = Tensor();
    p.compute_is_copy = false;
    const bool converts = p.value.dtype() != DType::kF32;
    const bool moves = p.value.device() != device();
    p.value = p.value.To(DType::kF32).To(device());
    if (!converts && !moves) p.value = p.value.Clone();
    p.grad = Tensor::Zeros(p.value.shape(), DType::kF32, device());
  }
  if (device().type != DeviceType::kCpu) ReleaseCachedHostMemory();  // of values that moved
  ParametersChanged();
}

void LanguageModel::ZeroGradients() {
  std::vector<Tensor> gradients;
  for (const Parameter& p : parameters()) {
    if (p.grad.defined()) gradients.push_back(p.grad);
  }
  SetZeroAll(gradients);
}

}  // namespace adder
