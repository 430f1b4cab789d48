// embedding on the CPU: rows are shared between threads forwards, channels backwards.
#include <algorithm>
#include <cstring>

#include "adder/backend/cpu/parallel.h"
#include "adder/backend/cpu/unpack_kernel.h"
#include "adder/ops/embedding/embedding_backends.h"
#include "adder/ops/embedding/embedding_kernel.h"

namespace adder::cpu {
namespace {

// Elements below which another thread costs more than it saves.
constexpr int64_t kThreadElements = 32768;
// Channels of one cache line of f32: threads of the backward do not share lines.
constexpr int64_t kChannelBlock = 16;

std::byte* RowPointer(const Tensor& matrix, int64_t row) {
  return static_cast<std::byte*>(matrix.raw()) + row * DTypeBytes(matrix.dtype(), matrix.stride(0));
}

}  // namespace

void Embedding(const Tensor& tokens, const Tensor& W, const Tensor& y) {
  const int64_t channels = W.dim(1);
  if (channels == 0) return;
  const auto* token = tokens.data<int32_t>();
  const auto row_bytes = static_cast<size_t>(DTypeBytes(W.dtype(), channels));
  ParallelFor(tokens.dim(0), kThreadElements / channels,
              [&](int64_t begin, int64_t end, int /*thread*/) {
                if (W.dtype() == y.dtype()) {
                  for (int64_t t = begin; t < end; ++t) {
                    std::memcpy(RowPointer(y, t), RowPointer(W, token[t]), row_bytes);
                  }
                  return;
                }
                for (int64_t t = begin; t < end; ++t) {
                  UnpackRows({.W = RowPointer(W, token[t]),
                              .W_dtype = W.dtype(),
                              .to = RowPointer(y, t),
                              .rows = 1,
                              .K = channels});
                }
              });
}

// Each thread takes channels and walks all rows of them: no two threads add to one element, and
// every sum has the same order for any number of threads.
void EmbeddingBackward(const Tensor& tokens, const Tensor& dy, const Tensor& dW) {
  const int64_t channels = dW.dim(1);
  const int64_t blocks = (channels + kChannelBlock - 1) / kChannelBlock;
  const int64_t block_elements = kChannelBlock * std::max<int64_t>(1, tokens.dim(0));
  ParallelFor(blocks, kThreadElements / block_elements,
              [&](int64_t begin, int64_t end, int /*thread*/) {
                EmbeddingBackwardArguments arguments;
                arguments.tokens = tokens.data<int32_t>();
                arguments.dy = dy.raw();
                arguments.dy_dtype = dy.dtype();
                arguments.dy_stride = dy.stride(0);
                arguments.dW = dW.data<float>();
                arguments.dW_stride = dW.stride(0);
                arguments.rows = tokens.dim(0);
                arguments.channel_begin = begin * kChannelBlock;
                arguments.channel_end = std::min(channels, end * kChannelBlock);
                EmbeddingBackwardKernel(arguments);
              });
}

}  // namespace adder::cpu
