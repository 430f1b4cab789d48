// attention in f32 arithmetic, forward and backward, for every mix of dtypes: tiles of queries and
// keys in shared memory, converted as they come in; 16 x 16 threads, each with a part of the scores
// and of the results in registers. The 16 threads of a row of the tile are half a warp.
#include "adder/ops/attention/attention_cuda.cuh"

namespace adder::cuda {
namespace {

constexpr int kSide = 16;
constexpr int kThreads = kSide * kSide;
constexpr int kKeys = kAttentionKeysF32;
constexpr int kGradientQueries = kAttentionGradientQueriesF32;
constexpr int kRowKeys = kKeys / kSide;  // keys of a thread's row of scores

// A row of a tile: padded so that neighbouring rows begin four banks apart.
template <int kD>
struct Row {
  float d[kD + 4];
};

__device__ inline float HalfWarpMax(float value) {
#pragma unroll
  for (int distance = 8; distance > 0; distance /= 2) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, distance));
  }
  return value;
}
__device__ inline float HalfWarpSum(float value) {
#pragma unroll
  for (int distance = 8; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, distance);
  }
  return value;
}

// Rows [0, valid) of d_head elements as f32, zeros for what is beyond them. offset(i): of row i.
template <int kD, int kRows, class Offset>
__device__ inline void LoadRows(Row<kD>* tile, const Rows& from, int valid, int d_head,
                                const Offset& offset) {
  for (int i = threadIdx.x; i < kRows * kD; i += kThreads) {
    const int row = i / kD;
    const int d = i % kD;
    tile[row].d[d] =
        row < valid && d < d_head ? LoadOne(from.data, offset(row) + d, from.dtype) : 0.0f;
  }
}

// products[i][j] = a[ty + 16i] · b[tx + 16j]
template <int kD, int kA, int kB>
__device__ inline void DotProducts(const Row<kD>* a, const Row<kD>* b, int d_head,
                                   float (&products)[kA][kB]) {
  const int ty = threadIdx.x / kSide;
  const int tx = threadIdx.x % kSide;
#pragma unroll
  for (int i = 0; i < kA; ++i) {
#pragma unroll
    for (int j = 0; j < kB; ++j) products[i][j] = 0;
  }
#pragma unroll 2
  for (int d = 0; d < d_head; d += 4) {
    float left[kA][4], right[kB][4];
#pragma unroll
    for (int i = 0; i < kA; ++i) Load<4>(a[ty + kSide * i].d + d, left[i]);
#pragma unroll
    for (int j = 0; j < kB; ++j) Load<4>(b[tx + kSide * j].d + d, right[j]);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
#pragma unroll
      for (int i = 0; i < kA; ++i) {
#pragma unroll
        for (int j = 0; j < kB; ++j) {
          products[i][j] = fmaf(left[i][e], right[j][e], products[i][j]);
        }
      }
    }
  }
}

// sums[i][c] += Σ_k weights[ty + 16i][k] · rows[k][64c + 4tx ...]
template <int kD, int kA, int kCount>
__device__ inline void AddWeighted(const float (*weights)[kCount + 1], const Row<kD>* rows,
                                   float (&sums)[kA][kD / 64][4]) {
  const int ty = threadIdx.x / kSide;
  const int tx = threadIdx.x % kSide;
#pragma unroll 4
  for (int k = 0; k < kCount; ++k) {
    float weight[kA];
#pragma unroll
    for (int i = 0; i < kA; ++i) weight[i] = weights[ty + kSide * i][k];
#pragma unroll
    for (int c = 0; c < kD / 64; ++c) {
      float row[4];
      Load<4>(rows[k].d + 64 * c + 4 * tx, row);
#pragma unroll
      for (int i = 0; i < kA; ++i) {
#pragma unroll
        for (int e = 0; e < 4; ++e) sums[i][c][e] = fmaf(weight[i], row[e], sums[i][c][e]);
      }
    }
  }
}

// Writes factor · a thread's sums of a row.
template <int kD>
__device__ inline void StoreSums(const float (&sums)[kD / 64][4], float factor, const Rows& to,
                                 int64_t offset, int d_head) {
  const int tx = threadIdx.x % kSide;
#pragma unroll
  for (int c = 0; c < kD / 64; ++c) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int d = 64 * c + 4 * tx + e;
      if (d < d_head) StoreOne(sums[c][e] * factor, to.data, offset + d, to.dtype);
    }
  }
}

// ---- Forward ------------------------------------------------------------------------------------

template <int kD, int kQ>  // 16s of queries
struct ForwardShared {
  Row<kD> q[kSide * kQ];
  Row<kD> keys[kKeys];
  Row<kD> values[kKeys];
  float weights[kSide * kQ][kKeys + 1];
};

template <int kD, int kQ>
__global__ void __launch_bounds__(kThreads)
    AttentionForwardF32Kernel(AttentionKernelArguments a, const AttentionQueryTile* tiles) {
  constexpr int kQueries = kSide * kQ;
  extern __shared__ __align__(128) std::byte shared_bytes[];
  auto& shared = *reinterpret_cast<ForwardShared<kD, kQ>*>(shared_bytes);
  const AttentionProblem& p = a.p.forward;
  const auto kv_heads = static_cast<unsigned>(p.kv_heads);
  AttentionQueryTile tile = tiles[blockIdx.x / kv_heads];
  tile.TakeLength(p);
  const int kv_head = static_cast<int>(blockIdx.x % kv_heads);
  const int d_head = static_cast<int>(p.d_head);
  const int64_t left = tile.queries - tile.first;
  const int count = left < kQueries ? static_cast<int>(left) : kQueries;
  const QueryPlace place(a, tile.row, tile.first, kv_head);
  const int ty = threadIdx.x / kSide;
  const int tx = threadIdx.x % kSide;
  const int64_t head = static_cast<int64_t>(kv_head) * d_head;

  LoadRows<kD, kQueries>(shared.q, p.q, count, d_head,
                         [&](int i) { return place.Offset(i, p.q, p.d_head); });
  float y[kQ][kD / 64][4] = {};
  float most[kQ], sum[kQ];
  int64_t limit[kQ];  // the keys that the thread's queries see
#pragma unroll
  for (int i = 0; i < kQ; ++i) {
    most[i] = kMinusInfinity;
    sum[i] = 0;
    limit[i] = tile.visible + place.before + place.RowsTo(ty + kSide * i);
    limit[i] = limit[i] < tile.end ? limit[i] : tile.end;
  }
  for (int64_t begin = tile.begin; begin < tile.end; begin += kKeys) {
    const int valid = static_cast<int>(tile.end - begin < kKeys ? tile.end - begin : kKeys);
    __syncthreads();  // the keys before have been read
    LoadRows<kD, kKeys>(shared.keys, p.keys, valid, d_head,
                        [&](int i) { return (tile.key + begin + i) * p.keys.stride + head; });
    LoadRows<kD, kKeys>(shared.values, p.values, valid, d_head,
                        [&](int i) { return (tile.key + begin + i) * p.values.stride + head; });
    __syncthreads();
    float s[kQ][kRowKeys];
    DotProducts<kD>(shared.q, shared.keys, d_head, s);
#pragma unroll
    for (int i = 0; i < kQ; ++i) {
      float largest = most[i];
#pragma unroll
      for (int j = 0; j < kRowKeys; ++j) {
        s[i][j] = begin + tx + kSide * j < limit[i] ? s[i][j] * a.scale : kMinusInfinity;
        largest = fmaxf(largest, s[i][j]);
      }
      largest = HalfWarpMax(largest);
      const float base = largest == kMinusInfinity ? 0.0f : largest;
      const float factor = Exp2(most[i] - base);
      most[i] = largest;
      float added = 0;
#pragma unroll
      for (int j = 0; j < kRowKeys; ++j) {
        const float weight = Exp2(s[i][j] - base);
        added += weight;
        shared.weights[ty + kSide * i][tx + kSide * j] = weight;
      }
      sum[i] = fmaf(sum[i], factor, added);
#pragma unroll
      for (int c = 0; c < kD / 64; ++c) {
#pragma unroll
        for (int e = 0; e < 4; ++e) y[i][c][e] *= factor;
      }
    }
    __syncwarp();  // a row's weights are read by the half warp that wrote them
    AddWeighted<kD, kQ, kKeys>(shared.weights, shared.values, y);
  }

#pragma unroll
  for (int i = 0; i < kQ; ++i) {
    const int query = ty + kSide * i;
    const float total = HalfWarpSum(sum[i]);
    if (query >= count) continue;
    if (tile.partial < 0) {
      StoreSums<kD>(y[i], 1.0f / total, p.y, place.Offset(query, p.y, p.d_head), d_head);
      if (tx == 0 && p.log_sum_exp != nullptr) {
        p.log_sum_exp[place.Statistic(query, p.heads)] = (most[i] + log2f(total)) * kLn2;
      }
    } else {
      float* part =
          a.partials +
          ((tile.partial * p.kv_heads + kv_head) * kAttentionSpanQueries + query) * (2 + p.d_head);
      if (tx == 0) {
        part[0] = most[i];
        part[1] = total;
      }
      StoreSums<kD>(y[i], 1.0f, {part + 2, 0, DType::kF32}, 0, d_head);
    }
  }
}

// ---- Backward -----------------------------------------------------------------------------------

// What a tile of queries brings: q, dy, and of each query log₂ of its sum of exponentials and
// Σ dy · y. An infinite logarithm makes the weights of queries that are none 0.
template <int kD>
struct GradientQueries {
  Row<kD> q[kGradientQueries];
  Row<kD> dy[kGradientQueries];
  float log_sum[kGradientQueries];
  float delta[kGradientQueries];
};

template <int kD>
__device__ inline void LoadGradientQueries(GradientQueries<kD>& tile,
                                           const AttentionKernelArguments& a,
                                           const QueryPlace& place, int count, int d_head) {
  const AttentionProblem& p = a.p.forward;
  LoadRows<kD, kGradientQueries>(tile.q, p.q, count, d_head,
                                 [&](int i) { return place.Offset(i, p.q, p.d_head); });
  LoadRows<kD, kGradientQueries>(tile.dy, a.p.dy, count, d_head,
                                 [&](int i) { return place.Offset(i, a.p.dy, p.d_head); });
  for (int i = threadIdx.x; i < kGradientQueries; i += kThreads) {
    const int64_t at = i < count ? place.Statistic(i, p.heads) : 0;
    tile.log_sum[i] = i < count ? p.log_sum_exp[at] * kLog2E : -kMinusInfinity;
    tile.delta[i] = i < count ? a.delta[at] : 0.0f;
  }
}

// The weight of a key for a query, and the gradient of their score without its factor `scale`.
struct WeightAndGradient {
  float weight, gradient;
};
__device__ inline WeightAndGradient ScoreGradient(float product, float scale, float log_sum,
                                                  float dy_value, float delta, bool seen) {
  const float weight = seen ? Exp2(fmaf(product, scale, -log_sum)) : 0.0f;
  return {weight, weight * (dy_value - delta)};
}

template <int kD>
struct KeyGradientsShared {
  GradientQueries<kD> queries;
  Row<kD> keys[kKeys];
  Row<kD> values[kKeys];
  float weights[kKeys][kGradientQueries + 1];
  float gradients[kKeys][kGradientQueries + 1];
};

// dkeys and dvalues of a tile of keys: over all queries that see one of them.
template <int kD>
__global__ void __launch_bounds__(kThreads)
    KeyGradientsF32Kernel(AttentionKernelArguments a, const AttentionKeyTile* tiles) {
  extern __shared__ __align__(128) std::byte shared_bytes[];
  auto& shared = *reinterpret_cast<KeyGradientsShared<kD>*>(shared_bytes);
  const AttentionProblem& p = a.p.forward;
  const auto kv_heads = static_cast<unsigned>(p.kv_heads);
  const AttentionKeyTile tile = tiles[blockIdx.x / kv_heads];
  const int kv_head = static_cast<int>(blockIdx.x % kv_heads);
  const int d_head = static_cast<int>(p.d_head);
  const int64_t head = static_cast<int64_t>(kv_head) * d_head;
  const int ty = threadIdx.x / kSide;
  const int tx = threadIdx.x % kSide;
  const int64_t first_key = tile.key + tile.begin;
  const int key_count = static_cast<int>(
      tile.keys - tile.begin < kKeys ? tile.keys - tile.begin : static_cast<int64_t>(kKeys));
  LoadRows<kD, kKeys>(shared.keys, p.keys, key_count, d_head,
                      [&](int i) { return (first_key + i) * p.keys.stride + head; });
  LoadRows<kD, kKeys>(shared.values, p.values, key_count, d_head,
                      [&](int i) { return (first_key + i) * p.values.stride + head; });
  float dkeys[2][kD / 64][4] = {};
  float dvalues[2][kD / 64][4] = {};
  // The first row that sees one of the keys.
  const int64_t first_row = tile.begin < tile.visible ? 0 : tile.begin - tile.visible + 1;
  for (int64_t first = first_row * a.group; first < tile.queries; first += kGradientQueries) {
    const QueryPlace place(a, tile.row, first, kv_head);
    const int64_t left = tile.queries - first;
    __syncthreads();  // the queries before have been read
    LoadGradientQueries<kD>(shared.queries, a, place,
                            left < kGradientQueries ? static_cast<int>(left) : kGradientQueries,
                            d_head);
    __syncthreads();
    float s[2][2], dp[2][2];
    DotProducts<kD>(shared.keys, shared.queries.q, d_head, s);
    DotProducts<kD>(shared.values, shared.queries.dy, d_head, dp);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int query = tx + kSide * j;
      const int64_t visible = tile.visible + place.before + place.RowsTo(query);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int key = ty + kSide * i;
        const WeightAndGradient result =
            ScoreGradient(s[i][j], a.scale, shared.queries.log_sum[query], dp[i][j],
                          shared.queries.delta[query], tile.begin + key < visible);
        shared.weights[key][query] = result.weight;
        shared.gradients[key][query] = result.gradient;
      }
    }
    __syncwarp();  // a row is read by the half warp that wrote it
    AddWeighted<kD, 2, kGradientQueries>(shared.weights, shared.queries.dy, dvalues);
    AddWeighted<kD, 2, kGradientQueries>(shared.gradients, shared.queries.q, dkeys);
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int key = ty + kSide * i;
    if (key >= key_count) continue;
    if (a.p.dkeys.data != nullptr) {
      StoreSums<kD>(dkeys[i], p.scale, a.p.dkeys, (first_key + key) * a.p.dkeys.stride + head,
                    d_head);
    }
    if (a.p.dvalues.data != nullptr) {
      StoreSums<kD>(dvalues[i], 1.0f, a.p.dvalues, (first_key + key) * a.p.dvalues.stride + head,
                    d_head);
    }
  }
}

template <int kD>
struct QueryGradientsShared {
  GradientQueries<kD> queries;
  Row<kD> keys[kKeys];
  Row<kD> values[kKeys];
  float gradients[kGradientQueries][kKeys + 1];
};

// dq of a tile of queries: over all keys that they see.
template <int kD>
__global__ void __launch_bounds__(kThreads)
    QueryGradientsF32Kernel(AttentionKernelArguments a, const AttentionQueryTile* tiles) {
  extern __shared__ __align__(128) std::byte shared_bytes[];
  auto& shared = *reinterpret_cast<QueryGradientsShared<kD>*>(shared_bytes);
  const AttentionProblem& p = a.p.forward;
  const auto kv_heads = static_cast<unsigned>(p.kv_heads);
  const AttentionQueryTile tile = tiles[blockIdx.x / kv_heads];
  const int kv_head = static_cast<int>(blockIdx.x % kv_heads);
  const int d_head = static_cast<int>(p.d_head);
  const int64_t head = static_cast<int64_t>(kv_head) * d_head;
  const int ty = threadIdx.x / kSide;
  const int tx = threadIdx.x % kSide;
  const int64_t left = tile.queries - tile.first;
  const int count = left < kGradientQueries ? static_cast<int>(left) : kGradientQueries;
  const QueryPlace place(a, tile.row, tile.first, kv_head);
  LoadGradientQueries<kD>(shared.queries, a, place, count, d_head);
  float dq[2][kD / 64][4] = {};
  for (int64_t begin = 0; begin < tile.end; begin += kKeys) {
    const int valid = static_cast<int>(tile.end - begin < kKeys ? tile.end - begin : kKeys);
    __syncthreads();  // the keys before have been read
    LoadRows<kD, kKeys>(shared.keys, p.keys, valid, d_head,
                        [&](int i) { return (tile.key + begin + i) * p.keys.stride + head; });
    LoadRows<kD, kKeys>(shared.values, p.values, valid, d_head,
                        [&](int i) { return (tile.key + begin + i) * p.values.stride + head; });
    __syncthreads();
    float s[2][2], dp[2][2];
    DotProducts<kD>(shared.queries.q, shared.keys, d_head, s);
    DotProducts<kD>(shared.queries.dy, shared.values, d_head, dp);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int query = ty + kSide * i;
      const int64_t visible = tile.visible + place.before + place.RowsTo(query);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int key = tx + kSide * j;
        shared.gradients[query][key] =
            ScoreGradient(s[i][j], a.scale, shared.queries.log_sum[query], dp[i][j],
                          shared.queries.delta[query], begin + key < visible && key < valid)
                .gradient;
      }
    }
    __syncwarp();  // a row is read by the half warp that wrote it
    AddWeighted<kD, 2, kKeys>(shared.gradients, shared.keys, dq);
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int query = ty + kSide * i;
    if (query >= count) continue;
    StoreSums<kD>(dq[i], p.scale, a.p.dq, place.Offset(query, a.p.dq, p.d_head), d_head);
  }
}

// Calls launch(std::integral_constant<int, kD>()) with the least kD that holds a head.
template <class LaunchFor>
void VisitWidth(int64_t d_head, const LaunchFor& launch) {
  if (d_head <= 64) return launch(std::integral_constant<int, 64>());
  if (d_head <= 128) return launch(std::integral_constant<int, 128>());
  launch(std::integral_constant<int, 256>());
}

}  // namespace

void LaunchAttentionForwardF32(Context& context, const AttentionKernelArguments& a,
                               const AttentionQueryTile* tiles, int64_t count, bool spans) {
  if (count == 0) return;
  const int64_t blocks = count * a.p.forward.kv_heads;
  VisitWidth(a.p.forward.d_head, [&](auto width) {
    constexpr int kD = decltype(width)::value;
    constexpr int kMany = kAttentionQueriesF32 / kSide;
    if (spans) {
      LaunchWithShared(context, AttentionForwardF32Kernel<kD, 1>, blocks, kThreads,
                       sizeof(ForwardShared<kD, 1>), a, tiles);
    } else {
      LaunchWithShared(context, AttentionForwardF32Kernel<kD, kMany>, blocks, kThreads,
                       sizeof(ForwardShared<kD, kMany>), a, tiles);
    }
  });
}

void LaunchAttentionKeyGradientsF32(Context& context, const AttentionKernelArguments& a,
                                    const AttentionKeyTile* tiles, int64_t count) {
  if (count == 0) return;
  VisitWidth(a.p.forward.d_head, [&](auto width) {
    constexpr int kD = decltype(width)::value;
    LaunchWithShared(context, KeyGradientsF32Kernel<kD>, count * a.p.forward.kv_heads, kThreads,
                     sizeof(KeyGradientsShared<kD>), a, tiles);
  });
}

void LaunchAttentionQueryGradientsF32(Context& context, const AttentionKernelArguments& a,
                                      const AttentionQueryTile* tiles, int64_t count) {
  if (count == 0) return;
  VisitWidth(a.p.forward.d_head, [&](auto width) {
    constexpr int kD = decltype(width)::value;
    LaunchWithShared(context, QueryGradientsF32Kernel<kD>, count * a.p.forward.kv_heads, kThreads,
                     sizeof(QueryGradientsShared<kD>), a, tiles);
  });
}

}  // namespace adder::cuda
