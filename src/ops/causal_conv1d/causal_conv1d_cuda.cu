// causal_conv1d on CUDA. Memory-bound: a thread owns a few channels and walks down a tile of rows
// with the last width-1 of them in registers, so that each row is read once but for the tiles'
// seams.
#include <algorithm>
#include <limits>
#include <type_traits>
#include <vector>

#include "adder/backend/cuda/column_sums.cuh"
#include "adder/backend/cuda/launch.cuh"
#include "adder/backend/cuda/numbers.cuh"
#include "adder/ops/causal_conv1d/causal_conv1d_step_cuda.cuh"

namespace adder::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kUsualWidth = 4;
constexpr int kMostWidth = 8;
constexpr int64_t kLeastTileRows = 32;
constexpr int64_t kMostTileRows = 1024;
constexpr int kMostRounds = 8;     // that a tile's rows are fitted to, at most so many more
constexpr int kAhead = 4;          // rows whose loads are under way at a time
constexpr int kFarAhead = 12;      // rows before its turn that a row is asked of the cache
constexpr int kForwardRounds = 3;  // at least: who is served slower takes fewer tiles
constexpr int kForwardBlocks = 7;  // for each multiprocessor: as many fit with the usual width
constexpr int kBackwardBlocks = 4;

// Some rows of one sequence.
struct Tile {
  int64_t row;     // the first of them
  int64_t before;  // rows of the sequence before it
  int64_t after;   // rows of the sequence after its last
  int32_t rows;    // 0 to TileRows' result
  int32_t sequence;
};

// Tiles of at most `rows` rows; at least one a sequence: empty ones have a window to pass on.
int64_t CountTiles(const CausalConv1dArguments& a, int64_t rows) {
  int64_t count = 0;
  for (int64_t s = 0; s < a.sequences; ++s) {
    const int64_t length = a.offsets[s + 1] - a.offsets[s];
    count += std::max<int64_t>(1, (length + rows - 1) / rows);
  }
  return count;
}

// Rows of a tile such that the device takes all tiles, `at_a_time` of them running, in whole
// rounds: of the numbers of rounds the one with the least work, in which a tile costs some rows
// more than it has.
int64_t TileRows(const CausalConv1dArguments& a, int64_t at_a_time, int64_t least_rounds) {
  constexpr int64_t kRowsOfATile = 12;  // its beginning and its seam
  int64_t best = kLeastTileRows;
  int64_t least_work = std::numeric_limits<int64_t>::max();
  // For a tile a sequence.
  const int64_t fewest = std::max(least_rounds, (a.sequences + at_a_time - 1) / at_a_time);
  for (int64_t rounds = fewest; rounds < fewest + kMostRounds; ++rounds) {
    // The fewest rows with which there are no more tiles than run in so many rounds.
    int64_t low = kLeastTileRows;
    int64_t high = kMostTileRows;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (CountTiles(a, middle) <= rounds * at_a_time) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    const int64_t taken = (CountTiles(a, low) + at_a_time - 1) / at_a_time;
    const int64_t work = taken * (low + kRowsOfATile);
    if (work < least_work) {
      least_work = work;
      best = low;
    }
    if (low == kLeastTileRows) break;
  }
  return best;
}

std::vector<Tile> TilesOf(const CausalConv1dArguments& a, int64_t at_a_time, int64_t least_rounds) {
  const int64_t most = TileRows(a, at_a_time, least_rounds);
  std::vector<Tile> tiles;
  for (int64_t s = 0; s < a.sequences; ++s) {
    const int64_t end = a.offsets[s + 1];
    int64_t row = a.offsets[s];
    do {
      const int64_t rows = std::min(most, end - row);
      tiles.push_back({row, row - a.offsets[s], end - row - rows, static_cast<int32_t>(rows),
                       static_cast<int32_t>(s)});
      row += rows;
    } while (row < end);
  }
  return tiles;
}

// kWidth is the width where kExact, or else at least it: earlier taps are left out.
template <class T, int kWidth, bool kExact, int kVector>
struct Channels {
  const CausalConv1dArguments& a;
  int64_t channel;
  float weight[kWidth][kVector];
  float bias[kVector];

  __device__ Channels(const CausalConv1dArguments& arguments, int64_t first)
      : a(arguments), channel(first) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      bias[i] = a.bias == nullptr ? 0.0f : a.bias[channel + i];
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        weight[k][i] = Taken(k) ? a.weight[(channel + i) * a.width + k - Skipped()] : 0.0f;
      }
    }
  }

  __device__ int Skipped() const { return kExact ? 0 : kWidth - static_cast<int>(a.width); }
  __device__ bool Taken(int k) const { return kExact || k >= Skipped(); }

  // Row `t` of the sequence whose first row is `first`; before it, the initial window.
  __device__ void Row(int64_t first, int64_t t, int32_t sequence, float (&to)[kVector]) const {
    if (t >= 0) {
      Load<kVector>(static_cast<const T*>(a.x.data) + (first + t) * a.x.stride + channel, to);
      return;
    }
    const int64_t j = t + a.width - 1;
#pragma unroll
    for (int i = 0; i < kVector; ++i) to[i] = 0;
    if (j >= 0 && a.initial_window.data != nullptr) {
      Load<kVector>(a.initial_window.data + sequence * a.initial_window.sequence_stride +
                        j * a.initial_window.stride + channel,
                    to);
    }
  }

  // window[k]: row t - (kWidth - 1) + k.
  __device__ void Convolve(const float (&window)[kWidth][kVector], float (&to)[kVector]) const {
#pragma unroll
    for (int i = 0; i < kVector; ++i) to[i] = bias[i];
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      if (!Taken(k)) continue;
#pragma unroll
      for (int i = 0; i < kVector; ++i) to[i] = fmaf(weight[k][i], window[k][i], to[i]);
    }
  }
};

// Asks the cache for row t of those from `rows` on, once for each of its lines, where t < end.
template <int kVector, class T>
__device__ void AskFor(const T* rows, int64_t stride, int64_t t, int64_t end) {
  constexpr int kLineThreads = 128 / (kVector * static_cast<int>(sizeof(T)));
  if (threadIdx.x % kLineThreads == 0 && t < end) {
    Prefetch(rows + t * stride);
  }
}

template <int kCount, int kVector>
__device__ void Shift(float (&window)[kCount][kVector]) {
#pragma unroll
  for (int k = 0; k + 1 < kCount; ++k) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) window[k][i] = window[k + 1][i];
  }
}

template <class T, int kWidth, bool kExact, int kVector>
__global__ void __launch_bounds__(kThreads, kExact ? kForwardBlocks : 1)
    CausalConv1dKernel(CausalConv1dArguments a, const Tile* tiles) {
  const int64_t channel = (static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x) * kVector;
  if (channel >= a.channels) return;
  const Tile tile = tiles[blockIdx.x];
  const Channels<T, kWidth, kExact, kVector> c(a, channel);
  const int64_t first = tile.row - tile.before;

  float window[kWidth][kVector];
#pragma unroll
  for (int k = 1; k < kWidth; ++k) c.Row(first, tile.before - kWidth + k, tile.sequence, window[k]);
  const T* x = static_cast<const T*>(a.x.data) + tile.row * a.x.stride + channel;
  T* y = static_cast<T*>(a.y.data) + tile.row * a.y.stride + channel;
  const auto next = [&](const float(&row)[kVector], int32_t t) {
    Shift(window);
#pragma unroll
    for (int i = 0; i < kVector; ++i) window[kWidth - 1][i] = row[i];
    float sum[kVector];
    c.Convolve(window, sum);
    if (a.silu) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) sum[i] *= Sigmoid(sum[i]);
    }
    Store<kVector>(sum, y + t * a.y.stride);
  };
  // While some rows are computed, those after them are on their way.
  using Row = Bits<T, kVector>;
  Row rows[kAhead];
  const auto fetch = [&](int32_t begin) {
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      rows[j] = LoadBits<kVector>(x + (begin + j) * a.x.stride);
    }
  };
  const int32_t full = tile.rows / kAhead * kAhead;
  if (full > 0) fetch(0);
#pragma unroll
  for (int j = kAhead; j < kFarAhead; ++j) AskFor<kVector>(x, a.x.stride, j, tile.rows);
  for (int32_t t = 0; t < full; t += kAhead) {
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      AskFor<kVector>(x, a.x.stride, t + kFarAhead + j, tile.rows);
    }
    Row current[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) current[j] = rows[j];
    if (t + kAhead < full) fetch(t + kAhead);
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      float row[kVector];
      Unpack<T, kVector>(current[j], row);
      next(row, t + j);
    }
  }
  for (int32_t t = full; t < tile.rows; ++t) {
    float row[kVector];
    Load<kVector>(x + t * a.x.stride, row);
    next(row, t);
  }
}

// The last width-1 rows of each sequence. All are read before one is written, as final_window may
// be initial_window.
template <class T, int kWidth, bool kExact, int kVector>
__global__ void __launch_bounds__(kThreads)
    FinalWindowKernel(CausalConv1dArguments a, const int64_t* offsets) {
  const int64_t channel = (static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x) * kVector;
  if (channel >= a.channels) return;
  const auto sequence = static_cast<int32_t>(blockIdx.x);
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

// Walks down the rows with windows of x and of g, the gradient before the activation:
// dx[t] = Σ_k weight[k] · g[t + width-1 - k], for which g is computed width-1 rows past the tile.
// `partial`: a row of channels · (width + 1) floats for each blockIdx.x.
template <class T, int kWidth, bool kExact, int kVector>
__global__ void __launch_bounds__(kThreads, kBackwardBlocks)
    CausalConv1dBackwardKernel(CausalConv1dBackwardArguments b, const Tile* tiles,
                               int64_t tile_count, float* partial) {
  const CausalConv1dArguments& a = b.forward;
  const int64_t channel = (static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x) * kVector;
  if (channel >= a.channels) return;
  const Channels<T, kWidth, kExact, kVector> c(a, channel);
  const int64_t halo = a.width - 1;
  float dweight[kWidth][kVector] = {};
  float dbias[kVector] = {};

  const int64_t first_tile = tile_count * blockIdx.x / gridDim.x;
  const int64_t last_tile = tile_count * (blockIdx.x + 1) / gridDim.x;
  for (int64_t i = first_tile; i < last_tile; ++i) {
    const Tile tile = tiles[i];
    const int64_t first = tile.row - tile.before;
    const int64_t length = tile.before + tile.rows + tile.after;
    const int64_t end = tile.before + tile.rows;  // of the tile, in the sequence
    float window[kWidth][kVector];
    float g[kWidth][kVector] = {};
#pragma unroll
    for (int k = 1; k < kWidth; ++k) {
      c.Row(first, tile.before - kWidth + k, tile.sequence, window[k]);
    }
    // A row of x and dy, or null past the sequence. `inner`: of the tile, as is row t - halo, which
    // so is none of the sequence's last.
    using Row = Bits<T, kVector>;
    const auto next = [&](int64_t t, const Row* x_row, const Row* dy_row, auto inner) {
      Shift(window);
      Shift(g);
      float(&own)[kVector] = g[kWidth - 1];
      if (x_row != nullptr) {
        Unpack<T, kVector>(*x_row, window[kWidth - 1]);
        Unpack<T, kVector>(*dy_row, own);
        if (a.silu) {
          float before[kVector];
          c.Convolve(window, before);
#pragma unroll
          for (int j = 0; j < kVector; ++j) {
            const float s = Sigmoid(before[j]);
            own[j] *= s * fmaf(before[j], 1.0f - s, 1.0f);
          }
        }
      } else {
#pragma unroll
        for (int j = 0; j < kVector; ++j) own[j] = 0;
      }
      if (inner || t < end) {
#pragma unroll
        for (int k = 0; k < kWidth; ++k) {
          if (!c.Taken(k)) continue;
#pragma unroll
          for (int j = 0; j < kVector; ++j) {
            dweight[k][j] = fmaf(own[j], window[k][j], dweight[k][j]);
          }
        }
#pragma unroll
        for (int j = 0; j < kVector; ++j) dbias[j] += own[j];
      }

      // All of g that row p meets is known.
      const int64_t p = t - halo;
      if (!inner && p < tile.before && tile.before > 0) return;
      float dx[kVector] = {};
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        if (!c.Taken(k)) continue;
          // g[p + (width-1) - (k - skipped)] lies at window position kWidth-1 - (k - skipped).
#pragma unroll
        for (int m = 0; m < kWidth; ++m) {
          if (m != kWidth - 1 - (k - c.Skipped())) continue;
#pragma unroll
          for (int j = 0; j < kVector; ++j) dx[j] = fmaf(c.weight[k][j], g[m][j], dx[j]);
        }
      }
      const int64_t from_end = p - (length - halo);  // row of the final window
      if (!inner && from_end >= 0 && b.d_final_window.data != nullptr) {
        float more[kVector];
        Load<kVector>(b.d_final_window.data + tile.sequence * b.d_final_window.sequence_stride +
                          from_end * b.d_final_window.stride + channel,
                      more);
#pragma unroll
        for (int j = 0; j < kVector; ++j) dx[j] += more[j];
      }
      if (inner || p >= 0) {
        if (b.dx.data != nullptr) {
          Store<kVector>(dx, static_cast<T*>(b.dx.data) + (first + p) * b.dx.stride + channel);
        }
      } else if (b.d_initial_window.data != nullptr) {
        Store<kVector>(dx, b.d_initial_window.data +
                               tile.sequence * b.d_initial_window.sequence_stride +
                               (p + halo) * b.d_initial_window.stride + channel);
      }
    };
    // While some rows are computed, those after them are on their way.
    Row xs[kAhead], dys[kAhead];
    const int64_t given = min(end + halo, length);
    const auto fetch = [&](int64_t begin) {
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        const int64_t row = first + begin + j;
        if (begin + j >= given) continue;
        xs[j] = LoadBits<kVector>(static_cast<const T*>(a.x.data) + row * a.x.stride + channel);
        dys[j] = LoadBits<kVector>(static_cast<const T*>(b.dy.data) + row * b.dy.stride + channel);
      }
    };
    fetch(tile.before);
    int64_t t = tile.before;
    while (t < given) {
      Row x_rows[kAhead], dy_rows[kAhead];
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        x_rows[j] = xs[j];
        dy_rows[j] = dys[j];
      }
      fetch(t + kAhead);
      if (t >= tile.before + halo && t + kAhead <= end) {
#pragma unroll
        for (int j = 0; j < kAhead; ++j) next(t + j, &x_rows[j], &dy_rows[j], std::true_type());
        t += kAhead;
        continue;
      }
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        if (t + j < given) next(t + j, &x_rows[j], &dy_rows[j], std::false_type());
      }
      t = min(t + kAhead, given);
    }
    for (; t < end + halo; ++t) next(t, nullptr, nullptr, std::false_type());
  }
  if (partial == nullptr) return;
  partial += blockIdx.x * a.channels * (a.width + 1);
#pragma unroll
  for (int j = 0; j < kVector; ++j) {
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      if (c.Taken(k)) partial[(channel + j) * a.width + k - c.Skipped()] = dweight[k][j];
    }
    partial[a.channels * a.width + channel + j] = dbias[j];
  }
}

bool WindowAligned(const ConvWindow& window) {
  return AlignedTo(16, window.data, window.stride, 4) && window.sequence_stride % 4 == 0;
}

// Calls visit(T{}, width, exact, vector), the latter three as integral constants. `vector` elements
// lie together wherever the arguments are read.
template <int kValue>
using Constant = std::integral_constant<int, kValue>;
template <class Visit>
void VisitShape(const CausalConv1dArguments& a, bool vectors, Visit&& visit) {
  VisitActivation(a.x.dtype, [&](auto type) {
    const bool usual = a.width == kUsualWidth;
    if (vectors && usual && a.channels % 4 == 0) {
      visit(type, Constant<kUsualWidth>(), std::true_type(), Constant<4>());
    } else if (usual) {
      visit(type, Constant<kUsualWidth>(), std::true_type(), Constant<1>());
    } else if (vectors && a.channels % 4 == 0) {
      visit(type, Constant<kMostWidth>(), std::false_type(), Constant<4>());
    } else {
      visit(type, Constant<kMostWidth>(), std::false_type(), Constant<1>());
    }
  });
}

dim3 Grid(int64_t blocks, int64_t channels, int vector) {
  const int64_t across = (channels + int64_t{kThreads} * vector - 1) / (int64_t{kThreads} * vector);
  return {static_cast<unsigned>(blocks), static_cast<unsigned>(across)};
}

// Blocks of rows that run at a time, `blocks` on each multiprocessor, with the usual vectors.
int64_t AtATime(const Context& context, const CausalConv1dArguments& a, int blocks) {
  const int64_t across = (a.channels + 4 * kThreads - 1) / (4 * kThreads);
  return std::max<int64_t>(int64_t{blocks} * context.multiprocessors() / across, 1);
}

bool RowsAligned(const Rows& rows) {
  return AlignedTo(16, rows.data, rows.stride, rows.dtype == DType::kF32 ? 4 : 2);
}

}  // namespace

void CausalConv1d(const CausalConv1dArguments& a) {
  if (a.sequences == 0 || a.channels == 0) return;
  const ProfilerRange range("causal_conv1d");
  Context& context = ContextOf(a.device);
  const bool vectors = RowsAligned(a.x) && RowsAligned(a.y) && WindowAligned(a.initial_window) &&
                       WindowAligned(a.final_window);
  if (IsConvStep(a)) return CausalConv1dStep(context, a, vectors);
  const std::vector<Tile> tiles = TilesOf(a, AtATime(context, a, kForwardBlocks), kForwardRounds);
  const auto* table = static_cast<const Tile*>(
      context.Table(tiles.data(), static_cast<int64_t>(tiles.size() * sizeof(Tile))));
  VisitShape(a, vectors, [&](auto type, auto width, auto exact, auto vector) {
    using T = decltype(type);
    CausalConv1dKernel<T, width(), exact(), vector()>
        <<<Grid(static_cast<int64_t>(tiles.size()), a.channels, vector()), kThreads, 0,
           context.stream()>>>(a, table);
  });
  CheckLaunch("causal_conv1d");
  if (a.final_window.data == nullptr) return;
  const auto* offsets =
      static_cast<const int64_t*>(context.Table(a.offsets, (a.sequences + 1) * 8));
  VisitShape(a, vectors, [&](auto type, auto width, auto exact, auto vector) {
    using T = decltype(type);
    FinalWindowKernel<T, width(), exact(), vector()>
        <<<Grid(a.sequences, a.channels, vector()), kThreads, 0, context.stream()>>>(a, offsets);
  });
  CheckLaunch("causal_conv1d's final window");
}

void CausalConv1dBackward(const CausalConv1dBackwardArguments& b) {
  const CausalConv1dArguments& a = b.forward;
  if (a.sequences == 0 || a.channels == 0) return;
  const ProfilerRange range("causal_conv1d backward");
  Context& context = ContextOf(a.device);
  const int64_t at_a_time = AtATime(context, a, kBackwardBlocks);
  const std::vector<Tile> tiles = TilesOf(a, at_a_time, 1);
  const auto count = static_cast<int64_t>(tiles.size());
  const auto* table =
      static_cast<const Tile*>(context.Table(tiles.data(), count * int64_t{sizeof(Tile)}));
  const bool sums = b.dweight != nullptr || b.dbias != nullptr;
  // Each block of rows leaves a partial sum of dweight, so there are no more than work at a time.
  const int64_t blocks = sums ? std::min(count, at_a_time) : count;
  const int64_t sum_columns = a.channels * (a.width + 1);
  const Scratch partial(context, sums ? blocks * sum_columns * 4 : 0);
  const bool vectors = RowsAligned(a.x) && RowsAligned(b.dy) && RowsAligned(b.dx) &&
                       WindowAligned(a.initial_window) && WindowAligned(b.d_final_window) &&
                       WindowAligned(b.d_initial_window);
  VisitShape(a, vectors, [&](auto type, auto width, auto exact, auto vector) {
    using T = decltype(type);
    CausalConv1dBackwardKernel<T, width(), exact(), vector()>
        <<<Grid(blocks, a.channels, vector()), kThreads, 0, context.stream()>>>(
            b, table, count, sums ? partial.data<float>() : nullptr);
  });
  CheckLaunch("causal_conv1d backward");
  const float* first = partial.data<float>();
  if (b.dweight != nullptr) {
    AddColumnSums(context, first, blocks, sum_columns, a.channels * a.width, b.dweight);
  }
  if (b.dbias != nullptr) {
    AddColumnSums(context, first + a.channels * a.width, blocks, sum_columns, a.channels, b.dbias);
  }
}

}  // namespace adder::cuda
