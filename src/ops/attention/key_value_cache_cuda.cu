// The key and value cache's copies on CUDA: a warp copies a row, of all sequences in one launch.
#include <algorithm>
#include <vector>

#include "adder/backend/cuda/launch.cuh"
#include "adder/backend/cuda/row_access.cuh"
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

// A block a sequence.
template <int kVector>
__global__ void __launch_bounds__(kThreads) AppendRowsKernel(AppendRowsArguments a, Fault fault) {
  const int64_t s = blockIdx.x;
  LetNextKernelBegin();
  WaitForKernelsBefore();
  const int64_t length = a.lengths[s];
  if (length < 0 || length >= a.capacity) {
    if (threadIdx.x == 0) fault.Raise();
    return;
  }
  for (int64_t d = static_cast<int64_t>(threadIdx.x) * kVector; d < a.columns;
       d += kThreads * kVector) {
    float values[kVector];
    LoadRow<kVector>(a.rows, s, d, values);
    StoreRow<kVector>(values, a.cache, s * a.capacity + length, d);
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

void AppendRows(const AppendRowsArguments& a) {
  if (a.sequences == 0 || a.columns == 0) return;
  const ProfilerRange range("key and value cache");
  Context& context = ContextOf(a.device);
  const Fault fault =
      context.faults().Of("key_value_cache: a sequence has more rows than the cache has room for");
  const bool fours = a.columns % 4 == 0 && FourAtATime({a.rows, a.cache});
  LaunchOverlapped(context,
                   {.name = "key and value cache",
                    .grid = static_cast<unsigned>(a.sequences),
                    .block = kThreads},
                   fours ? AppendRowsKernel<4> : AppendRowsKernel<1>, a, fault);
}

}  // namespace adder::cuda
