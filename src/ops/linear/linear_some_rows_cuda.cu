// linear of some rows: too many to multiply without tensor cores, too few to keep them busy. A
// block multiplies 128 rows of W with up to 128 of x. So that enough blocks read W, its columns are
// split over the blocks of a cluster, whose sums meet in shared memory, always in one order. How
// they are split depends on W alone: a row's results do not depend on the other rows.
#include <algorithm>

#include "adder/backend/cuda/launch.cuh"
#include "adder/backend/cuda/numbers.cuh"
#include "adder/backend/cuda/row_access.cuh"
#include "adder/backend/cuda/tensor_cores.cuh"
#include "adder/ops/linear/linear_some_rows_cuda.cuh"

namespace adder::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kTile = 128;  // rows of W that a block takes
constexpr int kSlice = 64;  // columns at a time
constexpr int kChunks = kSlice / 8;
constexpr int kPitch = kTile + 4;  // of a row of sums: a warp's stores meet no bank twice
constexpr int64_t kMostRows = 256;
constexpr int64_t kMostSplit = 8;     // blocks of a cluster on every device that has clusters
constexpr int64_t kMostBlocks = 264;  // two on each of an H100's multiprocessors
constexpr int64_t kMostTiles = 65535;

// Blocks of kRows rows of x. Two fit a multiprocessor.
template <int kRows>
struct Shape {
  static constexpr int kStages = kRows == 128 ? 3 : kRows == 64 ? 4 : 5;
  static constexpr int kStage = (kTile + kRows) * kSlice;  // elements
  static constexpr size_t kShared =
      std::max<size_t>(size_t{kStages} * kStage * 2, size_t{kRows} * kPitch * sizeof(float));
  static constexpr int kAcross = kRows == 16 ? 1 : 2;             // warps side by side in x's rows
  static constexpr int kLefts = kTile / 16 / (kWarps / kAcross);  // a warp's 16 rows of W
  static constexpr int kRights = kRows / 16 / kAcross;            // a warp's 16 rows of x
};

// Waits for all of the cluster's blocks, whose shared memory is visible then.
__device__ inline void SyncCluster() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#endif
}

// The float at a place in the shared memory of block `rank` of the cluster.
__device__ inline float LoadFrom(int rank, uint32_t place) {
  float value = 0;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  uint32_t there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(place), "r"(rank));
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(there) : "memory");
#endif
  return value;
}

// Copies slice `slice` of kCount rows from `first` on to a tile; zeros past the ends.
template <class T, int kCount>
__device__ inline void CopySlice(const Rows& from, int64_t first, int64_t count, int64_t K,
                                 int slice, T* tile) {
#pragma unroll
  for (int i = static_cast<int>(threadIdx.x); i < kCount * kChunks; i += kThreads) {
    const int row = i / kChunks;
    const int chunk = i % kChunks;
    const int64_t column = int64_t{slice} * kSlice + chunk * 8;
    const bool valid = first + row < count && column < K;
    const T* data = static_cast<const T*>(from.data);
    CopyAsync(tile + ChunkInTile<kSlice>(row, chunk),
              valid ? data + (first + row) * from.stride + column : data, valid);
  }
}

// Blocks: those of a cluster, rows of x, rows of W.
template <class T, int kRows>
__global__ void __launch_bounds__(kThreads, 2)
    SomeRowsKernel(Rows x, Rows W, const float* bias, Rows y, int64_t rows, int64_t N, int64_t K) {
  using S = Shape<kRows>;
  extern __shared__ __align__(128) std::byte shared[];
  T* tiles = reinterpret_cast<T*>(shared);
  float* sums = reinterpret_cast<float*>(shared);
  const int split = static_cast<int>(gridDim.x);
  const int rank = static_cast<int>(blockIdx.x);
  const int64_t first_row = int64_t{blockIdx.y} * kRows;
  const int64_t first = int64_t{blockIdx.z} * kTile;
  const int slices = static_cast<int>((K + kSlice - 1) / kSlice);
  const int begin = static_cast<int>(int64_t{slices} * rank / split);
  const int end = static_cast<int>(int64_t{slices} * (rank + 1) / split);
  for (int i = static_cast<int>(threadIdx.x); i < kTile * S::kStages; i += kThreads) {
    const int64_t row = first + i % kTile;
    const int64_t column = int64_t{begin + i / kTile} * kSlice;
    if (row < N && column < K) {
      Prefetch(static_cast<const T*>(W.data) + row * W.stride + column);
    }
  }
  WaitForKernelsBefore();
  LetNextKernelBegin();

  const auto copy = [&](int slice) {
    if (slice < end) {
      T* tile = tiles + (slice - begin) % S::kStages * S::kStage;
      CopySlice<T, kTile>(W, first, N, K, slice, tile);
      CopySlice<T, kRows>(x, first_row, rows, K, slice, tile + kTile * kSlice);
    }
    CommitCopies();  // a group even where it is empty: their number says what has arrived
  };
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int left = warp / S::kAcross * S::kLefts * 16;
  const int right = warp % S::kAcross * S::kRights * 16;
  float c[S::kLefts][2 * S::kRights][4] = {};
#pragma unroll
  for (int s = 0; s < S::kStages - 1; ++s) copy(begin + s);
  for (int slice = begin; slice < end; ++slice) {
    WaitForCopies<S::kStages - 2>();
    __syncthreads();  // the slice is here, and all are done with the one before
    copy(slice + S::kStages - 1);
    const uint32_t tile = SharedAddress(tiles + (slice - begin) % S::kStages * S::kStage);
    const uint32_t x_tile = tile + kTile * kSlice * 2;
#pragma unroll
    for (int step = 0; step < kSlice / 16; ++step) {
      uint32_t a[S::kLefts][4];
#pragma unroll
      for (int i = 0; i < S::kLefts; ++i) LoadLeft<kSlice>(tile, left + 16 * i, step, a[i]);
#pragma unroll
      for (int j = 0; j < S::kRights; ++j) {
        uint32_t b[4];
        LoadRightOfColumns<kSlice>(x_tile, right + 16 * j, step, b);
#pragma unroll
        for (int i = 0; i < S::kLefts; ++i) {
          MultiplyAdd<T>(c[i][2 * j], a[i], b[0], b[1]);
          MultiplyAdd<T>(c[i][2 * j + 1], a[i], b[2], b[3]);
        }
      }
    }
  }
  WaitForCopies<0>();
  __syncthreads();  // the sums take the tiles' place

  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < S::kLefts; ++i) {
#pragma unroll
    for (int j = 0; j < 2 * S::kRights; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int n = left + 16 * i + lane / 4 + e / 2 * 8;
        const int row = right + 8 * j + lane % 4 * 2 + e % 2;
        sums[row * kPitch + n] = c[i][j][e];
      }
    }
  }
  SyncCluster();
  const int here = static_cast<int>(std::min<int64_t>(kRows, rows - first_row));
#pragma unroll 4
  for (int i = rank * kThreads + static_cast<int>(threadIdx.x); i < here * kTile;
       i += split * kThreads) {
    const int row = i / kTile;
    const int n = i % kTile;
    if (first + n >= N) continue;
    const uint32_t place = SharedAddress(sums + row * kPitch + n);
    float sum = 0;
    for (int from = 0; from < split; ++from) sum += LoadFrom(from, place);
    if (bias != nullptr) sum += bias[first + n];
    StoreOne(sum, y.data, (first_row + row) * y.stride + first + n, y.dtype);
  }
  SyncCluster();  // nobody's shared memory goes while others read it
}

int64_t Split(int64_t tiles, int64_t K) {
  int64_t split = 1;
  while (split < kMostSplit && tiles * split * 2 <= kMostBlocks && split * 2 * kSlice <= K) {
    split *= 2;
  }
  return split;
}

template <class T, int kRows>
void Launch(Context& context, const LinearArguments& a) {
  const auto kernel = SomeRowsKernel<T, kRows>;
  const int64_t tiles = (a.N + kTile - 1) / kTile;
  const auto split = static_cast<unsigned>(Split(tiles, a.K));
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(Shape<kRows>::kShared)),
        "linear of some rows");
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {split, 1, 1};
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(split, static_cast<unsigned>((a.rows + kRows - 1) / kRows),
                        static_cast<unsigned>(tiles));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = Shape<kRows>::kShared;
  config.stream = context.stream();
  config.attrs = attributes;
  config.numAttrs = LaunchesOverlap(context, reinterpret_cast<const void*>(kernel)) ? 2 : 1;
  Check(cudaLaunchKernelEx(&config, kernel, a.x, a.W, a.bias, a.y, a.rows, a.N, a.K),
        "linear of some rows");
}

template <class T>
void LaunchFor(Context& context, const LinearArguments& a) {
  if (a.rows <= 16) return Launch<T, 16>(context, a);
  if (a.rows <= 32) return Launch<T, 32>(context, a);
  if (a.rows <= 64) return Launch<T, 64>(context, a);
  Launch<T, 128>(context, a);
}

}  // namespace

// Clusters come with the same devices and code as launches that overlap.
bool TakesSomeRows(const Context& context, const LinearArguments& a) {
  if (a.rows > kMostRows || a.K == 0 || a.K % 8 != 0 || a.N > kMostTiles * kTile) return false;
  if (a.x.dtype != a.W.dtype) return false;
  if (a.x.dtype != DType::kBF16 && a.x.dtype != DType::kF16) return false;
  if (!AlignedTo(16, a.W.data, a.W.stride, 2) || !AlignedTo(16, a.x.data, a.x.stride, 2)) {
    return false;
  }
  return LaunchesOverlap(context, reinterpret_cast<const void*>(SomeRowsKernel<__nv_bfloat16, 16>));
}

void LinearSomeRows(Context& context, const LinearArguments& a) {
  if (a.x.dtype == DType::kBF16) return LaunchFor<__nv_bfloat16>(context, a);
  LaunchFor<__half>(context, a);
}

}  // namespace adder::cuda
