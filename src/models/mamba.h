// The Mamba-1 language model: embedding, n_layer pre-norm residual Mamba blocks, final norm, head
// (arXiv 2312.00752, section 3.4; parameter names as in Hugging Face's MambaForCausalLM).
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "adder/core/dtype.h"
#include "adder/core/random.h"
#include "adder/models/language_model.h"
#include "adder/models/mamba_block.h"
#include "adder/models/mamba_config.h"

namespace adder {

// A model whose parameters have their shapes but no values; a checkpoint reader or
// InitializeMamba fills them. Parameters' values are f32 tensors, or may be replaced by tensors of
// another floating dtype (mapped checkpoints); ParametersChanged() then makes them count.
//
// The residual stream and everything marked full_precision is computed in f32; projections, the
// embedding, the head and the activations between them are in the compute dtype.
//
// Weight decay goes as in the trainer that the authors published for their language models: linear
// layers (the untied head too) and convolution kernels decay; biases, norms, A_log, D and the
// embedding, tied or not, do not.
class MambaModel : public LanguageModel {
 public:
  // Allocates nothing for the parameters: their values are undefined until set. Throws
  // kInvalidArgument for a config that does not Resolve().
  MambaModel(MambaConfig config, DType compute_dtype);
  MambaModel(const MambaModel&) = delete;
  MambaModel& operator=(const MambaModel&) = delete;

  const MambaConfig& config() const { return config_; }

  // Shape every parameter must have, by index in parameters().
  const std::vector<Shape>& parameter_shapes() const { return shapes_; }

  int64_t vocab_size() const override { return config_.vocab_size; }
  int64_t n_layer() const override { return config_.n_layer; }
  DType compute_dtype() const override { return compute_dtype_; }
  using LanguageModel::parameters;
  std::span<Parameter> parameters() override { return parameters_; }
  uint64_t fingerprint() const override;
  // Entries "layers.N.conv" f32 [sequences, d_conv-1, d_inner] and "layers.N.ssm" f32
  // [sequences, d_inner, d_state].
  State InitialState(int64_t sequences) const override;
  Variable Hidden(Tape* tape, const Tensor& tokens, const SequenceLayout& layout,
                  std::vector<Variable>* states, bool recompute = false,
                  SelectionTrace* trace = nullptr) const override;
  Tensor Logits(const Tensor& hidden) const override;
  Variable Loss(Tape* tape, const Variable& hidden, const Tensor& targets) const override;
  void ParametersChanged() override;

 private:
  const Parameter& Head() const;
  void CheckForward(const Tensor& tokens, const SequenceLayout& layout,
                    const std::vector<Variable>* states) const;

  MambaConfig config_;
  DType compute_dtype_;
  std::vector<Parameter> parameters_;  // never resized: the blocks point into it
  std::vector<Shape> shapes_;
  std::vector<MambaBlock> blocks_;
  const Parameter* norm_f_ = nullptr;
  mutable std::atomic<uint64_t> fingerprint_ = 0;  // 0: not computed yet
};

// Fills all parameters as the paper's code does (references in docs/training.md): S4D-Real A,
// log-uniform dt bias, scaled out_proj. Each parameter draws from its own Philox stream, chosen by
// its name, so that the values depend neither on the other parameters nor on the threads.
void InitializeMamba(MambaModel& model, uint64_t seed);

}  // namespace adder
