// Steps that are alike are recorded at the second one in the same place, right after it was done.
#include "adder/infer/decoder.h"

#include <fmt/core.h>

#include <algorithm>
#include <span>
#include <utility>

#include "adder/backend/cuda/module.h"
#include "adder/core/error.h"
#include "adder/core/log.h"
#include "adder/core/sequence_layout.h"

namespace adder {

struct Decoder::Recording {
  Place place;
  Tensor tokens;     // on the device
  Tensor positions;  // on the device; only where the state has entries that grow
  Tensor logits;
  std::unique_ptr<cuda::Graph> graph;
};

namespace {

Tensor PositionsOf(const State& state) {
  return Tensor::From<int64_t>({state.sequences()}, state.positions());
}

}  // namespace

Decoder::Decoder(const LanguageModel& model) : model_(model) {}
Decoder::~Decoder() = default;

Decoder::Place Decoder::PlaceOf(const State& state) {
  Place place;
  place.reserve(state.entries().size());
  for (const State::Entry& entry : state.entries()) {
    place.emplace_back(entry.value.raw(), entry.grows ? entry.value.dim(1) : 0);
  }
  return place;
}

bool Decoder::HasRoom(const State& state) {
  const std::span<const int64_t> positions = state.positions();
  const int64_t longest = *std::max_element(positions.begin(), positions.end());
  return std::all_of(state.entries().begin(), state.entries().end(), [&](const auto& entry) {
    return !entry.grows || longest < entry.value.dim(1);
  });
}

// Whatever else a forward finds wrong, it is left to find.
bool Decoder::CanRecord(const Tensor& tokens, const State& state) const {
  if (!recordable_ || model_.device().type != DeviceType::kCuda ||
      state.device() != model_.device())
    return false;
  if (state.sequences() == 0 || state.fingerprint() != model_.fingerprint()) return false;
  if (!tokens.defined() || tokens.dtype() != DType::kI32 ||
      tokens.shape() != Shape({state.sequences()})) {
    return false;
  }
  if (tokens.device() == model_.device()) return true;  // the kernels look at them
  if (tokens.device().type != DeviceType::kCpu) return false;
  const std::span<const int32_t> values(tokens.data<int32_t>(),
                                        static_cast<size_t>(tokens.elements()));
  return std::all_of(values.begin(), values.end(),
                     [&](int32_t token) { return token >= 0 && token < model_.vocab_size(); });
}

Tensor Decoder::Step(const Tensor& tokens, State* state) {
  const bool can_record = CanRecord(tokens, *state);
  if (can_record && recording_ && recording_->tokens.shape() == tokens.shape() &&
      recording_->place == PlaceOf(*state) && HasRoom(*state)) {
    recording_->tokens.CopyFrom(tokens);
    if (recording_->positions) recording_->positions.CopyFrom(PositionsOf(*state));
    recording_->graph->Launch();
    ++repeated_steps_;
    for (int64_t& position : state->mutable_positions()) ++position;
    return recording_->logits;
  }
  const Tensor hidden =
      model_.Forward(tokens, SequenceLayout::Uniform(tokens.elements(), 1), state);
  const Tensor logits = model_.Logits(hidden);
  const Place place = can_record ? PlaceOf(*state) : Place();
  if (can_record && place == last_ && HasRoom(*state)) {
    try {
      Record(*state);
    } catch (const Error& error) {
      // The step is done; those that follow are only slower.
      recordable_ = false;
      Log(LogLevel::kWarning,
          fmt::format("steps of generation are not repeated as a whole: {}", error.what()));
    }
  }
  last_ = place;
  return logits;
}

void Decoder::Record(const State& state) {
  recording_.reset();
  auto recording = std::make_unique<Recording>();
  recording->place = PlaceOf(state);
  const Device device = model_.device();
  recording->tokens = Tensor::Zeros({state.sequences()}, DType::kI32, device);
  const bool grows = std::any_of(state.entries().begin(), state.entries().end(),
                                 [](const State::Entry& entry) { return entry.grows; });
  if (grows) recording->positions = PositionsOf(state).To(device);
  Memory memory;
  const SequenceLayout layout = SequenceLayout::Uniform(state.sequences(), 1);
  recording->graph = cuda::GetModule().Record(device.index, [&] {
    // The state itself must not notice: nothing is done yet.
    memory = Memory();
    for (const State::Entry& entry : state.entries()) memory.entries.emplace_back(entry.value);
    memory.positions.assign(state.positions().begin(), state.positions().end());
    memory.device_positions = recording->positions;
    const Variable hidden = model_.Hidden(nullptr, recording->tokens, layout, &memory);
    recording->logits = model_.Logits(hidden.value());
  });
  for (size_t i = 0; i < memory.entries.size(); ++i) {
    if (memory.entries[i].value().raw() == recording->place[i].first) continue;
    throw Error(ErrorCode::kUnsupported,
                fmt::format("a step of the model does not overwrite its memory {}",
                            state.entries()[i].name));
  }
  recording_ = std::move(recording);
}

}  // namespace adder
