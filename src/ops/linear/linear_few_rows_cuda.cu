// linear of few rows on CUDA: memory-bound by W. A team of threads takes a row of W after the
// other, reads it in pieces of 16 bytes, several of each thread under way while those before are
// multiplied, and adds up its sums, always in the same order. x lies in shared memory as f32. A
// team is a warp; eight lanes where rows are short, and a whole block where they are few and long,
// so that small projections, too, are spread over the whole device.
#include <algorithm>

#include "adder/backend/cuda/launch.cuh"
#include "adder/backend/cuda/row_access.cuh"
#include "adder/ops/linear/linear_few_rows_cuda.cuh"

namespace adder::cuda {
namespace {

constexpr int kWarps = 8;  // of a block
constexpr int kThreads = 32 * kWarps;
constexpr int kBlocks = 2;           // of a multiprocessor: more add little to what is under way
constexpr int kAhead = 4;            // pieces of a thread
constexpr int64_t kMostRows = 4;     // of x; more are faster with cuBLASLt
constexpr int64_t kShortRow = 1024;  // bytes of a row that eight lanes take
constexpr int64_t kLongRow = 2048;   // bytes of a row that a block may take
constexpr int64_t kMostShared = 96 << 10;
constexpr int64_t kPrefetched = 2 << 10;       // bytes of W for each warp
constexpr int64_t kLittle = int64_t{4} << 20;  // bytes of W that the next kernels need not wait for

// 16 bytes that are read once.
__device__ inline uint4 LoadOnce(const void* from) {
  uint4 bits;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
               : "l"(from));
  return bits;
}

// kRows: of x, at least a.rows. kLanes: threads of a team, 8, 32 or kThreads. Shared memory: x as
// [kRows][kPiece / 4][pieces of K] quads, so that neighbouring lanes find different banks.
template <class T, int kRows, int kLanes>
__global__ void __launch_bounds__(kThreads, kBlocks)
    FewRowsKernel(const __grid_constant__ LinearArguments a) {
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

  const auto place = [&](int r, int quad) {
    return (r * kQuads + quad % kQuads) * pieces + quad / kQuads;
  };
  KeepRows<kThreads, kRows>(a.x, a.rows, kQuads * pieces, x, place);
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
      float result = 0;  // of x's row `lane`
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        float sum = sums[r];
#pragma unroll
        for (int distance = min(kLanes, 32) / 2; distance > 0; distance /= 2) {
          sum += __shfl_xor_sync(0xffffffffu, sum, distance);
        }
        if (lane % 32 == r) result = sum;
        sums[r] = 0;
      }
      if constexpr (kLanes > 32) {
        __shared__ float parts[kLanes / 32][kRows];
        __syncthreads();  // those of the row before have been read
        if (lane % 32 < kRows) parts[lane / 32][lane % 32] = result;
        __syncthreads();
        if (lane < kRows) {
          for (int other = 1; other < kLanes / 32; ++other) result += parts[other][lane];
        }
      }
      if (lane < kRows && lane < a.rows && n + own < a.N) {
        if (a.bias != nullptr) result += a.bias[n + own];
        StoreOne(result, a.y.data, lane * a.y.stride + n + own, a.y.dtype);
      }
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) current[i] = next[i];
    n = next_n;
    step = next_step;
  }
}

template <class T, int kRows, int kLanes>
void Launch(Context& context, const LinearArguments& a) {
  const int64_t bytes = kRows * a.K * 4;
  const auto kernel = FewRowsKernel<T, kRows, kLanes>;
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
                   kernel, a);
}

template <class T, int kRows>
void LaunchFor(Context& context, const LinearArguments& a) {
  const int64_t row_bytes = a.K * static_cast<int64_t>(sizeof(T));
  if (row_bytes <= kShortRow) {
    Launch<T, kRows, 8>(context, a);
  } else if (row_bytes >= kLongRow && a.N <= 4 * context.multiprocessors()) {
    Launch<T, kRows, kThreads>(context, a);
  } else {
    Launch<T, kRows, 32>(context, a);
  }
}

}  // namespace

bool TakesFewRows(const LinearArguments& a) {
  if (a.rows > kMostRows || IsQuantized(a.W.dtype)) return false;
  const int64_t size = a.W.dtype == DType::kF32 ? 4 : 2;
  const int64_t x_size = a.x.dtype == DType::kF32 ? 4 : 2;
  return a.K % (16 / size) == 0 && a.K * 4 <= kMostShared &&
         AlignedTo(16, a.W.data, a.W.stride, size) &&
         AlignedTo(4 * x_size, a.x.data, a.x.stride, x_size);
}

// More rows at a time share what is read of W, as long as all of them find room.
void LinearFewRows(Context& context, const LinearArguments& a) {
  const int64_t room = kMostShared / std::max<int64_t>(1, a.K * 4);
  const int64_t at_a_time = room >= 4 ? 4 : room >= 2 ? 2 : 1;
  VisitActivation(a.W.dtype, [&](auto type) {
    using T = decltype(type);
    for (int64_t row = 0; row < a.rows; row += at_a_time) {
      LinearArguments some = a;
      some.rows = std::min(at_a_time, a.rows - row);
      const auto from = [row](Rows* rows) {
        const int64_t size = rows->dtype == DType::kF32 ? 4 : 2;
        rows->data = static_cast<std::byte*>(rows->data) + row * rows->stride * size;
      };
      from(&some.x);
      from(&some.y);
      if (some.rows == 1) {
        LaunchFor<T, 1>(context, some);
      } else if (some.rows == 2) {
        LaunchFor<T, 2>(context, some);
      } else {
        LaunchFor<T, 4>(context, some);
      }
    }
  });
}

}  // namespace adder::cuda
