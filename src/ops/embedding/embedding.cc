// embedding: argument checks, and the choice of the backend by the table's device.
#include "adder/ops/embedding/embedding.h"

#include <fmt/format.h>

#include "adder/ops/argument_check.h"
#include "adder/ops/embedding/embedding_backends.h"

namespace adder {
namespace {

constexpr const char* kOp = "embedding";
constexpr const char* kBackwardOp = "embedding backward";

// Tokens come from outside (files, requests): each is checked before it becomes an address.
void CheckTokens(const ArgumentCheck& check, const Tensor& tokens, int64_t vocab) {
  check.Rank(tokens, "tokens", 1);
  check.Dense(tokens, "tokens", {DType::kI32}, {tokens.dim(0)});
  if (tokens.device().type != DeviceType::kCpu) return;  // a device checks its own
  const int32_t* token = tokens.data<int32_t>();
  for (int64_t t = 0; t < tokens.dim(0); ++t) {
    if (token[t] < 0 || token[t] >= vocab) {
      check.Fail(
          fmt::format("token {} at row {} is outside the vocabulary of {}", token[t], t, vocab));
    }
  }
}

}  // namespace

void CheckEmbedding(const Tensor& tokens, const Tensor& W, const Tensor& y,
                    std::initializer_list<DType> weights) {
  const ArgumentCheck check(kOp, W.device());
  check.Rank(W, "W", 2);
  check.Rows(W, "W", weights, W.shape());
  CheckTokens(check, tokens, W.dim(0));
  const Shape shape = {tokens.dim(0), W.dim(1)};
  if (W.dtype() == DType::kBF16 || W.dtype() == DType::kF16) {
    check.Rows(y, "y", {W.dtype(), DType::kF32}, shape);
  } else if (IsQuantized(W.dtype())) {
    check.Rows(y, "y", {DType::kF32}, shape);
  } else {
    check.Rows(y, "y", {W.dtype()}, shape);
  }
  check.Apart(y, "y", W, "W");
}

void CheckEmbeddingBackward(const Tensor& tokens, const Tensor& dy, const Tensor& dW,
                            std::initializer_list<DType> activations, DType gradient) {
  const ArgumentCheck check(kBackwardOp, dW.device());
  check.Rank(dW, "dW", 2);
  check.Rows(dW, "dW", {gradient}, dW.shape());
  CheckTokens(check, tokens, dW.dim(0));
  check.Rows(dy, "dy", activations, {tokens.dim(0), dW.dim(1)});
  check.Apart(dW, "dW", dy, "dy");
}

void Embedding(const Tensor& tokens, const Tensor& W, const Tensor& y) {
  CheckEmbedding(tokens, W, y,
                 {DType::kF32, DType::kBF16, DType::kF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_K,
                  DType::kQ6_K});
  if (W.device().type == DeviceType::kCuda) return cuda::Embedding(tokens, W, y);
  cpu::Embedding(tokens, W, y);
}

void EmbeddingBackward(const Tensor& tokens, const Tensor& dy, const Tensor& dW) {
  CheckEmbeddingBackward(tokens, dy, dW, {DType::kF32, DType::kBF16, DType::kF16}, DType::kF32);
  if (dW.device().type == DeviceType::kCuda) return cuda::EmbeddingBackward(tokens, dy, dW);
  cpu::EmbeddingBackward(tokens, dy, dW);
}

}  // namespace adder
