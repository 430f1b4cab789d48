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

double Sum(const Tensor& values) {
  const Tensor host = values.To(Device{});
  const float* data = host.data<float>();
  double sum = 0.0;
  for (int64_t i = 0; i < host.elements(); ++i) sum += static_cast<double>(data[i]);
  return sum;
}

// `value` to all elements of an f32 tensor on any device.
void Fill(const Tensor& target, float value) {
  const Tensor host = Tensor::Empty(target.shape(), DType::kF32);
  std::fill_n(host.data<float>(), host.elements(), value);
  target.CopyFrom(host);
}

// Copies row `from_row` of one tensor to row `to_row` of another.
void CopyRow(const Tensor& from, int64_t from_row, const Tensor& to, int64_t to_row) {
  to.Rows(to_row, 1).CopyFrom(from.Rows(from_row, 1));
}

Shape WithRows(const Shape& shape, int64_t rows) {
  std::vector<int64_t> dims(shape.dims().begin(), shape.dims().end());
  dims[0] = rows;
  return Shape(dims);
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
      sampler_(corpus, OptionsOf(config)) {
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
  if (options_.truncated_backpropagation) {
    const State zero = model_.InitialState(options_.batch);
    carried_.resize(static_cast<size_t>(options_.gradient_accumulation));
    for (Carried& carried : carried_) {
      for (const State::Entry& entry : zero.entries()) {
        if (entry.grows) {
          throw Error(ErrorCode::kUnsupported,
                      "truncated backpropagation carries a memory of fixed size, and a model with "
                      "attention remembers every row");
        }
        carried.push_back(entry.value.Clone());
      }
    }
  }
}

Memory Trainer::BeginningMemory(const Batch& batch) const {
  Memory memory;
  for (const Tensor& carried : carried_[static_cast<size_t>(batch.first_stream / options_.batch)]) {
    const Tensor begin = Tensor::Zeros(WithRows(carried.shape(), batch.layout.sequences()),
                                       DType::kF32, carried.device());
    for (size_t s = 0; s < batch.continues.size(); ++s) {
      if (batch.continues[s] >= 0) {
        CopyRow(carried, batch.continues[s], begin, static_cast<int64_t>(s));
      }
    }
    memory.entries.emplace_back(begin);
  }
  return memory;
}

Trainer::Carried Trainer::EndingMemory(const Batch& batch, const Memory& memory) const {
  Carried carried;
  for (const Variable& entry : memory.entries) {
    const Tensor end = Tensor::Empty(WithRows(entry.value().shape(), options_.batch), DType::kF32,
                                     entry.value().device());
    for (size_t stream = 0; stream < batch.last.size(); ++stream) {
      CopyRow(entry.value(), batch.last[stream], end, static_cast<int64_t>(stream));
    }
    carried.push_back(end);
  }
  return carried;
}

Trainer::StepResult Trainer::Step(double lr) {
  const bool carry = options_.truncated_backpropagation;
  std::vector<Batch> batches;
  int64_t targets = 0;
  int64_t rows = 0;
  for (int64_t i = 0; i < options_.gradient_accumulation; ++i) {
    batches.push_back(sampler_.Get(steps_ * options_.gradient_accumulation + i));
    targets += batches.back().target_rows;
    rows += batches.back().layout.rows();
  }
  // Text of nothing but one-byte documents has no target: such a step has loss and gradient 0.
  const auto weight = static_cast<float>(1.0 / static_cast<double>(std::max<int64_t>(1, targets)));

  const auto stop = [&](const char* what, double value) {
    throw Error(ErrorCode::kNumeric,
                fmt::format("the {} of step {} is {}", what, steps_ + 1, value));
  };
  model_.ZeroGradients();
  std::vector<Tensor> losses;
  std::vector<Carried> carried;
  for (const Batch& batch : batches) {
    Tape tape;
    Memory memory;
    if (carry) memory = BeginningMemory(batch);
    if (segmented_) {
      losses.push_back(segmented_->Run(batch.tokens, batch.targets, batch.layout, weight,
                                       carry ? &memory : nullptr));
      if (carry) carried.push_back(EndingMemory(batch, memory));
      continue;
    }
    const Variable hidden = model_.Hidden(&tape, batch.tokens, batch.layout,
                                          carry ? &memory : nullptr, options_.recompute);
    const Variable loss = model_.Loss(&tape, hidden, batch.targets);
    losses.push_back(loss.value());
    if (carry) carried.push_back(EndingMemory(batch, memory));
    memory = {};
    loss.CollectGrad([&](const Tensor& target, bool) { Fill(target, weight); });
    tape.Backward();
  }

  // Everything has been asked of the device by now: here, and for the norm, the host waits for it.
  double nats = 0.0;
  for (const Tensor& loss : losses) nats += Sum(loss);
  if (!std::isfinite(nats)) stop("loss", nats);
  std::vector<Tensor> gradients;
  for (const Parameter& parameter : model_.parameters()) gradients.push_back(parameter.grad);
  StepResult result;
  result.loss = nats / static_cast<double>(std::max<int64_t>(1, targets));
  result.gradient_norm = GradientNorm(gradients);
  if (!std::isfinite(result.gradient_norm)) stop("gradient's norm", result.gradient_norm);

  AdamWOptions adamw;
  adamw.beta1 = optimizer_.beta1;
  adamw.beta2 = optimizer_.beta2;
  adamw.eps = optimizer_.eps;
  adamw.step = steps_ + 1;
  if (optimizer_.clip > 0.0 && result.gradient_norm > optimizer_.clip) {
    adamw.gradient_scale = optimizer_.clip / result.gradient_norm;
  }
  adamw.lr = lr;
  const auto parameters = model_.parameters();
  std::vector<AdamWTensors> tensors;
  tensors.reserve(parameters.size());
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter& p = parameters[i];
    // The copies in the compute dtype are the model's to refresh, all of them at once.
    tensors.push_back({.gradient = p.grad,
                       .weight = p.value,
                       .m = m_[i],
                       .v = v_[i],
                       .compute_weight = {},
                       .lr_scale = p.learning_rate_scale,
                       .weight_decay = p.weight_decay ? optimizer_.weight_decay : 0.0});
  }
  AdamWAll(adamw, tensors);
  model_.ParametersChanged();
  if (carry) carried_ = std::move(carried);
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
