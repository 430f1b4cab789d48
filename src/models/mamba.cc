// The model's parameters, what is derived from them, and the forward over all blocks.
#include "adder/models/mamba.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "adder/backend/cpu/parallel.h"
#include "adder/core/error.h"
#include "adder/ops/linear/linear.h"

namespace adder {
namespace {

constexpr bool kDecays = true;
constexpr bool kFullPrecision = true;

// A = -exp(A_log), written over `A` where that has the shape already.
Tensor DeriveA(const Tensor& A_log_any, const Tensor& old_A) {
  const Tensor A_log = A_log_any.To(DType::kF32);
  Tensor A = old_A.defined() ? old_A : Tensor::Empty(A_log.shape(), DType::kF32);
  const float* from = A_log.data<float>();
  float* to = A.data<float>();
  for (int64_t i = 0; i < A.elements(); ++i) to[i] = -std::exp(from[i]);
  return A;
}

// Appends evenly spaced samples of the tensor's bits: all of a small tensor, a few cache
// lines of a large one, so that a mapped checkpoint is not read from end to end.
void AppendSamples(const Tensor& tensor, std::string* samples) {
  constexpr int64_t kPieces = 8;
  constexpr int64_t kPieceBytes = 64;
  const Tensor dense = tensor.contiguous() ? tensor : tensor.Clone();
  const auto* bytes = static_cast<const char*>(dense.raw());
  if (dense.bytes() <= kPieces * kPieceBytes) {
    samples->append(bytes, static_cast<size_t>(dense.bytes()));
    return;
  }
  const int64_t last = dense.bytes() - kPieceBytes;
  for (int64_t i = 0; i < kPieces; ++i) {
    samples->append(bytes + last / (kPieces - 1) * i, static_cast<size_t>(kPieceBytes));
  }
}

}  // namespace

MambaModel::MambaModel(MambaConfig config, DType compute_dtype)
    : config_(config), compute_dtype_(compute_dtype) {
  config_.Resolve();
  if (compute_dtype != DType::kF32 && compute_dtype != DType::kBF16 &&
      compute_dtype != DType::kF16) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("a model cannot compute in {}, expected f32, bf16 or f16",
                            DTypeName(compute_dtype)));
  }
  const MambaConfig& c = config_;
  const size_t per_layer = 9 + (c.use_conv_bias ? 1 : 0) + (c.use_bias ? 2 : 0);
  const size_t count =
      2 + per_layer * static_cast<size_t>(c.n_layer) + (c.tie_word_embeddings ? 0 : 1);
  parameters_.reserve(count);
  shapes_.reserve(count);
  const auto add = [&](std::string name, const Shape& shape, bool full_precision, bool decays) {
    Parameter parameter;
    parameter.name = std::move(name);
    parameter.full_precision = full_precision;
    parameter.weight_decay = decays;
    parameters_.push_back(std::move(parameter));
    shapes_.push_back(shape);
    return &parameters_.back();
  };

  add("backbone.embeddings.weight", {c.vocab_size, c.d_model}, !kFullPrecision, !kDecays);
  for (int64_t layer = 0; layer < c.n_layer; ++layer) {
    const std::string prefix = fmt::format("backbone.layers.{}.", layer);
    const auto vector = [&](const char* name, int64_t size) {
      return add(prefix + name, {size}, kFullPrecision, !kDecays);
    };
    const auto projection = [&](const char* name, int64_t outputs, int64_t inputs) {
      return add(prefix + name, {outputs, inputs}, !kFullPrecision, kDecays);
    };
    MambaBlock block;
    block.d_inner = c.d_inner;
    block.d_state = c.d_state;
    block.dt_rank = c.dt_rank;
    block.norm_eps = c.norm_eps;
    block.compute_dtype = compute_dtype_;
    block.norm = vector("norm.weight", c.d_model);
    block.A_log = add(prefix + "mixer.A_log", {c.d_inner, c.d_state}, kFullPrecision, !kDecays);
    block.D = vector("mixer.D", c.d_inner);
    block.conv_weight =
        add(prefix + "mixer.conv1d.weight", {c.d_inner, 1, c.d_conv}, kFullPrecision, kDecays);
    if (c.use_conv_bias) block.conv_bias = vector("mixer.conv1d.bias", c.d_inner);
    block.in_proj_weight = projection("mixer.in_proj.weight", 2 * c.d_inner, c.d_model);
    if (c.use_bias) block.in_proj_bias = vector("mixer.in_proj.bias", 2 * c.d_inner);
    block.x_proj_weight = projection("mixer.x_proj.weight", c.dt_rank + 2 * c.d_state, c.d_inner);
    block.dt_proj_weight = projection("mixer.dt_proj.weight", c.d_inner, c.dt_rank);
    block.dt_proj_bias = vector("mixer.dt_proj.bias", c.d_inner);
    block.out_proj_weight = projection("mixer.out_proj.weight", c.d_model, c.d_inner);
    if (c.use_bias) block.out_proj_bias = vector("mixer.out_proj.bias", c.d_model);
    blocks_.push_back(block);
  }
  norm_f_ = add("backbone.norm_f.weight", {c.d_model}, kFullPrecision, !kDecays);
  if (!c.tie_word_embeddings) {
    add("lm_head.weight", {c.vocab_size, c.d_model}, !kFullPrecision, kDecays);
  }
}

const Parameter& MambaModel::Head() const {
  return config_.tie_word_embeddings ? parameters_.front() : parameters_.back();
}

void MambaModel::ParametersChanged() {
  cpu::ParallelFor(static_cast<int64_t>(parameters_.size()), 1,
                   [&](int64_t begin, int64_t end, int) {
                     for (int64_t i = begin; i < end; ++i) {
                       const auto index = static_cast<size_t>(i);
                       Parameter& p = parameters_[index];
                       if (!p.value.defined() || p.value.shape() != shapes_[index]) {
                         throw Error(ErrorCode::kInvalidArgument,
                                     fmt::format("parameter {} is {}, expected shape {}", p.name,
                                                 p.value.ToString(), shapes_[index].ToString()));
                       }
                       const DType dtype = p.full_precision ? DType::kF32 : compute_dtype_;
                       if (p.name.ends_with("A_log")) {
                         p.compute = DeriveA(p.value, p.compute);
                       } else if (p.value.dtype() == dtype) {
                         p.compute = p.value;
                       } else if (p.compute.defined() && p.compute.dtype() == dtype) {
                         p.compute.CopyFrom(p.value);
                       } else {
                         p.compute = p.value.To(dtype);
                       }
                     }
                   });
  fingerprint_ = 0;
}

uint64_t MambaModel::fingerprint() const {
  if (const uint64_t known = fingerprint_; known != 0) return known;
  std::string samples = fmt::format(
      "mamba {} {} {} {} {} {} {} {} {} {} {:a}", config_.vocab_size, config_.d_model,
      config_.n_layer, config_.d_state, config_.d_conv, config_.d_inner, config_.dt_rank,
      config_.use_bias, config_.use_conv_bias, config_.tie_word_embeddings, config_.norm_eps);
  for (const Parameter& p : parameters_) {
    if (!p.value.defined()) {
      throw Error(ErrorCode::kInvalidArgument, "parameter " + p.name + " has no value yet");
    }
    samples += DTypeName(p.value.dtype());
    AppendSamples(p.value, &samples);
  }
  const uint64_t digest = std::max<uint64_t>(1, XXH64(samples.data(), samples.size(), 0));
  fingerprint_ = digest;
  return digest;
}

State MambaModel::InitialState(int64_t sequences) const {
  std::vector<State::Entry> entries;
  entries.reserve(2 * blocks_.size());
  for (int64_t layer = 0; layer < config_.n_layer; ++layer) {
    entries.push_back(
        {fmt::format("layers.{}.conv", layer),
         Tensor::Zeros({sequences, config_.d_conv - 1, config_.d_inner}, DType::kF32)});
    entries.push_back({fmt::format("layers.{}.ssm", layer),
                       Tensor::Zeros({sequences, config_.d_inner, config_.d_state}, DType::kF32)});
  }
  return State(fingerprint(), std::vector<int64_t>(static_cast<size_t>(sequences), 0),
               std::move(entries));
}

void MambaModel::CheckForward(const Tensor& tokens, const SequenceLayout& layout,
                              const std::vector<Variable>* states) const {
  const auto invalid = [](const std::string& message) {
    throw Error(ErrorCode::kInvalidArgument, message);
  };
  if (!parameters_.front().compute.defined()) invalid("the model's parameters have no values yet");
  if (!tokens.defined() || tokens.dtype() != DType::kI32 ||
      tokens.shape() != Shape({layout.rows()})) {
    invalid(fmt::format("tokens are {}, expected i32 [{}] as the layout says", tokens.ToString(),
                        layout.rows()));
  }
  if (states == nullptr) return;
  if (states->size() != 2 * blocks_.size()) {
    invalid(fmt::format("{} state variables were given, expected {}", states->size(),
                        2 * blocks_.size()));
  }
  const Shape shapes[] = {{layout.sequences(), config_.d_conv - 1, config_.d_inner},
                          {layout.sequences(), config_.d_inner, config_.d_state}};
  for (size_t i = 0; i < states->size(); ++i) {
    const Tensor& value = (*states)[i].value();
    if (value.defined() && (value.dtype() != DType::kF32 || value.shape() != shapes[i % 2])) {
      invalid(fmt::format("state of layer {} is {}, expected f32 {}", i / 2, value.ToString(),
                          shapes[i % 2].ToString()));
    }
  }
}

Variable MambaModel::Hidden(Tape* tape, const Tensor& tokens, const SequenceLayout& layout,
                            std::vector<Variable>* states, bool recompute,
                            SelectionTrace* trace) const {
  CheckForward(tokens, layout, states);
  Variable x = Embedding(tape, tokens, parameters_.front(), DType::kF32);
  Variable residual;
  for (size_t layer = 0; layer < blocks_.size(); ++layer) {
    const MambaBlock& block = blocks_[layer];
    Variable* window = states == nullptr ? nullptr : &(*states)[2 * layer];
    Variable* h = states == nullptr ? nullptr : &(*states)[2 * layer + 1];
    if (tape == nullptr || !recompute) {
      const MemoryUpdate update =
          tape == nullptr ? MemoryUpdate::kOverwrite : MemoryUpdate::kReplace;
      x = block.Forward(tape, x, layout, &residual, window, h, update, trace);
      continue;
    }
    const bool carries = states != nullptr;
    const Block run = [&block, layout, carries, trace](Tape* inner,
                                                       const std::vector<Variable>& in) {
      Variable stream = in[1];
      Variable new_window = in[2];
      Variable new_h = in[3];
      const Variable added = block.Forward(
          inner, in[0], layout, &stream, carries ? &new_window : nullptr,
          carries ? &new_h : nullptr, MemoryUpdate::kReplace,
          inner == nullptr ? trace : nullptr);  // traced once, not again when recomputed
      return std::vector<Variable>{added, stream, new_window, new_h};
    };
    const std::vector<Variable> out = Checkpoint(
        tape, run, {x, residual, carries ? *window : Variable(), carries ? *h : Variable()});
    x = out[0];
    residual = out[1];
    if (carries) {
      *window = out[2];
      *h = out[3];
    }
  }
  return RmsNorm(tape, x, residual, *norm_f_, config_.norm_eps, compute_dtype_);
}

Tensor MambaModel::Logits(const Tensor& hidden) const {
  Tensor logits = Tensor::Empty({hidden.dim(0), config_.vocab_size}, DType::kF32, hidden.device());
  Linear(hidden, Head().compute, {}, logits);
  return logits;
}

Variable MambaModel::Loss(Tape* tape, const Variable& hidden, const Tensor& targets) const {
  return SoftmaxCrossEntropy(tape, hidden, Head(), targets);
}

}  // namespace adder
