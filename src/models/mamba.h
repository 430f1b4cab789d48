// The Mamba-1 language model: embedding, n_layer pre-norm residual Mamba blocks, final norm, head
// (arXiv 2312.00752, section 3.4; parameter names as in Hugging Face's MambaForCausalLM).
#pragma once

#include <memory>
#include <vector>

#include "adder/core/dtype.h"
#include "adder/core/random.h"
#include "adder/models/language_model.h"
#include "adder/models/mamba_config.h"

namespace adder {

// A model whose parameters have their shapes but no values; a checkpoint reader or
// InitializeMamba fills them. Parameters' values are f32 tensors, or may be replaced by tensors of
// another floating dtype (mapped checkpoints).
class MambaModel : public LanguageModel {
 public:
  // Allocates nothing for the parameters: their values are undefined until set.
  MambaModel(MambaConfig config, DType compute_dtype);

  const MambaConfig& config() const { return config_; }

  // Shape every parameter must have, by index in parameters().
  const std::vector<Shape>& parameter_shapes() const { return shapes_; }

  int64_t vocab_size() const override { return config_.vocab_size; }
  int64_t n_layer() const override { return config_.n_layer; }
  DType compute_dtype() const override { return compute_dtype_; }
  std::span<Parameter> parameters() override { return parameters_; }
  uint64_t fingerprint() const override;
  State InitialState(int64_t sequences) const override;
  Variable Hidden(Tape* tape, const Tensor& tokens, const SequenceLayout& layout,
                  std::vector<Variable>* states, bool recompute,
                  SelectionTrace* trace) const override;
  Tensor Logits(const Tensor& hidden) const override;
  Variable Loss(Tape* tape, const Variable& hidden, const Tensor& targets) const override;
  void ParametersChanged() override;

 private:
  MambaConfig config_;
  DType compute_dtype_;
  std::vector<Parameter> parameters_;
  std::vector<Shape> shapes_;
};

// Fills all parameters as the paper's code does (references in docs/training.md): S4D-Real A,
// log-uniform dt bias, scaled out_proj. Each parameter draws from its own Philox stream.
void InitializeMamba(MambaModel& model, uint64_t seed);

}  // namespace adder
