// The key and value cache's copies on CUDA: a warp copies a row, of all sequences in one launch.
#include <algorithm>
#include <vector>

#include "adder/backend/cuda/row_access.cuh"
#include "adder/backend/cuda/runtime.cuh"
#include "adder/ops/attention/key_value_cache_cuda.h"

namespace adder::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kThreads = 256;

template <int kVector>
__global__ void __launch_bounds__(kThreads)
    CopyRowSpansKernel(CopyRowSpansArguments a, int64_t rows) {
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (kThreads / kWarp);
  const int lane = threadIdx.x % kWarp;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
       i < rows; i += warps) {
    // The last span that begins at or before i: an empty one begins where its successor does.
    int64_t low = 0;
    int64_t high = a.count;
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      if (a.spans[middle].before <= i) {
        low = middle;
      } else {
        high = middle;
      }
    }
    const RowSpan span = a.spans[low];
    const int64_t row = i - span.before;
#pragma unroll 4
    for (int64_t d = lane * kVector; d < a.columns; d += kWarp * kVector) {
      float values[kVector] = {};
      if (row < span.rows) LoadRow<kVector>(a.from, span.from + row, d, values);
      StoreRow<kVector>(values, a.to, span.to + row, d);
    }
  }
}

}  // namespace

void CopyRowSpans(const CopyRowSpansArguments& arguments) {
  std::vector<RowSpan> spans(arguments.spans, arguments.spans + arguments.count);
  int64_t rows = 0;
  for (RowSpan& span : spans) {
    span.before = rows;
    rows += span.rows + span.zeros;
  }
  if (rows == 0 || arguments.columns == 0) return;
  const ProfilerRange range("key and value cache");
  Context& context = ContextOf(arguments.device);
  CopyRowSpansArguments a = arguments;
  a.spans = static_cast<const RowSpan*>(
      context.Table(spans.data(), static_cast<int64_t>(spans.size() * sizeof(RowSpan))));
  const auto blocks = static_cast<unsigned>(
      std::min<int64_t>((rows * kWarp + kThreads - 1) / kThreads, 32 * context.multiprocessors()));
  if (a.columns % 4 == 0 && FourAtATime({a.from, a.to})) {
    CopyRowSpansKernel<4><<<blocks, kThreads, 0, context.stream()>>>(a, rows);
  } else {
    CopyRowSpansKernel<1><<<blocks, kThreads, 0, context.stream()>>>(a, rows);
  }
  CheckLaunch("key and value cache");
}

}  // namespace adder::cuda
