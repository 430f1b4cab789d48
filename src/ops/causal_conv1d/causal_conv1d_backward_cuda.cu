// causal_conv1d's backward on CUDA. Memory-bound: a thread owns a few channels and walks down a
// tile of rows with the last width-1 of them in registers, so that each row is read once but for
// the tiles' seams, and sums over rows stay in registers, too.
#include <algorithm>
#include <limits>
#include <vector>

#include "adder/backend/cuda/column_sums.cuh"
#include "adder/ops/causal_conv1d/causal_conv1d_cuda.cuh"

namespace adder::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kBlocks = 4;  // for each multiprocessor
constexpr int64_t kLeastTileRows = 32;
constexpr int64_t kMostTileRows = 1024;
constexpr int kMostRounds = 8;  // that a tile's rows are fitted to
constexpr int kAhead = 4;       // rows whose loads are under way at a time

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
int64_t TileRows(const CausalConv1dArguments& a, int64_t at_a_time) {
  constexpr int64_t kRowsOfATile = 12;  // its beginning and its seam
  int64_t best = kLeastTileRows;
  int64_t least_work = std::numeric_limits<int64_t>::max();
  // For a tile a sequence.
  const int64_t fewest = (a.sequences + at_a_time - 1) / at_a_time;
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

std::vector<Tile> TilesOf(const CausalConv1dArguments& a, int64_t at_a_time) {
  const int64_t most = TileRows(a, at_a_time);
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

// Walks down the rows with windows of x and of g, the gradient before the activation:
// dx[t] = Σ_k weight[k] · g[t + width-1 - k], for which g is computed width-1 rows past the tile.
// `partial`: a row of channels · (width + 1) floats for each blockIdx.x.
template <class T, int kWidth, bool kExact, int kVector>
__global__ void __launch_bounds__(kThreads, kBlocks)
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

// Blocks of rows that run at a time, with the usual vectors.
int64_t AtATime(const Context& context, const CausalConv1dArguments& a) {
  const int64_t across = (a.channels + 4 * kThreads - 1) / (4 * kThreads);
  return std::max<int64_t>(int64_t{kBlocks} * context.multiprocessors() / across, 1);
}

dim3 Grid(int64_t blocks, int64_t channels, int vector) {
  const int64_t across = (channels + int64_t{kThreads} * vector - 1) / (int64_t{kThreads} * vector);
  return {static_cast<unsigned>(blocks), static_cast<unsigned>(across)};
}

}  // namespace

void CausalConv1dBackward(const CausalConv1dBackwardArguments& b) {
  const CausalConv1dArguments& a = b.forward;
  if (a.sequences == 0 || a.channels == 0) return;
  const ProfilerRange range("causal_conv1d backward");
  Context& context = ContextOf(a.device);
  const int64_t at_a_time = AtATime(context, a);
  const std::vector<Tile> tiles = TilesOf(a, at_a_time);
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
                       WindowAligned(b.d_initial_window) && WeightsAligned(a);
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
