// The work of a training step, done over and over: on a CUDA device steps that are alike are
// recorded and then asked for as a whole.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "adder/core/tensor.h"
#include "adder/data/batch_sampler.h"

namespace adder {

// What a step's work reads, beside the model and the optimizer: in host memory, or on the model's
// device already.
struct StepInputs {
  std::vector<Batch> batches;
  Tensor row_weights;  // f32 [rows of the longest batch], one value: what a row's loss counts
  Tensor scalars;      // f64 [4]: AdamWScalars
};

// What it leaves, on the model's device. The next step may overwrite it.
struct StepOutputs {
  Tensor result;  // f64 [2]: the sum of the losses, the gradient's norm
  // Per batch: the memory that its streams end with. Empty where none is carried.
  std::vector<std::vector<Tensor>> carried;
};

class RecordedStep {
 public:
  // Work must be the same for batches that are laid out alike, whatever their tokens and targets,
  // weights and scalars are; and what else it reads and writes must stay where it is.
  using Work = std::function<StepOutputs(const StepInputs& inputs)>;

  // `device`: where the work is done.
  RecordedStep(Device device, Work work);
  ~RecordedStep();
  RecordedStep(const RecordedStep&) = delete;
  RecordedStep& operator=(const RecordedStep&) = delete;

  // Does the work. Steps are recorded at the second in a row whose batches all have one layout, and
  // that of the step before; the recording is repeated until a step differs, and then given up.
  // Each one given up doubles the number of steps alike that the next one takes.
  StepOutputs Run(const StepInputs& inputs);

  // Work that cannot be recorded, because it copies from or to the host, must not be.
  void Disable();

  // Steps that repeated a recording.
  int64_t repeated() const { return repeated_; }

 private:
  struct Recording;

  void Record(const StepInputs& inputs);
  StepOutputs Repeat(const StepInputs& inputs);

  Device device_;
  Work work_;
  bool enabled_;
  std::vector<Batch> last_;  // of the step before
  int64_t alike_ = 0;        // steps like it, in a row
  int64_t wanted_ = 2;
  int64_t repeated_ = 0;
  std::unique_ptr<Recording> recording_;
};

}  // namespace adder
