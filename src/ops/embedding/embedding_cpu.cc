// embedding on the CPU: rows are shared between threads forwards, channels backwards.
#include <algorithm>
#include <cstring>

#include "adder/backend/cpu/parallel.h"
#include "adder/backend/cpu/unpack_kernel.h"
#include "adder/ops/embedding/embedding_backends.h"
#include "adder/ops/embedding/embedding_kernel.h"

namespace adder::cpu {
namespace {

// Copying and adding take less than what most operators do.
constexpr int64_t kGrainElements = 2 * kElementsPerThread;
}  // namespace

void Embedding(const Tensor& tokens, const Tensor& W, const Tensor& y) {
  const int64_t channels = W.dim(1);
  if (channels == 0) return;
  const auto* token = tokens.data<int32_t>();
  const auto row_bytes = static_cast<size_t>(DTypeBytes(W.dtype(), channels));
  ParallelFor(tokens.dim(0), kGrainElements / channels,
              [&](int64_t begin, int64_t end, int /*thread*/) {
                if (W.dtype() == y.dtype()) {
                  for (int64_t t = begin; t < end; ++t) {
                    std::memcpy(y.row(t), W.row(token[t]), row_bytes);
                  }
                  return;
                }
                for (int64_t t = begin; t < end; ++t) {
                  UnpackRows({.W = W.row(token[t]),
                              .W_dtype = W.dtype(),
                              .to = y.row(t),
                              .rows = 1,
                              .K = channels});
                }
              });
}

// Each thread takes channels and walks all rows of them: no two threads add to one element, and
// every sum has the same order for any number of threads.
void EmbeddingBackward(const Tensor& tokens, const Tensor& dy, const Tensor& dW) {
  const int64_t channels = dW.dim(1);
  const int64_t blocks = (channels + kCacheLineFloats - 1) / kCacheLineFloats;
  const int64_t block_elements = kCacheLineFloats * std::max<int64_t>(1, tokens.dim(0));
  ParallelFor(blocks, kGrainElements / block_elements,
              [&](int64_t begin, int64_t end, int /*thread*/) {
                EmbeddingBackwardArguments arguments;
                arguments.tokens = tokens.data<int32_t>();
                arguments.dy = dy.raw();
                arguments.dy_dtype = dy.dtype();
                arguments.dy_stride = dy.stride(0);
                arguments.dW = dW.data<float>();
                arguments.dW_stride = dW.stride(0);
                arguments.rows = tokens.dim(0);
                arguments.channel_begin = begin * kCacheLineFloats;
                arguments.channel_end = std::min(channels, end * kCacheLineFloats);
                EmbeddingBackwardKernel(arguments);
              });
}

}  // namespace adder::cpu
