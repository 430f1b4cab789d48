// attention's forward on tensor cores (Dao 2023, arXiv 2307.08691): a block takes a tile of queries
// and walks the keys that they see, 64 a step, with running maxima and sums in registers. While it
// computes a step the next one's keys and values are on their way into shared memory.
#include "adder/ops/attention/attention_cuda.cuh"

namespace adder::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kKeys = kAttentionKeys;

// kM: 16s of queries that a warp has.
template <class T, int kD, int kM>
struct ForwardShared {
  T q[kWarps * 16 * kM * kD];
  T keys[2][kKeys * kD];
  T values[2][kKeys * kD];
};

template <class T, int kD, int kM>
__global__ void __launch_bounds__(kThreads)
    AttentionForwardKernel(AttentionKernelArguments a, const AttentionQueryTile* tiles) {
  constexpr int kQueries = kWarps * 16 * kM;
  extern __shared__ __align__(128) std::byte shared_bytes[];
  auto& shared = *reinterpret_cast<ForwardShared<T, kD, kM>*>(shared_bytes);
  const AttentionProblem& p = a.p.forward;
  const auto kv_heads = static_cast<unsigned>(p.kv_heads);
  const AttentionQueryTile tile = tiles[blockIdx.x / kv_heads];
  const int kv_head = static_cast<int>(blockIdx.x % kv_heads);
  const int d_head = static_cast<int>(p.d_head);
  const int64_t left = tile.queries - tile.first;
  const int count = left < kQueries ? static_cast<int>(left) : kQueries;
  const QueryPlace place(a, tile.row, tile.first, kv_head);
  // The keys that the tile's first query sees; each row sees one more.
  const int visible = static_cast<int>(tile.visible + place.before);
  const int key_count = static_cast<int>(tile.end);
  const int steps = (key_count + kKeys - 1) / kKeys;

  LoadTile<T, kD, kQueries, kThreads>(shared.q, threadIdx.x, count, d_head, a.vectors, [&](int i) {
    return static_cast<const T*>(p.q.data) + place.Offset(i, p.q, p.d_head);
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

  const int warp_query = static_cast<int>(threadIdx.x / 32) * 16 * kM;
  const int g = threadIdx.x % 32 / 4;
  const int t = threadIdx.x % 4;
  const uint32_t q_tile = SharedAddress(shared.q);
  float y[kM][kD / 8][4] = {};
  float most[kM][2];  // of the scores as they are, before the scale
  float sum[kM][2];   // this thread's part
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    most[m][0] = most[m][1] = kMinusInfinity;
    sum[m][0] = sum[m][1] = 0;
  }

  for (int step = 0; step < steps; ++step) {
    WaitForCopies<0>();
    __syncthreads();  // the step's tiles are there, and those of the step before have been read
    if (step + 1 < steps) load_step(step + 1);
    CommitCopies();
    const uint32_t key_tile = SharedAddress(shared.keys[step % 2]);
    const uint32_t value_tile = SharedAddress(shared.values[step % 2]);

    float s[kM][kKeys / 8][4] = {};
#pragma unroll
    for (int k = 0; k < kD / 16; ++k) {
      uint32_t left_factor[kM][4];
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        LoadLeft<kD>(q_tile, warp_query + m * 16, k, left_factor[m]);
      }
#pragma unroll
      for (int n = 0; n < kKeys / 16; ++n) {
        uint32_t right[4];
        LoadRightOfColumns<kD>(key_tile, n * 16, k, right);
#pragma unroll
        for (int m = 0; m < kM; ++m) {
          MultiplyAdd<T>(s[m][2 * n], left_factor[m], right[0], right[1]);
          MultiplyAdd<T>(s[m][2 * n + 1], left_factor[m], right[2], right[3]);
        }
      }
    }

    if ((step + 1) * kKeys > visible) {
#pragma unroll
      for (int m = 0; m < kM; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int limit =
              visible + place.RowsTo(warp_query + m * 16 + g + 8 * h) - step * kKeys - 2 * t;
#pragma unroll
          for (int n = 0; n < kKeys / 8; ++n) {
            if (n * 8 >= limit) s[m][n][2 * h] = kMinusInfinity;
            if (n * 8 + 1 >= limit) s[m][n][2 * h + 1] = kMinusInfinity;
          }
        }
      }
    }

#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float largest = most[m][h];
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
          largest = fmaxf(largest, fmaxf(s[m][n][2 * h], s[m][n][2 * h + 1]));
        }
        // The first key is one that every row sees: finite from the first step on.
        largest = QuadMax(largest);
        const float base = largest == kMinusInfinity ? 0.0f : largest * a.scale;
        const float factor = Exp2(fmaf(most[m][h], a.scale, -base));
        most[m][h] = largest;
        float added = 0;
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
          for (int e = 2 * h; e < 2 * h + 2; ++e) {
            s[m][n][e] = Exp2(fmaf(s[m][n][e], a.scale, -base));
            added += s[m][n][e];
          }
        }
        sum[m][h] = fmaf(sum[m][h], factor, added);
#pragma unroll
        for (int n = 0; n < kD / 8; ++n) {
          y[m][n][2 * h] *= factor;
          y[m][n][2 * h + 1] *= factor;
        }
      }
    }

#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
      uint32_t left_factor[kM][4];
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        left_factor[m][0] = PackTwo<T>(s[m][2 * k][0], s[m][2 * k][1]);
        left_factor[m][1] = PackTwo<T>(s[m][2 * k][2], s[m][2 * k][3]);
        left_factor[m][2] = PackTwo<T>(s[m][2 * k + 1][0], s[m][2 * k + 1][1]);
        left_factor[m][3] = PackTwo<T>(s[m][2 * k + 1][2], s[m][2 * k + 1][3]);
      }
#pragma unroll
      for (int n = 0; n < kD / 16; ++n) {
        uint32_t right[4];
        LoadRight<kD>(value_tile, k * 16, n, right);
#pragma unroll
        for (int m = 0; m < kM; ++m) {
          MultiplyAdd<T>(y[m][2 * n], left_factor[m], right[0], right[1]);
          MultiplyAdd<T>(y[m][2 * n + 1], left_factor[m], right[2], right[3]);
        }
      }
    }
  }

#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int i = warp_query + m * 16 + g + 8 * h;
      const float total = QuadSum(sum[m][h]);
      if (i >= count) continue;
      const float inverse = 1.0f / total;
      T* row = static_cast<T*>(p.y.data) + place.Offset(i, p.y, p.d_head);
#pragma unroll
      for (int n = 0; n < kD / 8; ++n) {
        StorePair(row, n * 8 + 2 * t, d_head, a.pairs, y[m][n][2 * h] * inverse,
                  y[m][n][2 * h + 1] * inverse);
      }
      if (p.log_sum_exp != nullptr && t == 0) {
        p.log_sum_exp[place.Statistic(i, p.heads)] = (most[m][h] * a.scale + log2f(total)) * kLn2;
      }
    }
  }
}

template <class T, int kD, int kM>
void Launch(Context& context, const AttentionKernelArguments& a, const AttentionQueryTile* tiles,
            int64_t count) {
  LaunchWithShared(context, AttentionForwardKernel<T, kD, kM>, count * a.p.forward.kv_heads,
                   kThreads, sizeof(ForwardShared<T, kD, kM>), a, tiles);
}

template <class T>
void LaunchFor(Context& context, const AttentionKernelArguments& a, const AttentionQueryTile* tiles,
               int64_t count) {
  if (a.p.forward.d_head <= 64) {
    Launch<T, 64, 2>(context, a, tiles, count);
  } else if (a.p.forward.d_head <= 128) {
    Launch<T, 128, 2>(context, a, tiles, count);
  } else {
    Launch<T, 256, 1>(context, a, tiles, count);
  }
}

}  // namespace

void LaunchAttentionForward(Context& context, const AttentionKernelArguments& a,
                            const AttentionQueryTile* tiles, int64_t count) {
  if (count == 0) return;
  if (a.p.forward.q.dtype == DType::kF16) {
    LaunchFor<__half>(context, a, tiles, count);
  } else {
    LaunchFor<__nv_bfloat16>(context, a, tiles, count);
  }
}

}  // namespace adder::cuda
