// causal_conv1d's forward on CUDA. Memory-bound, and so as a copy would do it: a thread takes a few
// channels of a few rows, all of which it asks for at once, and blocks follow each other as rows do
// in memory. What neighbours in time read of each other's rows comes from the cache.
#include <algorithm>

#include "adder/ops/causal_conv1d/causal_conv1d_cuda.cuh"
#include "adder/ops/causal_conv1d/causal_conv1d_step_cuda.cuh"

namespace adder::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kTileRows = 16;  // of a thread

// A sequence and its rows [begin, end).
struct Place {
  int64_t sequence, begin, end;
};

// That of a row, found by a whole warp.
__device__ inline Place PlaceOf(const int64_t* offsets, int64_t sequences, int64_t row) {
  constexpr unsigned kAll = 0xffffffffu;
  const int lane = static_cast<int>(threadIdx.x % 32);
  int64_t low = 0;
  int64_t high = sequences;  // offsets[low] <= row < offsets[high]
  while (true) {
    const int64_t step = (high - low + 30) / 31;  // the last lane looks at `high`
    const int64_t offset = offsets[min(low + lane * step, high)];
    const int reached = __popc(__ballot_sync(kAll, offset <= row));
    const int64_t begin = __shfl_sync(kAll, offset, reached - 1);
    const int64_t end = __shfl_sync(kAll, offset, reached);
    low += (reached - 1) * step;
    if (step == 1) return {low, begin, end};
    high = min(low + step, high);
  }
}

// `across`: blocks that a row takes; offsets: a.offsets on the device, `rows` the last of them.
template <class T, int kWidth, bool kExact, int kVector>
__global__ void __launch_bounds__(kThreads)
    CausalConv1dKernel(const __grid_constant__ CausalConv1dArguments a, const int64_t* offsets,
                       int64_t rows, unsigned across) {
  constexpr int kHalo = kWidth - 1;
  static_assert(kHalo <= kTileRows);
  const int64_t channel = (int64_t{blockIdx.x % across} * kThreads + threadIdx.x) * kVector;
  const int64_t row = int64_t{blockIdx.x / across} * kTileRows;
  const bool owns = channel < a.channels;
  const T* x = static_cast<const T*>(a.x.data) + row * a.x.stride + channel;
  Place place = PlaceOf(offsets, a.sequences, row);
  // Of the tile, and those before it, which may be another sequence's.
  Bits<T, kVector> own[kTileRows] = {}, before[kHalo] = {};
  if (owns && row + kTileRows <= rows) {
#pragma unroll
    for (int j = 0; j < kTileRows; ++j) own[j] = LoadBits<kVector>(x + j * a.x.stride);
  }
  if (owns && row > 0) {
#pragma unroll
    for (int k = 0; k < kHalo; ++k) before[k] = LoadBits<kVector>(x + (k - kHalo) * a.x.stride);
  }
  const Channels<T, kWidth, kExact, kVector> c(a, owns ? channel : 0);
  if (!owns) return;
  float window[kWidth][kVector];
  const int64_t t = row - place.begin;
#pragma unroll
  for (int k = 0; k < kHalo; ++k) {
    if (t - kHalo + k >= 0) {
      Unpack<T, kVector>(before[k], window[k + 1]);
    } else {
      c.Before(t - kHalo + k, place.sequence, window[k + 1]);
    }
  }
  T* y = static_cast<T*>(a.y.data) + row * a.y.stride + channel;
  const auto next = [&](Bits<T, kVector> bits, int j) {
    Shift(window);
    Unpack<T, kVector>(bits, window[kWidth - 1]);
    float sum[kVector];
    c.Convolve(window, sum);
    if (a.silu) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) sum[i] *= Sigmoid(sum[i]);
    }
    Store<kVector>(sum, y + j * a.y.stride);
  };
  if (row + kTileRows <= place.end) {
#pragma unroll
    for (int j = 0; j < kTileRows; ++j) next(own[j], j);
    return;
  }
  // Where sequences meet, and the last rows.
  const int count = static_cast<int>(min(int64_t{kTileRows}, rows - row));
#pragma unroll 1
  for (int j = 0; j < count; ++j) {
    if (row + j == place.end) {
      do ++place.sequence;
      while (offsets[place.sequence + 1] == place.end);
      place.end = offsets[place.sequence + 1];
#pragma unroll
      for (int k = 0; k < kHalo; ++k) c.Before(k - kHalo, place.sequence, window[k + 1]);
    }
    next(LoadBits<kVector>(x + j * a.x.stride), j);
  }
}

// The last width-1 rows of each sequence. All are read before one is written, as final_window may
// be initial_window.
template <class T, int kWidth, bool kExact, int kVector>
__global__ void __launch_bounds__(kThreads)
    FinalWindowKernel(CausalConv1dArguments a, const int64_t* offsets) {
  const int64_t channel = (static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x) * kVector;
  if (channel >= a.channels) return;
  const int64_t sequence = blockIdx.x;
  const Channels<T, kWidth, kExact, kVector> c(a, channel);
  const int64_t first = offsets[sequence];
  const int64_t length = offsets[sequence + 1] - first;
  float rows[kWidth - 1][kVector];
#pragma unroll
  for (int j = 0; j + 1 < kWidth; ++j) {
    if (j < a.width - 1) c.Row(first, length - (a.width - 1) + j, sequence, rows[j]);
  }
#pragma unroll
  for (int j = 0; j + 1 < kWidth; ++j) {
    if (j >= a.width - 1) continue;
    Store<kVector>(rows[j], a.final_window.data + sequence * a.final_window.sequence_stride +
                                j * a.final_window.stride + channel);
  }
}

unsigned BlocksAcross(const CausalConv1dArguments& a, int vector) {
  const int64_t channels = int64_t{kThreads} * vector;
  return static_cast<unsigned>((a.channels + channels - 1) / channels);
}

}  // namespace

void CausalConv1d(const CausalConv1dArguments& a) {
  if (a.sequences == 0 || a.channels == 0) return;
  const ProfilerRange range("causal_conv1d");
  Context& context = ContextOf(a.device);
  const bool vectors = RowsAligned(a.x) && RowsAligned(a.y) && WindowAligned(a.initial_window) &&
                       WindowAligned(a.final_window) && WeightsAligned(a);
  if (IsConvStep(a)) return CausalConv1dStep(context, a, vectors);
  const auto* offsets =
      static_cast<const int64_t*>(context.Table(a.offsets, (a.sequences + 1) * 8));
  const int64_t rows = a.offsets[a.sequences];
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
  VisitShape(a, vectors, [&](auto type, auto width, auto exact, auto vector) {
    using T = decltype(type);
    const unsigned across = BlocksAcross(a, vector());
    if (tiles > 0) {
      CausalConv1dKernel<T, width(), exact(), vector()>
          <<<static_cast<unsigned>(tiles * across), kThreads, 0, context.stream()>>>(a, offsets,
                                                                                     rows, across);
      CheckLaunch("causal_conv1d");
    }
    if (a.final_window.data != nullptr) {
      const dim3 grid(static_cast<unsigned>(a.sequences), across);
      FinalWindowKernel<T, width(), exact(), vector()>
          <<<grid, kThreads, 0, context.stream()>>>(a, offsets);
      CheckLaunch("causal_conv1d's final window");
    }
  });
}

}  // namespace adder::cuda
