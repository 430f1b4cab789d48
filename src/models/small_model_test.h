// What the tests of models share: a small model, token rows, one training step's gradients.
#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "adder/core/random.h"
#include "adder/models/block_language_model.h"
#include "adder/ops/operator_test.h"
#include "adder/ops/softmax_cross_entropy/softmax_cross_entropy.h"

namespace adder::test {

inline constexpr Recompute kEveryRecompute[] = {Recompute::kNone, Recompute::kScan,
                                                Recompute::kBlock};

inline ModelConfig SmallConfig() {
  ModelConfig config;
  config.vocab_size = 61;
  config.d_model = 40;
  config.n_layer = 3;
  config.d_state = 8;
  config.initializer_range = 0.5;  // at 0.02 the rows hardly differ after three layers
  config.Resolve();
  return config;
}

// A small model of every kind of block.
struct NamedConfig {
  std::string name;
  ModelConfig config;
};
inline std::vector<NamedConfig> EveryArchitecture() {
  ModelConfig falcon = SmallConfig();
  falcon.architecture = Architecture::kFalconMamba;
  ModelConfig mamba2 = SmallConfig();
  mamba2.architecture = Architecture::kMamba2;
  mamba2.head_dim = 16;
  mamba2.d_inner = 96;
  mamba2.n_groups = 2;
  ModelConfig hybrid = mamba2;
  hybrid.attention_layers = {1};
  hybrid.attention.n_head = 4;
  hybrid.attention.n_kv_head = 2;
  hybrid.attention.rotary_dim = 6;
  hybrid.attention.d_conv = 4;
  hybrid.d_intermediate = 64;
  ModelConfig llama = SmallConfig();
  llama.architecture = Architecture::kLlama;
  llama.attention.n_head = 4;
  llama.attention.rotary_dim = 10;
  llama.d_intermediate = 72;
  llama.initializer_range = 0.1;
  ModelConfig neox = llama;
  neox.architecture = Architecture::kGptNeoX;
  neox.rms_norm = false;
  neox.attention.use_qkv_bias = neox.attention.use_out_bias = true;
  ModelConfig sequential = neox;
  sequential.use_parallel_residual = false;
  return {{"mamba", SmallConfig()},
          {"falcon-mamba", falcon},
          {"mamba2", mamba2},
          {"hybrid", hybrid},
          {"llama", llama},
          {"gpt-neox", neox},
          {"gpt-neox, one after the other", sequential}};
}

inline std::unique_ptr<BlockLanguageModel> SmallModel(DType compute_dtype = DType::kF32,
                                                      const ModelConfig& config = SmallConfig()) {
  auto model = std::make_unique<BlockLanguageModel>(config, compute_dtype);
  InitializeModel(*model, 42);
  return model;
}

inline Tensor RandomTokens(int64_t rows, int64_t vocab, uint64_t seed) {
  Random random(seed);
  std::vector<int32_t> ids;
  for (int64_t t = 0; t < rows; ++t) {
    ids.push_back(static_cast<int32_t>(random.NextBelow(static_cast<uint64_t>(vocab))));
  }
  return Tensor::From<int32_t>({rows}, ids);
}

inline void Seed(const Variable& variable, float value) {
  variable.CollectGradOverwriting([value](const Tensor& target) {
    const Tensor host = Tensor::Empty(target.shape(), DType::kF32);
    std::fill_n(host.data<float>(), host.elements(), value);
    target.CopyFrom(host);
  });
}

// In host memory.
inline std::vector<Tensor> Gradients(const LanguageModel& model) {
  std::vector<Tensor> gradients;
  for (const Parameter& p : model.parameters()) gradients.push_back(p.grad.Clone().To(Device{}));
  return gradients;
}

// The gradients of the mean loss over all rows; the rows' losses go to *losses.
inline std::vector<Tensor> TrainingStep(LanguageModel& model, const Tensor& tokens,
                                        const Tensor& targets, const SequenceLayout& layout,
                                        Recompute recompute = Recompute::kNone,
                                        Tensor* losses = nullptr) {
  model.ZeroGradients();
  {
    Tape tape;
    const Variable loss =
        model.Loss(&tape, model.Hidden(&tape, tokens, layout, nullptr, recompute), targets);
    Seed(loss, 1.0f / static_cast<float>(std::max<int64_t>(1, layout.rows())));
    tape.Backward();
    if (losses != nullptr) *losses = loss.value().To(Device{});
  }
  return Gradients(model);
}

// The same, the gradients computed with the loss.
inline std::vector<Tensor> TrainingStepAtOnce(LanguageModel& model, const Tensor& tokens,
                                              const Tensor& targets, const SequenceLayout& layout,
                                              Tensor* losses) {
  model.ZeroGradients();
  const Tensor d_loss = Tensor::Empty({layout.rows()}, DType::kF32);
  std::fill_n(d_loss.data<float>(), layout.rows(),
              1.0f / static_cast<float>(std::max<int64_t>(1, layout.rows())));
  Tape tape;
  const Variable hidden = model.Hidden(&tape, tokens, layout, nullptr);
  *losses = model.LossWithGradients(hidden, targets, d_loss.To(model.device())).To(Device{});
  tape.Backward();
  return Gradients(model);
}

// Rows [begin, end) of every sequence of `layout`, clipped to it, and their tokens.
inline SequenceLayout Piece(const SequenceLayout& layout, int64_t begin, int64_t end) {
  std::vector<int64_t> lengths;
  for (int64_t s = 0; s < layout.sequences(); ++s) {
    lengths.push_back(std::min(end, layout.length(s)) - std::min(begin, layout.length(s)));
  }
  return SequenceLayout::FromLengths(lengths);
}

// The rows of `whole` that a piece that begins at row `begin` of every sequence has.
inline Tensor PieceRows(const Tensor& whole, const SequenceLayout& layout, int64_t begin,
                        const SequenceLayout& piece) {
  std::vector<int64_t> dims(whole.shape().dims().begin(), whole.shape().dims().end());
  dims[0] = piece.rows();
  Tensor rows = Tensor::Empty(Shape(dims), whole.dtype());
  for (int64_t s = 0; s < layout.sequences(); ++s) {
    if (piece.length(s) == 0) continue;
    rows.Rows(piece.begin(s), piece.length(s))
        .CopyFrom(whole.Rows(layout.begin(s) + begin, piece.length(s)));
  }
  return rows;
}

}  // namespace adder::test
