// The training step.
#include "adder/train/trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "adder/autograd/tape.h"
#include "adder/core/error.h"
#include "adder/formats/safetensors.h"
#include "adder/ops/adamw/adamw.h"
#include "adder/train/finite.h"

namespace adder {
namespace {

constexpr std::string_view kOptimizerFile = "optimizer.safetensors";
constexpr std::string_view kCarriedFile = "carried.safetensors";

BatchOptions OptionsOf(const TrainConfig& config) {
  BatchOptions options;
  options.packing = config.data.packing;
  options.batch = config.train.batch;
  options.length = config.train.length;
  options.seed = static_cast<uint64_t>(config.train.seed);
  if (config.train.truncated_backpropagation) {
    options.streams = config.train.batch * config.train.gradient_accumulation;
  }
  return options;
}

// Copies row from_rows[i] of one tensor to row i of another, unless it is -1.
void CopyRows(const Tensor& from, const std::vector<int64_t>& from_rows, const Tensor& to) {
  for (size_t begin = 0; begin < from_rows.size();) {
    size_t end = begin + 1;  // of rows that lie one after the other in both
    if (from_rows[begin] >= 0) {
      while (end < from_rows.size() && from_rows[end] == from_rows[end - 1] + 1) ++end;
      const auto count = static_cast<int64_t>(end - begin);
      to.Rows(static_cast<int64_t>(begin), count).CopyFrom(from.Rows(from_rows[begin], count));
    }
    begin = end;
  }
}

Shape WithRows(const Shape& shape, int64_t rows) {
  std::vector<int64_t> dims(shape.dims().begin(), shape.dims().end());
  dims[0] = rows;
  return Shape(dims);
}

// All but the rate and the step's number.
AdamWOptions OptionsOf(const TrainConfig::Optimizer& optimizer) {
  AdamWOptions options;
  options.beta1 = optimizer.beta1;
  options.beta2 = optimizer.beta2;
  options.eps = optimizer.eps;
  return options;
}

std::string CarriedName(size_t batch, const std::string& entry) {
  return fmt::format("batch.{}.{}", batch, entry);
}

// Overwrites `target` with the file's tensor of that name.
void Restore(const SafetensorsFile& file, const std::string& name, const Tensor& target) {
  const Tensor& saved = file.Get(name);
  if (saved.shape() != target.shape() || saved.dtype() != target.dtype()) {
    throw Error(ErrorCode::kCorrupt,
                fmt::format("{}: tensor {} is {}, expected {}", file.path().string(), name,
                            saved.ToString(), target.ToString()));
  }
  target.CopyFrom(saved);
}

}  // namespace

Trainer::Trainer(LanguageModel& model, const TrainingCorpus& corpus, const TrainConfig& config)
    : model_(model),
      options_(config.train),
      optimizer_(config.optimizer),
      sampler_(corpus, OptionsOf(config)),
      recorded_(model.device(), [this](const StepInputs& inputs) { return Compute(inputs); }) {
  if (model.vocab_size() < corpus.vocab_size()) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("the model has {} tokens, expected at least the {} of the text",
                            model.vocab_size(), corpus.vocab_size()));
  }
  // With 0 a parameter without a gradient would become 0 / 0.
  if (!(optimizer_.eps > 0.0)) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("optimizer.eps is {}, expected more than 0", optimizer_.eps));
  }
  model_.PrepareTraining();
  for (const Parameter& parameter : model_.parameters()) {
    m_.push_back(Tensor::Zeros(parameter.value.shape(), DType::kF32, model_.device()));
    v_.push_back(Tensor::Zeros(parameter.value.shape(), DType::kF32, model_.device()));
  }
  if (options_.segment > 0) segmented_.emplace(model_, options_.segment, options_.recompute);
  const State zero = model_.InitialState(options_.truncated_backpropagation ? options_.batch : 0);
  const bool grows = std::any_of(zero.entries().begin(), zero.entries().end(),
                                 [](const State::Entry& entry) { return entry.grows; });
  // Rows that attention reads are numbered by the host, and so are weights of rows in segments.
  if (grows || segmented_) recorded_.Disable();
  if (options_.truncated_backpropagation) {
    if (grows) {
      throw Error(ErrorCode::kUnsupported,
                  "truncated backpropagation carries a memory of fixed size, and a model with "
                  "attention remembers every row");
    }
    carried_.resize(static_cast<size_t>(options_.gradient_accumulation));
    for (Carried& carried : carried_) {
      for (const State::Entry& entry : zero.entries()) carried.push_back(entry.value.Clone());
    }
  }
}

Memory Trainer::BeginningMemory(const Batch& batch) const {
  Memory memory;
  for (const Tensor& carried : carried_[static_cast<size_t>(batch.first_stream / options_.batch)]) {
    const Tensor begin = Tensor::Zeros(WithRows(carried.shape(), batch.layout.sequences()),
                                       DType::kF32, carried.device());
    CopyRows(carried, batch.continues, begin);
    memory.entries.emplace_back(begin);
  }
  return memory;
}

Trainer::Carried Trainer::EndingMemory(const Batch& batch, const Memory& memory) const {
  Carried carried;
  for (const Variable& entry : memory.entries) {
    const Tensor end = Tensor::Empty(WithRows(entry.value().shape(), options_.batch), DType::kF32,
                                     entry.value().device());
    CopyRows(entry.value(), batch.last, end);
    carried.push_back(end);
  }
  return carried;
}

StepOutputs Trainer::Compute(const StepInputs& inputs) {
  const bool carry = options_.truncated_backpropagation;
  const Device device = model_.device();
  const Tensor row_weights = inputs.row_weights.To(device);
  const Tensor scalars = inputs.scalars.To(device);
  int64_t rows = 0;
  for (const Batch& batch : inputs.batches) rows += batch.layout.rows();
  const Tensor losses = Tensor::Empty({rows}, DType::kF32, device);
  StepOutputs outputs;
  model_.ZeroGradients();
  int64_t first_row = 0;
  for (const Batch& batch : inputs.batches) {
    const int64_t batch_rows = batch.layout.rows();
    const Tensor batch_losses = losses.Rows(first_row, batch_rows);
    first_row += batch_rows;
    Tape tape;
    Memory memory;
    if (carry) memory = BeginningMemory(batch);
    Memory* const carried = carry ? &memory : nullptr;
    if (segmented_) {
      batch_losses.CopyFrom(segmented_->Run(batch.tokens, batch.targets, batch.layout,
                                            inputs.row_weights.data<float>()[0], carried));
    } else {
      const Variable hidden =
          model_.Hidden(&tape, batch.tokens, batch.layout, carried, options_.recompute);
      batch_losses.CopyFrom(
          model_.LossWithGradients(hidden, batch.targets, row_weights.Rows(0, batch_rows)));
    }
    if (carry) outputs.carried.push_back(EndingMemory(batch, memory));
    memory = {};
    tape.Backward();
  }

  std::vector<AdamWTensors> tensors;
  const auto parameters = model_.parameters();
  tensors.reserve(parameters.size());
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter& p = parameters[i];
    tensors.push_back({.gradient = p.grad,
                       .weight = p.value,
                       .m = m_[i],
                       .v = v_[i],
                       .compute_weight = p.compute_is_copy ? p.compute : Tensor(),
                       .lr_scale = p.learning_rate_scale,
                       .weight_decay = p.weight_decay ? optimizer_.weight_decay : 0.0});
  }
  outputs.result = Tensor::Empty({2}, DType::kF64, device);
  ClippedAdamW(OptionsOf(optimizer_), optimizer_.clip, losses, tensors, scalars, outputs.result);
  model_.ParametersTrained();
  return outputs;
}

Trainer::StepResult Trainer::Step(double lr) {
  StepInputs inputs;
  int64_t targets = 0;
  int64_t rows = 0;
  int64_t most_rows = 0;
  for (int64_t i = 0; i < options_.gradient_accumulation; ++i) {
    const Batch& batch =
        inputs.batches.emplace_back(sampler_.Get(steps_ * options_.gradient_accumulation + i));
    targets += batch.target_rows;
    rows += batch.layout.rows();
    most_rows = std::max(most_rows, batch.layout.rows());
  }
  // Text of nothing but one-byte documents has no target: such a step has loss and gradient 0.
  targets = std::max<int64_t>(1, targets);
  inputs.row_weights = Tensor::Empty({most_rows}, DType::kF32);
  std::fill_n(inputs.row_weights.data<float>(), most_rows,
              static_cast<float>(1.0 / static_cast<double>(targets)));
  AdamWOptions adamw = OptionsOf(optimizer_);
  adamw.lr = lr;
  adamw.step = steps_ + 1;
  inputs.scalars = AdamWScalars(adamw);

  const StepOutputs outputs = recorded_.Run(inputs);
  const Tensor sums = outputs.result.To(Device{});  // here the host waits for the device
  const double nats = sums.data<double>()[0];
  StepResult result;
  result.loss = nats / static_cast<double>(targets);
  result.gradient_norm = sums.data<double>()[1];
  const auto stop = [&](const char* what, double value) {
    throw Error(ErrorCode::kNumeric,
                fmt::format("the {} of step {} is {}", what, steps_ + 1, value));
  };
  if (!std::isfinite(nats)) stop("loss", nats);
  if (!std::isfinite(result.gradient_norm)) stop("gradient's norm", result.gradient_norm);

  model_.ParametersRefreshed();
  // In its place, which recorded work reads.
  for (size_t batch = 0; batch < carried_.size(); ++batch) {
    for (size_t i = 0; i < carried_[batch].size(); ++i) {
      carried_[batch][i].CopyFrom(outputs.carried[batch][i]);
    }
  }
  ++steps_;
  tokens_ += rows;
  return result;
}

bool Trainer::Finite() const {
  const auto parameters = std::as_const(model_).parameters();
  return std::all_of(parameters.begin(), parameters.end(),
                     [](const Parameter& parameter) { return AllFinite(parameter.value); }) &&
         std::all_of(m_.begin(), m_.end(), AllFinite) &&
         std::all_of(v_.begin(), v_.end(), AllFinite);
}

void Trainer::Save(const std::filesystem::path& folder) const {
  std::vector<std::pair<std::string, Tensor>> tensors;
  const auto parameters = std::as_const(model_).parameters();
  for (size_t i = 0; i < parameters.size(); ++i) {
    tensors.emplace_back("m." + parameters[i].name, m_[i].To(Device{}));
    tensors.emplace_back("v." + parameters[i].name, v_[i].To(Device{}));
  }
  WriteSafetensors(folder / kOptimizerFile, tensors);
  if (carried_.empty()) return;
  tensors.clear();
  const State names = model_.InitialState(0);
  for (size_t batch = 0; batch < carried_.size(); ++batch) {
    for (size_t i = 0; i < names.entries().size(); ++i) {
      tensors.emplace_back(CarriedName(batch, names.entries()[i].name),
                           carried_[batch][i].To(Device{}));
    }
  }
  WriteSafetensors(folder / kCarriedFile, tensors);
}

void Trainer::Load(const std::filesystem::path& folder, int64_t steps, int64_t tokens) {
  const SafetensorsFile optimizer = SafetensorsFile::Open(folder / kOptimizerFile);
  const auto parameters = std::as_const(model_).parameters();
  for (size_t i = 0; i < parameters.size(); ++i) {
    Restore(optimizer, "m." + parameters[i].name, m_[i]);
    Restore(optimizer, "v." + parameters[i].name, v_[i]);
  }
  if (!carried_.empty()) {
    const SafetensorsFile saved = SafetensorsFile::Open(folder / kCarriedFile);
    const State names = model_.InitialState(0);
    for (size_t batch = 0; batch < carried_.size(); ++batch) {
      for (size_t i = 0; i < names.entries().size(); ++i) {
        Restore(saved, CarriedName(batch, names.entries()[i].name), carried_[batch][i]);
      }
    }
  }
  steps_ = steps;
  tokens_ = tokens;
}

}  // namespace adder
