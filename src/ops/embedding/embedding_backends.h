// What the dispatch, the reference and the backends of embedding share: the argument checks and one
// function per backend. Not for callers of the operator.
#pragma once

#include <initializer_list>

#include "adder/ops/embedding/embedding.h"

namespace adder {

// Throw kInvalidArgument unless all tensors agree and every token, where the host can read it, is
// in the vocabulary. `weights`: dtypes that W may have; `activations`: those of dy; `gradient`: the
// dtype of dW.
void CheckEmbedding(const Tensor& tokens, const Tensor& W, const Tensor& y,
                    std::initializer_list<DType> weights);
void CheckEmbeddingBackward(const Tensor& tokens, const Tensor& dy, const Tensor& dW,
                            std::initializer_list<DType> activations, DType gradient);

namespace cpu {
void Embedding(const Tensor& tokens, const Tensor& W, const Tensor& y);
void EmbeddingBackward(const Tensor& tokens, const Tensor& dy, const Tensor& dW);
}  // namespace cpu

namespace cuda {
void Embedding(const Tensor& tokens, const Tensor& W, const Tensor& y);
void EmbeddingBackward(const Tensor& tokens, const Tensor& dy, const Tensor& dW);
}  // namespace cuda

}  // namespace adder
