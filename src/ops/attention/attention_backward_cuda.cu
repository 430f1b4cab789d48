// attention's backward on tensor cores: one kernel over tiles of keys for dkeys and dvalues, one
// over tiles of queries for dq, so that every gradient has one writer. Both form the probabilities
// anew from the logarithms of the forward's sums:
//
//     p = e^(scale · q·k - log_sum_exp)     ds = p · (dy·v - delta)     delta = Σ dy · y
//     dvalues = Σ p · dy                    dkeys = scale · Σ ds · q    dq = scale · Σ ds · k
//
// A warp's scores are 16 rows of a tile's; rounded, they are the left factor of the gradients'
// products as they lie in the registers.
#include "adder/ops/attention/attention_cuda.cuh"

namespace adder::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
static_assert(kAttentionKeys == 16 * kWarps && kAttentionGradientQueries == 16 * kWarps);

// products = rows [row, row + 16) of `left` · the rows of `right`
template <class T, int kD, int kColumns>
__device__ inline void Multiply(uint32_t left, int row, uint32_t right,
                                float (&products)[kColumns / 8][4]) {
#pragma unroll
  for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) products[n][e] = 0;
  }
#pragma unroll
  for (int k = 0; k < kD / 16; ++k) {
    uint32_t a[4];
    LoadLeft<kD>(left, row, k, a);
#pragma unroll
    for (int n = 0; n < kColumns / 16; ++n) {
      uint32_t b[4];
      LoadRightOfColumns<kD>(right, n * 16, k, b);
      MultiplyAdd<T>(products[2 * n], a, b[0], b[1]);
      MultiplyAdd<T>(products[2 * n + 1], a, b[2], b[3]);
    }
  }
}

// sums += weights · rows, a weight a row
template <class T, int kD, int kRows>
__device__ inline void AddWeighted(const float (&weights)[kRows / 8][4], uint32_t rows,
                                   float (&sums)[kD / 8][4]) {
#pragma unroll
  for (int k = 0; k < kRows / 16; ++k) {
    const uint32_t a[4] = {PackTwo<T>(weights[2 * k][0], weights[2 * k][1]),
                           PackTwo<T>(weights[2 * k][2], weights[2 * k][3]),
                           PackTwo<T>(weights[2 * k + 1][0], weights[2 * k + 1][1]),
                           PackTwo<T>(weights[2 * k + 1][2], weights[2 * k + 1][3])};
#pragma unroll
    for (int n = 0; n < kD / 16; ++n) {
      uint32_t b[4];
      LoadRight<kD>(rows, k * 16, n, b);
      MultiplyAdd<T>(sums[2 * n], a, b[0], b[1]);
      MultiplyAdd<T>(sums[2 * n + 1], a, b[2], b[3]);
    }
  }
}

// Rows g and g + 8 of the warp's 16 of a gradient, times `factor`. row_of(i): the address of row i.
template <class T, int kD, class RowOf>
__device__ inline void StoreGradient(const float (&sums)[kD / 8][4], float factor, int warp_row,
                                     int count, int d_head, bool pairs, const RowOf& row_of) {
  const int g = threadIdx.x % 32 / 4;
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int i = warp_row + g + 8 * h;
    if (i >= count) continue;
    T* row = row_of(i);
#pragma unroll
    for (int n = 0; n < kD / 8; ++n) {
      StorePair(row, n * 8 + 2 * t, d_head, pairs, sums[n][2 * h] * factor,
                sums[n][2 * h + 1] * factor);
    }
  }
}

// ---- dkeys and dvalues --------------------------------------------------------------------------

template <class T, int kD, int kQueries>
struct KeyGradientsShared {
  T keys[kAttentionKeys * kD];
  T values[kAttentionKeys * kD];
  T q[2][kQueries * kD];
  T dy[2][kQueries * kD];
  float log_sum[2][kQueries];
  float delta[2][kQueries];
};

// kQueries: of a step. Long heads have registers for one of the gradients at a time.
template <class T, int kD, int kQueries, bool kKeyGradients, bool kValueGradients>
__global__ void __launch_bounds__(kThreads)
    KeyGradientsKernel(AttentionKernelArguments a, const AttentionKeyTile* tiles) {
  constexpr int kKeys = kAttentionKeys;
  extern __shared__ __align__(128) std::byte shared_bytes[];
  auto& shared = *reinterpret_cast<KeyGradientsShared<T, kD, kQueries>*>(shared_bytes);
  const AttentionProblem& p = a.p.forward;
  const auto kv_heads = static_cast<unsigned>(p.kv_heads);
  const AttentionKeyTile tile = tiles[blockIdx.x / kv_heads];
  const int kv_head = static_cast<int>(blockIdx.x % kv_heads);
  const int d_head = static_cast<int>(p.d_head);
  const int64_t head = static_cast<int64_t>(kv_head) * d_head;
  const int64_t first_key = tile.key + tile.begin;
  const int64_t keys_left = tile.keys - tile.begin;
  const int key_count = keys_left < kKeys ? static_cast<int>(keys_left) : kKeys;
  // The first query that sees one of the keys.
  const int64_t first_query =
      (tile.begin < tile.visible ? 0 : tile.begin - tile.visible + 1) * a.group;
  const int64_t queries = tile.queries - first_query;
  const int steps = static_cast<int>((queries + kQueries - 1) / kQueries);

  LoadTile<T, kD, kKeys, kThreads>(
      shared.keys, threadIdx.x, key_count, d_head, a.vectors, [&](int i) {
        return static_cast<const T*>(p.keys.data) + (first_key + i) * p.keys.stride + head;
      });
  LoadTile<T, kD, kKeys, kThreads>(
      shared.values, threadIdx.x, key_count, d_head, a.vectors, [&](int i) {
        return static_cast<const T*>(p.values.data) + (first_key + i) * p.values.stride + head;
      });
  // Past the last query are zeros, which add nothing.
  const auto load_step = [&](int step) {
    const int64_t begin = static_cast<int64_t>(step) * kQueries;
    const QueryPlace place(a, tile.row, first_query + begin, kv_head);
    const int64_t left = queries - begin;
    const int valid = left < kQueries ? static_cast<int>(left) : kQueries;
    LoadTile<T, kD, kQueries, kThreads>(
        shared.q[step % 2], threadIdx.x, valid, d_head, a.vectors,
        [&](int i) { return static_cast<const T*>(p.q.data) + place.Offset(i, p.q, p.d_head); });
    LoadTile<T, kD, kQueries, kThreads>(
        shared.dy[step % 2], threadIdx.x, valid, d_head, a.vectors, [&](int i) {
          return static_cast<const T*>(a.p.dy.data) + place.Offset(i, a.p.dy, p.d_head);
        });
    for (int i = threadIdx.x; i < kQueries; i += kThreads) {
      const int64_t at = place.Statistic(i < valid ? i : 0, p.heads);
      CopyWord(&shared.log_sum[step % 2][i], p.log_sum_exp + at, i < valid);
      CopyWord(&shared.delta[step % 2][i], a.delta + at, i < valid);
    }
  };
  if (steps > 0) load_step(0);
  CommitCopies();

  const int warp_key = static_cast<int>(threadIdx.x / 32) * 16;
  const int g = threadIdx.x % 32 / 4;
  const int t = threadIdx.x % 4;
  const uint32_t key_tile = SharedAddress(shared.keys);
  const uint32_t value_tile = SharedAddress(shared.values);
  float dkeys[kKeyGradients ? kD / 8 : 1][4] = {};
  float dvalues[kValueGradients ? kD / 8 : 1][4] = {};
  for (int step = 0; step < steps; ++step) {
    WaitForCopies<0>();
    __syncthreads();  // the step's tiles are there, and those of the step before have been read
    if (step + 1 < steps) load_step(step + 1);
    CommitCopies();
    const uint32_t q_tile = SharedAddress(shared.q[step % 2]);
    const uint32_t dy_tile = SharedAddress(shared.dy[step % 2]);
    const float* log_sum = shared.log_sum[step % 2];
    const float* delta = shared.delta[step % 2];

    // Rows are keys, columns queries.
    float s[kQueries / 8][4];
    Multiply<T, kD, kQueries>(key_tile, warp_key, q_tile, s);
#pragma unroll
    for (int n = 0; n < kQueries / 8; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const float shift = log_sum[n * 8 + 2 * t + c] * kLog2E;
        s[n][c] = Exp2(fmaf(s[n][c], a.scale, -shift));
        s[n][2 + c] = Exp2(fmaf(s[n][2 + c], a.scale, -shift));
      }
    }
    const QueryPlace place(a, tile.row, first_query + static_cast<int64_t>(step) * kQueries,
                           kv_head);
    // The keys of the tile that the step's first query sees.
    const int64_t visible = tile.visible + place.before - tile.begin;
    if (visible < kKeys) {
#pragma unroll
      for (int n = 0; n < kQueries / 8; ++n) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const int limit = static_cast<int>(visible) + place.RowsTo(n * 8 + 2 * t + c);
          if (warp_key + g >= limit) s[n][c] = 0;
          if (warp_key + g + 8 >= limit) s[n][2 + c] = 0;
        }
      }
    }
    if constexpr (kValueGradients) AddWeighted<T, kD, kQueries>(s, dy_tile, dvalues);
    if constexpr (kKeyGradients) {
      float dp[kQueries / 8][4];
      Multiply<T, kD, kQueries>(value_tile, warp_key, dy_tile, dp);
#pragma unroll
      for (int n = 0; n < kQueries / 8; ++n) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const float mean = delta[n * 8 + 2 * t + c];
          s[n][c] *= dp[n][c] - mean;
          s[n][2 + c] *= dp[n][2 + c] - mean;
        }
      }
      AddWeighted<T, kD, kQueries>(s, q_tile, dkeys);
    }
  }
  WaitForCopies<0>();

  if constexpr (kKeyGradients) {
    if (a.p.dkeys.data != nullptr) {
      StoreGradient<T, kD>(dkeys, p.scale, warp_key, key_count, d_head, a.pairs, [&](int i) {
        return static_cast<T*>(a.p.dkeys.data) + (first_key + i) * a.p.dkeys.stride + head;
      });
    }
  }
  if constexpr (kValueGradients) {
    if (a.p.dvalues.data != nullptr) {
      StoreGradient<T, kD>(dvalues, 1.0f, warp_key, key_count, d_head, a.pairs, [&](int i) {
        return static_cast<T*>(a.p.dvalues.data) + (first_key + i) * a.p.dvalues.stride + head;
      });
    }
  }
}

// ---- dq -----------------------------------------------------------------------------------------

template <class T, int kD, int kKeys>
struct QueryGradientsShared {
  T q[kAttentionGradientQueries * kD];
  T dy[kAttentionGradientQueries * kD];
  T keys[2][kKeys * kD];
  T values[2][kKeys * kD];
};

// kKeys: of a step.
template <class T, int kD, int kKeys>
__global__ void __launch_bounds__(kThreads)
    QueryGradientsKernel(AttentionKernelArguments a, const AttentionQueryTile* tiles) {
  constexpr int kQueries = kAttentionGradientQueries;
  extern __shared__ __align__(128) std::byte shared_bytes[];
  auto& shared = *reinterpret_cast<QueryGradientsShared<T, kD, kKeys>*>(shared_bytes);
  const AttentionProblem& p = a.p.forward;
  const auto kv_heads = static_cast<unsigned>(p.kv_heads);
  const AttentionQueryTile tile = tiles[blockIdx.x / kv_heads];
  const int kv_head = static_cast<int>(blockIdx.x % kv_heads);
  const int d_head = static_cast<int>(p.d_head);
  const int64_t left = tile.queries - tile.first;
  const int count = left < kQueries ? static_cast<int>(left) : kQueries;
  const QueryPlace place(a, tile.row, tile.first, kv_head);
  const int visible = static_cast<int>(tile.visible + place.before);
  const int key_count = static_cast<int>(tile.end);
  const int steps = (key_count + kKeys - 1) / kKeys;

  LoadTile<T, kD, kQueries, kThreads>(shared.q, threadIdx.x, count, d_head, a.vectors, [&](int i) {
    return static_cast<const T*>(p.q.data) + place.Offset(i, p.q, p.d_head);
  });
  LoadTile<T, kD, kQueries, kThreads>(shared.dy, threadIdx.x, count, d_head, a.vectors, [&](int i) {
    return static_cast<const T*>(a.p.dy.data) + place.Offset(i, a.p.dy, p.d_head);
  });
  const T* keys = static_cast<const T*>(p.keys.data) + tile.key * p.keys.stride + kv_head * d_head;
  const T* values =
      static_cast<const T*>(p.values.data) + tile.key * p.values.stride + kv_head * d_head;
  const auto load_step = [&](int step) {
    const int64_t begin = static_cast<int64_t>(step) * kKeys;
    const int valid = key_count - step * kKeys;
    LoadTile<T, kD, kKeys, kThreads>(shared.keys[step % 2], threadIdx.x, valid, d_head, a.vectors,
                                     [&](int i) { return keys + (begin + i) * p.keys.stride; });
    LoadTile<T, kD, kKeys, kThreads>(shared.values[step % 2], threadIdx.x, valid, d_head, a.vectors,
                                     [&](int i) { return values + (begin + i) * p.values.stride; });
  };
  load_step(0);
  CommitCopies();

  const int warp_query = static_cast<int>(threadIdx.x / 32) * 16;
  const int g = threadIdx.x % 32 / 4;
  const int t = threadIdx.x % 4;
  // Of the thread's two queries; those that are none add nothing to any other.
  float shift[2] = {};
  float delta[2] = {};
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int i = warp_query + g + 8 * h;
    if (i >= count) continue;
    const int64_t at = place.Statistic(i, p.heads);
    shift[h] = p.log_sum_exp[at] * kLog2E;
    delta[h] = a.delta[at];
  }
  const uint32_t q_tile = SharedAddress(shared.q);
  const uint32_t dy_tile = SharedAddress(shared.dy);
  float dq[kD / 8][4] = {};
  for (int step = 0; step < steps; ++step) {
    WaitForCopies<0>();
    __syncthreads();  // the step's tiles are there, and those of the step before have been read
    if (step + 1 < steps) load_step(step + 1);
    CommitCopies();
    const uint32_t key_tile = SharedAddress(shared.keys[step % 2]);
    const uint32_t value_tile = SharedAddress(shared.values[step % 2]);
    float s[kKeys / 8][4];
    float dp[kKeys / 8][4];
    Multiply<T, kD, kKeys>(q_tile, warp_query, key_tile, s);
    Multiply<T, kD, kKeys>(dy_tile, warp_query, value_tile, dp);
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int h = e / 2;
        s[n][e] = Exp2(fmaf(s[n][e], a.scale, -shift[h])) * (dp[n][e] - delta[h]);
      }
    }
    if ((step + 1) * kKeys > visible) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int limit = visible + place.RowsTo(warp_query + g + 8 * h) - step * kKeys - 2 * t;
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
          if (n * 8 >= limit) s[n][2 * h] = 0;
          if (n * 8 + 1 >= limit) s[n][2 * h + 1] = 0;
        }
      }
    }
    AddWeighted<T, kD, kKeys>(s, key_tile, dq);
  }
  StoreGradient<T, kD>(dq, p.scale, warp_query, count, d_head, a.pairs, [&](int i) {
    return static_cast<T*>(a.p.dq.data) + place.Offset(i, a.p.dq, p.d_head);
  });
}

// ---- Launches -----------------------------------------------------------------------------------

template <class T, int kD, int kQueries, bool kKeyGradients, bool kValueGradients>
void LaunchKeys(Context& context, const AttentionKernelArguments& a, const AttentionKeyTile* tiles,
                int64_t count) {
  LaunchWithShared(context, KeyGradientsKernel<T, kD, kQueries, kKeyGradients, kValueGradients>,
                   count * a.p.forward.kv_heads, kThreads,
                   sizeof(KeyGradientsShared<T, kD, kQueries>), a, tiles);
}

template <class T>
void LaunchKeysFor(Context& context, const AttentionKernelArguments& a,
                   const AttentionKeyTile* tiles, int64_t count) {
  if (a.p.forward.d_head <= 64) {
    LaunchKeys<T, 64, 64, true, true>(context, a, tiles, count);
  } else if (a.p.forward.d_head <= 128) {
    LaunchKeys<T, 128, 64, true, true>(context, a, tiles, count);
  } else {
    if (a.p.dkeys.data != nullptr) {
      LaunchKeys<T, 256, 32, true, false>(context, a, tiles, count);
    }
    if (a.p.dvalues.data != nullptr) {
      LaunchKeys<T, 256, 32, false, true>(context, a, tiles, count);
    }
  }
}

template <class T, int kD, int kKeys>
void LaunchQueries(Context& context, const AttentionKernelArguments& a,
                   const AttentionQueryTile* tiles, int64_t count) {
  LaunchWithShared(context, QueryGradientsKernel<T, kD, kKeys>, count * a.p.forward.kv_heads,
                   kThreads, sizeof(QueryGradientsShared<T, kD, kKeys>), a, tiles);
}

template <class T>
void LaunchQueriesFor(Context& context, const AttentionKernelArguments& a,
                      const AttentionQueryTile* tiles, int64_t count) {
  if (a.p.forward.d_head <= 64) {
    LaunchQueries<T, 64, 64>(context, a, tiles, count);
  } else if (a.p.forward.d_head <= 128) {
    LaunchQueries<T, 128, 64>(context, a, tiles, count);
  } else {
    LaunchQueries<T, 256, 32>(context, a, tiles, count);
  }
}

}  // namespace

void LaunchAttentionKeyGradients(Context& context, const AttentionKernelArguments& a,
                                 const AttentionKeyTile* tiles, int64_t count) {
  if (count == 0) return;
  if (a.p.forward.q.dtype == DType::kF16) {
    LaunchKeysFor<__half>(context, a, tiles, count);
  } else {
    LaunchKeysFor<__nv_bfloat16>(context, a, tiles, count);
  }
}

void LaunchAttentionQueryGradients(Context& context, const AttentionKernelArguments& a,
                                   const AttentionQueryTile* tiles, int64_t count) {
  if (count == 0) return;
  if (a.p.forward.q.dtype == DType::kF16) {
    LaunchQueriesFor<__half>(context, a, tiles, count);
  } else {
    LaunchQueriesFor<__nv_bfloat16>(context, a, tiles, count);
  }
}

}  // namespace adder::cuda
