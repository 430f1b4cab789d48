// embedding: its definition, in double.
#include "adder/ops/embedding/embedding_backends.h"

namespace adder::reference {
namespace {

double* Row(const Tensor& matrix, int64_t row) {
  return matrix.data<double>() + row * matrix.stride(0);
}

}  // namespace

void Embedding(const Tensor& tokens, const Tensor& W, const Tensor& y) {
  CheckEmbedding(tokens, W, y, {DType::kF64});
  for (int64_t t = 0; t < tokens.dim(0); ++t) {
    const double* vector = Row(W, tokens.data<int32_t>()[t]);
    for (int64_t d = 0; d < W.dim(1); ++d) Row(y, t)[d] = vector[d];
  }
}

void EmbeddingBackward(const Tensor& tokens, const Tensor& dy, const Tensor& dW) {
  CheckEmbeddingBackward(tokens, dy, dW, {DType::kF64}, DType::kF64);
  for (int64_t t = 0; t < tokens.dim(0); ++t) {
    double* gradient = Row(dW, tokens.data<int32_t>()[t]);
    for (int64_t d = 0; d < dW.dim(1); ++d) gradient[d] += Row(dy, t)[d];
  }
}

}  // namespace adder::reference
