// attention's forward for few queries of many keys, decoding above all: memory-bound. Keys are cut
// into spans; a block takes a span for up to 16 queries, and each of its warps every fourth 16 keys
// of it, which it copies into shared memory of its own some steps ahead, so that no warp waits for
// another. The warps' results are put together at the end, those of the spans by a second kernel.
#include "adder/backend/cuda/launch.cuh"
#include "adder/ops/attention/attention_cuda.cuh"

namespace adder::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kQueries = kAttentionSpanQueries;
constexpr int kKeys = 16;  // of a warp's step

template <class T, int kD, int kStages>
struct SpanShared {
  T q[kQueries * kD];
  union {
    struct {
      T keys[kWarps][kStages][kKeys * kD];
      T values[kWarps][kStages][kKeys * kD];
    };
    struct {
      float y[kWarps][kQueries][kD];
      float most[kWarps][kQueries];
      float sum[kWarps][kQueries];
    };
  };
};

template <class T, int kD, int kStages>
__global__ void __launch_bounds__(kThreads)
    AttentionSpansKernel(AttentionKernelArguments a, const AttentionQueryTile* tiles) {
  extern __shared__ __align__(128) std::byte shared_bytes[];
  auto& shared = *reinterpret_cast<SpanShared<T, kD, kStages>*>(shared_bytes);
  const AttentionProblem& p = a.p.forward;
  const auto kv_heads = static_cast<unsigned>(p.kv_heads);
  WaitForKernelsBefore();
  LetNextKernelBegin();
  AttentionQueryTile tile = tiles[blockIdx.x / kv_heads];
  tile.TakeLength(p);
  const int kv_head = static_cast<int>(blockIdx.x % kv_heads);
  const int d_head = static_cast<int>(p.d_head);
  const int64_t left = tile.queries - tile.first;
  const int count = left < kQueries ? static_cast<int>(left) : kQueries;
  const QueryPlace place(a, tile.row, tile.first, kv_head);
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int g = lane / 4;
  const int t = lane % 4;

  const int64_t first_key = tile.key + tile.begin;
  const int key_count = static_cast<int>(tile.end - tile.begin);
  const int steps = (key_count + kKeys * kWarps - 1) / (kKeys * kWarps);
  const T* keys = static_cast<const T*>(p.keys.data) + first_key * p.keys.stride + kv_head * d_head;
  const T* values =
      static_cast<const T*>(p.values.data) + first_key * p.values.stride + kv_head * d_head;
  // The warp's 16 keys of a step; none, and zeros, past the end.
  const auto load_step = [&](int step) {
    const int64_t begin = (static_cast<int64_t>(step) * kWarps + warp) * kKeys;
    const int valid = static_cast<int>(key_count - begin);
    if (valid <= 0) return;
    const int stage = step % kStages;
    LoadTile<T, kD, kKeys, 32>(shared.keys[warp][stage], lane, valid, d_head, a.vectors,
                               [&](int i) { return keys + (begin + i) * p.keys.stride; });
    LoadTile<T, kD, kKeys, 32>(shared.values[warp][stage], lane, valid, d_head, a.vectors,
                               [&](int i) { return values + (begin + i) * p.values.stride; });
  };
  LoadTile<T, kD, kQueries, kThreads>(shared.q, threadIdx.x, count, d_head, a.vectors, [&](int i) {
    return static_cast<const T*>(p.q.data) + place.Offset(i, p.q, p.d_head);
  });
  CommitCopies();
#pragma unroll
  for (int step = 0; step < kStages - 1; ++step) {
    if (step < steps) load_step(step);
    CommitCopies();
  }
  WaitForCopies<kStages - 1>();
  __syncthreads();
  uint32_t q[kD / 16][4];
#pragma unroll
  for (int k = 0; k < kD / 16; ++k) LoadLeft<kD>(SharedAddress(shared.q), 0, k, q[k]);

  // The span's keys that the thread's two queries see.
  int limit[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    limit[h] = static_cast<int>(tile.visible + place.before - tile.begin) + place.RowsTo(g + 8 * h);
    limit[h] = limit[h] < key_count ? limit[h] : key_count;
  }
  float y[kD / 8][4] = {};
  float most[2] = {kMinusInfinity, kMinusInfinity};
  float sum[2] = {};
  for (int step = 0; step < steps; ++step) {
    WaitForCopies<kStages - 2>();
    __syncwarp();  // the step's tiles are there, and those of the step before have been read
    if (step + kStages - 1 < steps) load_step(step + kStages - 1);
    CommitCopies();
    const int begin = (step * kWarps + warp) * kKeys;
    if (begin >= key_count) break;  // the same for the whole warp, and so for all later steps
    const uint32_t key_tile = SharedAddress(shared.keys[warp][step % kStages]);
    const uint32_t value_tile = SharedAddress(shared.values[warp][step % kStages]);
    float s[2][4] = {};
#pragma unroll
    for (int k = 0; k < kD / 16; ++k) {
      uint32_t right[4];
      LoadRightOfColumns<kD>(key_tile, 0, k, right);
      MultiplyAdd<T>(s[0], q[k], right[0], right[1]);
      MultiplyAdd<T>(s[1], q[k], right[2], right[3]);
    }
    uint32_t weights[4];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float score[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int key = begin + e / 2 * 8 + 2 * t + e % 2;
        score[e] = key < limit[h] ? s[e / 2][2 * h + e % 2] : kMinusInfinity;
      }
      float largest = fmaxf(fmaxf(score[0], score[1]), fmaxf(score[2], score[3]));
      largest = fmaxf(most[h], QuadMax(largest));
      const float base = largest == kMinusInfinity ? 0.0f : largest * a.scale;
      const float factor = Exp2(fmaf(most[h], a.scale, -base));
      most[h] = largest;
#pragma unroll
      for (int e = 0; e < 4; ++e) score[e] = Exp2(fmaf(score[e], a.scale, -base));
      sum[h] = fmaf(sum[h], factor, (score[0] + score[1]) + (score[2] + score[3]));
      weights[h] = PackTwo<T>(score[0], score[1]);
      weights[2 + h] = PackTwo<T>(score[2], score[3]);
#pragma unroll
      for (int n = 0; n < kD / 8; ++n) {
        y[n][2 * h] *= factor;
        y[n][2 * h + 1] *= factor;
      }
    }
#pragma unroll
    for (int n = 0; n < kD / 16; ++n) {
      uint32_t right[4];
      LoadRight<kD>(value_tile, 0, n, right);
      MultiplyAdd<T>(y[2 * n], weights, right[0], right[1]);
      MultiplyAdd<T>(y[2 * n + 1], weights, right[2], right[3]);
    }
  }

  WaitForCopies<0>();
  __syncthreads();  // keys and values have been read: their memory is used anew
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int i = g + 8 * h;
    const float total = QuadSum(sum[h]);
    if (t == 0) {
      shared.most[warp][i] = most[h] * a.scale;
      shared.sum[warp][i] = total;
    }
#pragma unroll
    for (int n = 0; n < kD / 8; ++n) {
      shared.y[warp][i][n * 8 + 2 * t] = y[n][2 * h];
      shared.y[warp][i][n * 8 + 2 * t + 1] = y[n][2 * h + 1];
    }
  }
  __syncthreads();
  for (int i = warp; i < count; i += kWarps) {
    float largest = kMinusInfinity;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) largest = fmaxf(largest, shared.most[w][i]);
    const float base = largest == kMinusInfinity ? 0.0f : largest;
    float factor[kWarps];
    float total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      factor[w] = Exp2(shared.most[w][i] - base);
      total = fmaf(shared.sum[w][i], factor[w], total);
    }
    const auto weighted = [&](int d) {
      float value = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) value = fmaf(shared.y[w][i][d], factor[w], value);
      return value;
    };
    if (tile.partial < 0) {
      T* row = static_cast<T*>(p.y.data) + place.Offset(i, p.y, p.d_head);
      const float inverse = 1.0f / total;
      for (int d = lane; d < d_head; d += 32) row[d] = FromFloat<T>(weighted(d) * inverse);
      if (lane == 0 && p.log_sum_exp != nullptr) {
        p.log_sum_exp[place.Statistic(i, p.heads)] = (largest + log2f(total)) * kLn2;
      }
    } else {
      float* part =
          a.partials + ((tile.partial * p.kv_heads + kv_head) * kQueries + i) * (2 + p.d_head);
      if (lane == 0) {
        part[0] = largest;
        part[1] = total;
      }
      for (int d = lane; d < d_head; d += 32) part[2 + d] = weighted(d);
    }
  }
}

template <class T, int kD, int kStages>
void Launch(Context& context, const AttentionKernelArguments& a, const AttentionQueryTile* tiles,
            int64_t count) {
  constexpr size_t kBytes = sizeof(SpanShared<T, kD, kStages>);
  AllowShared(AttentionSpansKernel<T, kD, kStages>, kBytes);
  LaunchOverlapped(context,
                   {.name = "attention",
                    .grid = static_cast<unsigned>(count * a.p.forward.kv_heads),
                    .block = kThreads,
                    .shared_bytes = kBytes},
                   AttentionSpansKernel<T, kD, kStages>, a, tiles);
}

template <class T>
void LaunchFor(Context& context, const AttentionKernelArguments& a, const AttentionQueryTile* tiles,
               int64_t count) {
  if (a.p.forward.d_head <= 64) {
    Launch<T, 64, 3>(context, a, tiles, count);
  } else if (a.p.forward.d_head <= 128) {
    Launch<T, 128, 2>(context, a, tiles, count);
  } else {
    Launch<T, 256, 2>(context, a, tiles, count);
  }
}

}  // namespace

void LaunchAttentionSpans(Context& context, const AttentionKernelArguments& a,
                          const AttentionQueryTile* tiles, int64_t count) {
  if (count == 0) return;
  if (a.p.forward.q.dtype == DType::kF16) {
    LaunchFor<__half>(context, a, tiles, count);
  } else {
    LaunchFor<__nv_bfloat16>(context, a, tiles, count);
  }
}

}  // namespace adder::cuda
