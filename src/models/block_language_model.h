// The language model of every architecture: embedding, residual blocks, final norm, head. Which
// blocks, and what the parameters are called, the config decides.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "adder/core/dtype.h"
#include "adder/models/block.h"
#include "adder/models/language_model.h"
#include "adder/models/model_config.h"
#include "adder/models/parameter_list.h"

namespace adder {

// What an architecture calls the parameters outside its blocks, as its checkpoints do.
struct ParameterNames {
  std::string embedding;  // "backbone.embeddings.weight"
  std::string layers;     // "backbone.layers."
  std::string norm;       // "backbone.norm_f", without ".weight"
  std::string head;       // "lm_head.weight"

  static ParameterNames Of(Architecture architecture);
};

// A model whose parameters have their shapes but no values; a checkpoint reader or
// InitializeModel fills them. Parameters' values are f32 tensors, or may be replaced by tensors of
// another dtype (mapped checkpoints, quantized weights); ParametersChanged() then makes them count.
//
// The residual stream and everything marked full_precision is computed in f32; projections, the
// embedding, the head and the activations between them are in the compute dtype.
class BlockLanguageModel : public LanguageModel {
 public:
  // Allocates nothing for the parameters: their values are undefined until set. Throws
  // kInvalidArgument for a config that does not Resolve().
  BlockLanguageModel(ModelConfig config, DType compute_dtype);
  BlockLanguageModel(const BlockLanguageModel&) = delete;
  BlockLanguageModel& operator=(const BlockLanguageModel&) = delete;

  const ModelConfig& config() const { return config_; }

  // Shape every parameter must have, by index in parameters().
  const std::vector<Shape>& parameter_shapes() const { return list_.shapes(); }

  int64_t vocab_size() const override { return config_.vocab_size; }
  int64_t n_layer() const override { return config_.n_layer; }
  DType compute_dtype() const override { return compute_dtype_; }
  Device device() const override { return device_; }
  // Computes on `device` from now on: what operators read of the parameters, and what is trained,
  // goes there, one parameter at a time; the memory it had elsewhere is given up. Values that are
  // only read stay where they are (a mapped checkpoint, whose pages the system may drop), and those
  // computed from are copies. Throws kUnsupported for a device that is not there, kOutOfMemory.
  void MoveTo(Device device);
  using LanguageModel::parameters;
  std::span<Parameter> parameters() override { return list_.parameters(); }
  uint64_t fingerprint() const override;
  // Entries "layers.N.NAME" with what the layer's blocks remember (see their headers).
  State InitialState(int64_t sequences) const override;
  Variable Hidden(Tape* tape, const Tensor& tokens, const SequenceLayout& layout, Memory* memory,
                  Recompute recompute = Recompute::kNone,
                  SelectionTrace* trace = nullptr) const override;
  Tensor Logits(const Tensor& hidden) const override;
  Variable Loss(Tape* tape, const Variable& hidden, const Tensor& targets) const override;
  Tensor LossWithGradients(const Variable& hidden, const Tensor& targets,
                           const Tensor& d_loss) const override;
  void ParametersChanged() override;
  void ParametersTrained() override;
  void ParametersRefreshed() override { fingerprint_ = 0; }

 private:
  // A block, and where in the memory its part begins.
  struct PlacedBlock {
    std::unique_ptr<Block> block;
    size_t memory_begin;
    size_t memory_count;
  };

  DType DTypeOfCompute(const Parameter& p) const;
  // p.compute is a copy that p.value can be written to where it is.
  bool HasCopyInPlace(const Parameter& p) const;
  // Fills p.compute from p.value.
  void Derive(Parameter& p) const;
  void AddBlocks(int64_t layer);
  void AddBlock(int64_t layer, std::unique_ptr<Block> block);
  void CheckForward(const Tensor& tokens, const SequenceLayout& layout, const Memory* memory) const;

  ModelConfig config_;
  DType compute_dtype_;
  Device device_;
  ParameterNames names_;
  ParameterList list_;
  const Parameter* embedding_ = nullptr;
  std::vector<PlacedBlock> blocks_;
  std::vector<Block::MemoryPart> memory_;  // of all blocks, named as in the state
  Norm norm_;
  const Parameter* head_ = nullptr;                // the embedding where tied
  mutable std::atomic<uint64_t> fingerprint_ = 0;  // 0: not computed yet
};

// Fills all parameters as the papers' code does (references in docs/training.md): S4D-Real A,
// log-uniform dt bias, scaled output projections. Each parameter draws from its own Philox stream,
// chosen by its name, so that the values depend neither on the other parameters nor on the threads.
void InitializeModel(BlockLanguageModel& model, uint64_t seed);

}  // namespace adder
