// A recording and when there is one.
#include "adder/train/recorded_step.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "adder/backend/cuda/module.h"
#include "adder/core/error.h"
#include "adder/core/log.h"

namespace adder {
namespace {

bool Alike(const std::vector<Batch>& a, const std::vector<Batch>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Batch& x, const Batch& y) {
    return x.layout == y.layout && x.first_stream == y.first_stream && x.continues == y.continues &&
           x.last == y.last;
  });
}

// A device keeps the tables of a few layouts only.
bool OneLayout(const std::vector<Batch>& batches) {
  return std::all_of(batches.begin(), batches.end(),
                     [&](const Batch& batch) { return batch.layout == batches.front().layout; });
}

}  // namespace

struct RecordedStep::Recording {
  StepInputs inputs;  // on the device
  StepOutputs outputs;
  std::unique_ptr<cuda::Graph> graph;
};

RecordedStep::RecordedStep(Device device, Work work)
    : device_(device), work_(std::move(work)), enabled_(device.type == DeviceType::kCuda) {}
RecordedStep::~RecordedStep() = default;

void RecordedStep::Disable() {
  enabled_ = false;
  recording_.reset();
}

StepOutputs RecordedStep::Run(const StepInputs& inputs) {
  if (!enabled_) return work_(inputs);
  if (recording_ && Alike(inputs.batches, last_)) return Repeat(inputs);
  if (recording_) {
    recording_.reset();  // its memory is what the work takes now
    wanted_ *= 2;
  }
  alike_ = Alike(inputs.batches, last_) ? alike_ + 1 : 1;
  last_ = inputs.batches;
  StepOutputs outputs = work_(inputs);
  if (alike_ >= wanted_ && OneLayout(inputs.batches)) Record(inputs);
  return outputs;
}

void RecordedStep::Record(const StepInputs& inputs) {
  auto recording = std::make_unique<Recording>();
  StepInputs& on_device = recording->inputs;
  on_device.batches = inputs.batches;
  for (Batch& batch : on_device.batches) {
    batch.tokens = Tensor::Empty(batch.tokens.shape(), batch.tokens.dtype(), device_);
    batch.targets = Tensor::Empty(batch.targets.shape(), batch.targets.dtype(), device_);
  }
  on_device.row_weights =
      Tensor::Empty(inputs.row_weights.shape(), inputs.row_weights.dtype(), device_);
  on_device.scalars = Tensor::Empty(inputs.scalars.shape(), inputs.scalars.dtype(), device_);
  try {
    recording->graph = cuda::GetModule().Record(
        device_.index, [&] { recording->outputs = work_(recording->inputs); });
  } catch (const Error& error) {
    // The step itself is done.
    Log(LogLevel::kWarning,
        fmt::format("steps go on one operator at a time, because they cannot be recorded: {}",
                    error.what()));
    recording->outputs = {};
    return Disable();
  }
  recording_ = std::move(recording);
}

StepOutputs RecordedStep::Repeat(const StepInputs& inputs) {
  const Recording& recording = *recording_;
  for (size_t i = 0; i < inputs.batches.size(); ++i) {
    recording.inputs.batches[i].tokens.CopyFrom(inputs.batches[i].tokens);
    recording.inputs.batches[i].targets.CopyFrom(inputs.batches[i].targets);
  }
  recording.inputs.row_weights.CopyFrom(inputs.row_weights);
  recording.inputs.scalars.CopyFrom(inputs.scalars);
  recording.graph->Launch();
  ++repeated_;
  return recording.outputs;
}

}  // namespace adder
