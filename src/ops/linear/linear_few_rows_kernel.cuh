// linear of few rows on CUDA: memory-bound by W. A team of threads takes a row of W after the
// other, reads it in pieces of 16 bytes, several of each thread under way while those before are
// multiplied, and adds up its sums, always in the same order. x lies in shared memory as f32. A
// team is a warp; eight lanes where rows are short, and a whole block where they are few and long,
// so that small projections, too, are spread over the whole device.
#pragma once

#include <algorithm>

#include "adder/ops/linear/linear_few_rows_cuda.cuh"

namespace adder::cuda::few_rows {

inline constexpr int kWarps = 8;  // of a block
inline constexpr int kThreads = 32 * kWarps;
inline constexpr int kBlocks = 2;  // of a multiprocessor: more add little to what is under way
inline constexpr int kAhead = 4;   // pieces of a thread
inline constexpr int64_t kMostRows = 4;     // of x; more are faster with cuBLASLt
inline constexpr int64_t kShortRow = 1024;  // bytes of a row that eight lanes take
inline constexpr int64_t kMostShared = 96 << 10;
inline constexpr int64_t kPrefetched = 2 << 10;  // bytes of W for each warp
inline constexpr int64_t kLittle = int64_t{4}
                                   << 20;  // bytes of W that the next kernels need not wait for

// 16 bytes that are read once.
__device__ inline uint4 LoadOnce(const void* from) {
  uint4 bits;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
               : "l"(from));
  return bits;
}

// The sums of kWarps warps' lanes, in all of them. lane: of them all.
template <int kWarps, int kRows>
__device__ inline void SumOverWarps(int lane, float (&sums)[kRows]) {
  __shared__ float parts[kWarps][kRows];
  __syncthreads();  // those of the row before have been read
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (lane % 32 == 0) parts[lane / 32][r] = sums[r];
  }
  __syncthreads();
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    sums[r] = 0;
    for (int warp = 0; warp < kWarps; ++warp) sums[r] += parts[warp][r];
  }
}

// x as f32: [rows][kQuads][pieces of W] quads, so that neighbouring lanes find different banks.
template <int kQuads>
struct FloatRows {
  static constexpr int kUnit = 4;
  static constexpr bool kOnlyBF16 = false;

  float4* x;
  int pieces;

  __device__ float4& Stage(int r, int quad) const {
    return x[(r * kQuads + quad % kQuads) * pieces + quad / kQuads];
  }
  __device__ void Keep(int r, int quad, const float (&four)[4]) const {
    if (quad < pieces * kQuads) Stage(r, quad) = {four[0], four[1], four[2], four[3]};
  }
};

// kRows: of x, at least a.rows. kLanes: threads of a team, 8, 32 or kThreads. Shared memory: x.
template <class T, int kRows, int kLanes, class Ends>
__global__ void __launch_bounds__(kThreads, kBlocks)
    Kernel(const __grid_constant__ LinearArguments a, const __grid_constant__ Ends ends) {
  extern __shared__ float4 x[];
  constexpr int kPiece = 16 / static_cast<int>(sizeof(T));
  constexpr int kQuads = kPiece / 4;
  constexpr int kTeams = kThreads / kLanes;  // of a block
  constexpr int kStep = kLanes * kAhead;     // pieces of a row that are read at a time
  constexpr int kWarpTeams = kLanes < 32 ? 32 / kLanes : 1;
  const auto pieces = static_cast<int>(a.K / kPiece);
  const int steps = max((pieces + kStep - 1) / kStep, 1);  // of a row
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int team = static_cast<int>(threadIdx.x) / kLanes;
  // The warp's first row, of as many as it has teams, and from there to its next.
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kTeams;
  const int64_t first =
      (static_cast<int64_t>(team / kWarpTeams) * gridDim.x + blockIdx.x) * kWarpTeams;
  const int own = team % kWarpTeams;
  const auto row_of = [&](int64_t n) {
    return static_cast<const T*>(a.W.data) + min(n + own, a.N - 1) * a.W.stride;
  };
  const int64_t W_bytes = a.N * a.K * static_cast<int64_t>(sizeof(T));

  if (W_bytes <= kLittle) LetNextKernelBegin();
  if (threadIdx.x % 32 == 0 || (kLanes < 32 && lane == 0)) {
    // Each warp of a block asks for its share of the row.
    constexpr int kShares = kLanes > 32 ? kLanes / 32 : 1;
    const int share = (pieces + kShares - 1) / kShares;
    const int begin = static_cast<int>(threadIdx.x) % kLanes / 32 * share;
    const int count = min(share, pieces - begin);
    int64_t left = kPrefetched / kWarpTeams;
    for (int64_t n = first; n + own < a.N && left > 0 && count > 0; n += stride) {
      PrefetchBytes(row_of(n) + static_cast<int64_t>(begin) * kPiece,
                    static_cast<uint32_t>(count) * 16u);
      left -= count * 16;
    }
  }
  ends.Prefetch(a);
  WaitForKernelsBefore();
  if (W_bytes > kLittle) LetNextKernelBegin();

  const auto fetch = [&](const T* row, int step, uint4(&to)[kAhead]) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int piece = step * kStep + i * kLanes + lane;
      if (piece < pieces) to[i] = LoadOnce(row + static_cast<int64_t>(piece) * kPiece);
    }
  };
  uint4 current[kAhead] = {};
  if (first < a.N) fetch(row_of(first), 0, current);
  typename Ends::template Row<kRows> own_row;
  if (first < a.N) own_row.Fetch(ends, a, min(first + own, a.N - 1), lane);

  ends.template KeepRows<kThreads, kRows>(a, FloatRows<kQuads>{x, pieces});
  __syncthreads();

  float sums[kRows] = {};
  int64_t n = first;
  int step = 0;
  while (n < a.N) {
    const bool last = step + 1 == steps;
    const int64_t next_n = last ? n + stride : n;
    const int next_step = last ? 0 : step + 1;
    uint4 next[kAhead] = {};
    if (next_n < a.N) fetch(row_of(next_n), next_step, next);
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int piece = step * kStep + i * kLanes + lane;
      if (piece >= pieces) continue;
      float w[kPiece];
      Unpack<T, kPiece>(current[i], w);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int q = 0; q < kQuads; ++q) {
          const float4 four = x[(r * kQuads + q) * pieces + piece];
          sums[r] = fmaf(w[4 * q], four.x, sums[r]);
          sums[r] = fmaf(w[4 * q + 1], four.y, sums[r]);
          sums[r] = fmaf(w[4 * q + 2], four.z, sums[r]);
          sums[r] = fmaf(w[4 * q + 3], four.w, sums[r]);
        }
      }
    }
    if (last) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int distance = min(kLanes, 32) / 2; distance > 0; distance /= 2) {
          sums[r] += __shfl_xor_sync(0xffffffffu, sums[r], distance);
        }
      }
      if constexpr (kLanes > 32) SumOverWarps<kLanes / 32>(lane, sums);
      if (a.bias != nullptr) {
        const float bias = a.bias[min(n + own, a.N - 1)];
#pragma unroll
        for (int r = 0; r < kRows; ++r) sums[r] += bias;
      }
      ends.template Finish<kRows>(a, own_row, sums, n + own, lane);
      if (next_n < a.N) own_row.Fetch(ends, a, min(next_n + own, a.N - 1), lane);
#pragma unroll
      for (int r = 0; r < kRows; ++r) sums[r] = 0;
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) current[i] = next[i];
    n = next_n;
    step = next_step;
  }
}

// Of all of a.rows at once, at most kRows.
template <class T, int kRows, int kLanes, class Ends>
void Launch(Context& context, const LinearArguments& a, const Ends& ends) {
  const int64_t bytes = kRows * a.K * 4;
  const auto kernel = Kernel<T, kRows, kLanes, Ends>;
  constexpr int64_t kWithoutAsking = 47 << 10;
  if (bytes > kWithoutAsking) {
    Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(kMostShared)),
          "linear's shared memory");
  }
  constexpr int kTeams = kThreads / kLanes;
  const int64_t blocks = (a.N + kTeams - 1) / kTeams;
  const int64_t most = int64_t{kBlocks} * context.multiprocessors();
  LaunchOverlapped(context,
                   {.name = "linear of few rows",
                    .grid = static_cast<unsigned>(std::min(blocks, most)),
                    .block = kThreads,
                    .shared_bytes = static_cast<size_t>(bytes)},
                   kernel, a, ends);
}

}  // namespace adder::cuda::few_rows
