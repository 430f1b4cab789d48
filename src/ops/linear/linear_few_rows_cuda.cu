// linear of few rows on CUDA: memory-bound by W. Threads along K read pieces of 16 bytes of a few
// rows of W at a time and multiply them with all rows of x, which the cache holds; their sums meet
// in the warp and, where a row of W is long, in the block, always in the same order. A short row is
// one warp's, so that small projections, too, are spread over the whole device.
#include <type_traits>

#include "adder/backend/cuda/row_access.cuh"
#include "adder/ops/linear/linear_few_rows_cuda.cuh"

namespace adder::cuda {
namespace {

constexpr int kWarps = 8;  // of a block
constexpr int kThreads = 32 * kWarps;
constexpr int kTogether = 4;         // rows of W
constexpr int64_t kMostRows = 4;     // of x; more are faster with cuBLASLt
constexpr int64_t kShortRow = 1024;  // elements of W's rows up to which a warp takes them alone

// kRows: of x, at least a.rows. kSplit: warps that share rows of W, 1 or all of a block.
template <class T, int kRows, int kSplit>
__global__ void __launch_bounds__(kThreads)
    FewRowsKernel(const __grid_constant__ LinearArguments a) {
  constexpr int kPiece = 16 / static_cast<int>(sizeof(T));
  constexpr int kSums = kTogether * kRows;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t group = kSplit == 1 ? static_cast<int64_t>(blockIdx.x) * kWarps + warp
                                    : static_cast<int64_t>(blockIdx.x);
  const int64_t n0 = group * kTogether;
  if (kSplit == 1 && n0 >= a.N) return;
  const T* W[kTogether];
#pragma unroll
  for (int j = 0; j < kTogether; ++j) {
    W[j] = static_cast<const T*>(a.W.data) + min(n0 + j, a.N - 1) * a.W.stride;
  }

  float sums[kTogether][kRows] = {};
  const int64_t first = static_cast<int64_t>(kSplit == 1 ? lane : threadIdx.x) * kPiece;
#pragma unroll 2
  for (int64_t k = first; k < a.K; k += kSplit * 32 * kPiece) {
    Bits<T, kPiece> pieces[kTogether];
#pragma unroll
    for (int j = 0; j < kTogether; ++j) pieces[j] = LoadBits<kPiece>(W[j] + k);
    float x[kRows][kPiece];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      // f32's eight numbers are two pieces.
#pragma unroll
      for (int i = 0; i < kPiece; i += 4) {
        float four[4];
        LoadRow<4>(a.x, min(static_cast<int64_t>(r), a.rows - 1), k + i, four);
#pragma unroll
        for (int e = 0; e < 4; ++e) x[r][i + e] = four[e];
      }
    }
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      float w[kPiece];
      Unpack<T, kPiece>(pieces[j], w);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int e = 0; e < kPiece; ++e) sums[j][r] = fmaf(w[e], x[r][e], sums[j][r]);
      }
    }
  }

  float own = 0;  // sum `lane` of the warp's
#pragma unroll
  for (int j = 0; j < kTogether; ++j) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float sum = WarpSum(sums[j][r]);
      if (lane == j * kRows + r) own = sum;
    }
  }
  if constexpr (kSplit > 1) {
    __shared__ float all[kWarps][kSums];
    if (lane < kSums) all[warp][lane] = own;
    __syncthreads();
    if (warp > 0 || lane >= kSums) return;
    for (int other = 1; other < kWarps; ++other) own += all[other][lane];
  }
  const int64_t n = n0 + lane / kRows;
  const int64_t row = lane % kRows;
  if (lane >= kSums || n >= a.N || row >= a.rows) return;
  if (a.bias != nullptr) own += a.bias[n];
  StoreOne(own, a.y.data, row * a.y.stride + n, a.y.dtype);
}

template <class T, int kRows>
void Launch(Context& context, const LinearArguments& a) {
  const int64_t groups = (a.N + kTogether - 1) / kTogether;
  if (a.K <= kShortRow) {
    FewRowsKernel<T, kRows, 1>
        <<<static_cast<unsigned>((groups + kWarps - 1) / kWarps), kThreads, 0, context.stream()>>>(
            a);
  } else {
    FewRowsKernel<T, kRows, kWarps>
        <<<static_cast<unsigned>(groups), kThreads, 0, context.stream()>>>(a);
  }
}

}  // namespace

bool TakesFewRows(const LinearArguments& a) {
  if (a.rows > kMostRows || IsQuantized(a.W.dtype)) return false;
  const int64_t size = a.W.dtype == DType::kF32 ? 4 : 2;
  const int64_t x_size = a.x.dtype == DType::kF32 ? 4 : 2;
  return a.K % (16 / size) == 0 && AlignedTo(16, a.W.data, a.W.stride, size) &&
         AlignedTo(4 * x_size, a.x.data, a.x.stride, x_size);
}

void LinearFewRows(Context& context, const LinearArguments& a) {
  VisitActivation(a.W.dtype, [&](auto type) {
    using T = decltype(type);
    if (a.rows == 1) {
      Launch<T, 1>(context, a);
    } else if (a.rows == 2) {
      Launch<T, 2>(context, a);
    } else if (a.rows <= 4) {
      Launch<T, 4>(context, a);
    } else {
      Launch<T, 8>(context, a);
    }
  });
  CheckLaunch("linear of few rows");
}

}  // namespace adder::cuda
