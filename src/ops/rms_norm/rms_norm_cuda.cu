// rms_norm on CUDA. Memory-bound: each row is read once into registers (what does not fit there is
// read again, from the cache), a row by a warp where it is short and by a block where it is long.
#include <algorithm>

#include "adder/backend/cuda/block_sums.cuh"
#include "adder/backend/cuda/column_sums.cuh"
#include "adder/backend/cuda/numbers.cuh"
#include "adder/ops/rms_norm/rms_norm_few_rows_cuda.cuh"

namespace adder::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarpRow = 32;         // threads of a short row
constexpr int kKept = 8;             // vectors of a row that a thread keeps in registers
constexpr int64_t kShortRow = 1024;  // channels
constexpr int kMostVectors = 1024;   // of a row that a block's threads take one each of, backwards

// The sum over the kRowThreads threads of a row, in all of them.
template <int kRowThreads, class T>
__device__ T RowSum(T value) {
  value = WarpSum(value);
  if constexpr (kRowThreads > 32) {
    __shared__ T sums[kRowThreads / 32];
    __syncthreads();  // those of the call before have been read
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
    __syncthreads();
    value = 0;
    for (int i = 0; i < kRowThreads / 32; ++i) value += sums[i];
  }
  return value;
}

// Whether a sum of squares in f32 lost what 1 / sqrt(mean + eps) depends on.
__device__ bool OutOfRange(float squares, int64_t channels, float eps) {
  return !(squares < 1e37f) || (squares < 1e-25f && eps < 1e-25f * static_cast<float>(channels));
}

template <class T, class Y, int kRowThreads, int kVector>
__global__ void __launch_bounds__(kThreads) RmsNormKernel(RmsNormArguments a) {
  const int64_t row =
      static_cast<int64_t>(blockIdx.x) * (kThreads / kRowThreads) + threadIdx.x / kRowThreads;
  if (kRowThreads == 32 && row >= a.rows) return;
  const int lane = threadIdx.x % kRowThreads;
  const T* x = static_cast<const T*>(a.x.data) + row * a.x.stride;
  const float* residual = a.residual.data == nullptr ? nullptr
                                                     : static_cast<const float*>(a.residual.data) +
                                                           row * a.residual.stride;
  float* residual_out = a.residual_out.data == nullptr ? nullptr
                                                       : static_cast<float*>(a.residual_out.data) +
                                                             row * a.residual_out.stride;
  Y* y = static_cast<Y*>(a.y.data) + row * a.y.stride;
  const int64_t step = kRowThreads * kVector;

  const auto sum_of = [&](int64_t d, float(&r)[kVector]) {
    Load<kVector>(x + d, r);
    if (residual == nullptr) return;
    float more[kVector];
    Load<kVector>(residual + d, more);
#pragma unroll
    for (int i = 0; i < kVector; ++i) r[i] += more[i];
  };
  // Reads a vector once more: what lay in residual may have been replaced by the sum.
  const auto again = [&](int64_t d, float(&r)[kVector]) {
    if (residual_out != nullptr) {
      Load<kVector>(residual_out + d, r);
    } else {
      sum_of(d, r);
    }
  };

  float kept[kKept][kVector];
  float squares = 0;
  const auto keep = [&](int64_t d, const float(&r)[kVector]) {
    if (residual_out != nullptr) Store<kVector>(r, residual_out + d);
#pragma unroll
    for (int i = 0; i < kVector; ++i) squares = fmaf(r[i], r[i], squares);
  };
  // All loads before the first store, which they could not overtake.
#pragma unroll
  for (int k = 0; k < kKept; ++k) {
    const int64_t d = k * step + lane * kVector;
    if (d < a.channels) sum_of(d, kept[k]);
  }
#pragma unroll
  for (int k = 0; k < kKept; ++k) {
    const int64_t d = k * step + lane * kVector;
    if (d < a.channels) keep(d, kept[k]);
  }
  for (int64_t d = kKept * step + lane * kVector; d < a.channels; d += step) {
    float r[kVector];
    sum_of(d, r);
    keep(d, r);
  }
  squares = RowSum<kRowThreads>(squares);

  const auto count = static_cast<float>(a.channels);
  float inverse = 1.0f / sqrtf(squares / count + a.eps);
  if (OutOfRange(squares, a.channels, a.eps)) {
    double exact = 0;
    for (int64_t d = lane * kVector; d < a.channels; d += step) {
      float r[kVector];
      again(d, r);
#pragma unroll
      for (int i = 0; i < kVector; ++i) exact += static_cast<double>(r[i]) * r[i];
    }
    exact = RowSum<kRowThreads>(exact);
    inverse = static_cast<float>(1.0 / sqrt(exact / static_cast<double>(a.channels) + a.eps));
  }

  const auto write = [&](int64_t d, float(&r)[kVector]) {
    float w[kVector];
    if (a.weight != nullptr) Load<kVector>(a.weight + d, w);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      r[i] *= inverse;
      if (a.weight != nullptr) r[i] *= w[i];
    }
    Store<kVector>(r, y + d);
  };
#pragma unroll
  for (int k = 0; k < kKept; ++k) {
    const int64_t d = k * step + lane * kVector;
    if (d < a.channels) write(d, kept[k]);
  }
  for (int64_t d = kKept * step + lane * kVector; d < a.channels; d += step) {
    float r[kVector];
    again(d, r);
    write(d, r);
  }
}

// A block takes rows [rows · b / blocks, rows · (b + 1) / blocks) and sums their part of dweight,
// in registers as far as those go and in its row of `partial`.
template <class T, class X, int kVector>
__global__ void __launch_bounds__(kThreads)
    RmsNormBackwardKernel(RmsNormBackwardArguments a, float* partial) {
  const int64_t begin = a.rows * blockIdx.x / gridDim.x;
  const int64_t end = a.rows * (blockIdx.x + 1) / gridDim.x;
  const int64_t step = kThreads * kVector;
  if (partial != nullptr) partial += blockIdx.x * a.channels;
  float sums[kKept][kVector] = {};
  const auto count = static_cast<float>(a.channels);

  for (int64_t row = begin; row < end; ++row) {
    const float* r = static_cast<const float*>(a.r.data) + row * a.r.stride;
    const T* dy = static_cast<const T*>(a.dy.data) + row * a.dy.stride;
    const float* through =
        a.d_residual_out.data == nullptr
            ? nullptr
            : static_cast<const float*>(a.d_residual_out.data) + row * a.d_residual_out.stride;
    float* dr = a.dr.data == nullptr ? nullptr : static_cast<float*>(a.dr.data) + row * a.dr.stride;
    X* dx = a.dx.data == nullptr ? nullptr : static_cast<X*>(a.dx.data) + row * a.dx.stride;

    const auto weighted = [&](int64_t d, const float(&g)[kVector], float(&wg)[kVector]) {
      float w[kVector];
      if (a.weight != nullptr) Load<kVector>(a.weight + d, w);
#pragma unroll
      for (int i = 0; i < kVector; ++i) wg[i] = a.weight != nullptr ? g[i] * w[i] : g[i];
    };
    float squares = 0;
    float dot = 0;
    for (int64_t d = threadIdx.x * kVector; d < a.channels; d += step) {
      float values[kVector], g[kVector], wg[kVector];
      Load<kVector>(r + d, values);
      Load<kVector>(dy + d, g);
      weighted(d, g, wg);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        squares = fmaf(values[i], values[i], squares);
        dot = fmaf(values[i], wg[i], dot);
      }
    }
    squares = RowSum<kThreads>(squares);
    dot = RowSum<kThreads>(dot);
    float inverse = 1.0f / sqrtf(squares / count + a.eps);
    // dr = inverse · (wg - r · factor)
    float factor = dot / count * inverse * inverse;
    if (OutOfRange(squares, a.channels, a.eps)) {
      double exact = 0;
      double exact_dot = 0;
      for (int64_t d = threadIdx.x * kVector; d < a.channels; d += step) {
        float values[kVector], g[kVector], wg[kVector];
        Load<kVector>(r + d, values);
        Load<kVector>(dy + d, g);
        weighted(d, g, wg);
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
          exact += static_cast<double>(values[i]) * values[i];
          exact_dot += static_cast<double>(values[i]) * wg[i];
        }
      }
      exact = RowSum<kThreads>(exact);
      exact_dot = RowSum<kThreads>(exact_dot);
      const double mean = exact / static_cast<double>(a.channels) + a.eps;
      inverse = static_cast<float>(1.0 / sqrt(mean));
      factor = static_cast<float>(exact_dot / static_cast<double>(a.channels) / mean);
    }

    const auto write = [&](int64_t d, float(&sum)[kVector]) {
      float values[kVector], g[kVector], wg[kVector];
      Load<kVector>(r + d, values);
      Load<kVector>(dy + d, g);
      weighted(d, g, wg);
      float result[kVector];
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        sum[i] = fmaf(g[i], values[i] * inverse, sum[i]);
        result[i] = inverse * fmaf(-values[i], factor, wg[i]);
      }
      if (through != nullptr) {
        float more[kVector];
        Load<kVector>(through + d, more);
#pragma unroll
        for (int i = 0; i < kVector; ++i) result[i] += more[i];
      }
      if (dr != nullptr) Store<kVector>(result, dr + d);
      if (dx != nullptr) Store<kVector>(result, dx + d);
    };
#pragma unroll
    for (int k = 0; k < kKept; ++k) {
      const int64_t d = k * step + threadIdx.x * kVector;
      if (d < a.channels) write(d, sums[k]);
    }
    for (int64_t d = kKept * step + threadIdx.x * kVector; d < a.channels; d += step) {
      float sum[kVector] = {};
      if (partial != nullptr && row > begin) Load<kVector>(partial + d, sum);
      write(d, sum);
      if (partial != nullptr) Store<kVector>(sum, partial + d);
    }
  }
  if (partial == nullptr) return;
#pragma unroll
  for (int k = 0; k < kKept; ++k) {
    const int64_t d = k * step + threadIdx.x * kVector;
    if (d < a.channels) Store<kVector>(sums[k], partial + d);
  }
}

// The same with a vector of four for each thread of the block, a row's on their way while the row
// before is computed.
template <class T, class X>
__global__ void __launch_bounds__(kMostVectors)
    RmsNormBackwardVectorKernel(RmsNormBackwardArguments a, float* partial) {
  const int64_t begin = a.rows * blockIdx.x / gridDim.x;
  const int64_t end = a.rows * (blockIdx.x + 1) / gridDim.x;
  const int64_t d = threadIdx.x * 4;
  const bool mine = d < a.channels;
  const auto count = static_cast<float>(a.channels);
  float w[4] = {1, 1, 1, 1};
  if (mine && a.weight != nullptr) Load<4>(a.weight + d, w);
  float sum[4] = {};

  Bits<float, 4> r_bits = {}, through_bits = {};
  Bits<T, 4> dy_bits = {};
  const auto fetch = [&](int64_t row) {
    if (!mine || row >= end) return;
    r_bits = LoadBits<4>(static_cast<const float*>(a.r.data) + row * a.r.stride + d);
    dy_bits = LoadBits<4>(static_cast<const T*>(a.dy.data) + row * a.dy.stride + d);
    if (a.d_residual_out.data == nullptr) return;
    through_bits = LoadBits<4>(static_cast<const float*>(a.d_residual_out.data) +
                               row * a.d_residual_out.stride + d);
  };
  fetch(begin);
  for (int64_t row = begin; row < end; ++row) {
    float r[4], g[4], through[4];
    Unpack<float, 4>(r_bits, r);
    Unpack<T, 4>(dy_bits, g);
    Unpack<float, 4>(through_bits, through);
    fetch(row + 1);
    float2 sums = {0, 0};  // of squares, and of r · w · dy
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sums.x = fmaf(r[i], r[i], sums.x);
      sums.y = fmaf(r[i], g[i] * w[i], sums.y);
    }
    sums = SumsOfRow<kMostVectors>(sums, row);
    float inverse = 1.0f / sqrtf(sums.x / count + a.eps);
    // dr = inverse · (w · dy - r · factor)
    float factor = sums.y / count * inverse * inverse;
    if (OutOfRange(sums.x, a.channels, a.eps)) {
      double exact = 0;
      double exact_dot = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        exact += static_cast<double>(r[i]) * r[i];
        exact_dot += static_cast<double>(r[i]) * (g[i] * w[i]);
      }
      const double mean = SumOfBlock<kMostVectors>(exact) / static_cast<double>(a.channels) + a.eps;
      inverse = static_cast<float>(1.0 / sqrt(mean));
      factor = static_cast<float>(SumOfBlock<kMostVectors>(exact_dot) /
                                  static_cast<double>(a.channels) / mean);
    }
    float result[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sum[i] = fmaf(g[i], r[i] * inverse, sum[i]);
      result[i] = inverse * fmaf(-r[i], factor, g[i] * w[i]) + through[i];
    }
    if (!mine) continue;
    if (a.dr.data != nullptr) {
      Store<4>(result, static_cast<float*>(a.dr.data) + row * a.dr.stride + d);
    }
    if (a.dx.data != nullptr) {
      Store<4>(result, static_cast<X*>(a.dx.data) + row * a.dx.stride + d);
    }
  }
  if (partial != nullptr && mine) Store<4>(sum, partial + blockIdx.x * a.channels + d);
}

// Whether every given matrix can be read four elements at a time.
bool FourAtATime(int64_t channels, std::initializer_list<Rows> all, const float* weight) {
  if (channels % 4 != 0 || !AlignedTo(16, weight, 0, 4)) return false;
  return std::all_of(all.begin(), all.end(), [](const Rows& rows) {
    const int64_t size = rows.dtype == DType::kF32 ? 4 : 2;
    return AlignedTo(4 * size, rows.data, rows.stride, size);
  });
}

template <class T, class Y, int kVector>
void LaunchRmsNorm(Context& context, const RmsNormArguments& a) {
  if (a.channels <= kShortRow * kVector / 4) {
    const int64_t blocks = (a.rows * kWarpRow + kThreads - 1) / kThreads;
    RmsNormKernel<T, Y, kWarpRow, kVector>
        <<<static_cast<unsigned>(blocks), kThreads, 0, context.stream()>>>(a);
  } else {
    RmsNormKernel<T, Y, kThreads, kVector>
        <<<static_cast<unsigned>(a.rows), kThreads, 0, context.stream()>>>(a);
  }
}

}  // namespace

void RmsNorm(const RmsNormArguments& a) {
  if (a.rows == 0 || a.channels == 0) return;
  const ProfilerRange range("rms_norm");
  Context& context = ContextOf(a.device);
  const bool four = FourAtATime(a.channels, {a.x, a.residual, a.y, a.residual_out}, a.weight);
  if (TakesFewNormRows(context, a, four)) return RmsNormFewRows(context, a);
  VisitActivation(a.x.dtype, [&](auto x) {
    VisitActivation(a.y.dtype, [&](auto y) {
      using X = decltype(x);
      using Y = decltype(y);
      if (four) {
        LaunchRmsNorm<X, Y, 4>(context, a);
      } else {
        LaunchRmsNorm<X, Y, 1>(context, a);
      }
    });
  });
  CheckLaunch("rms_norm");
}

void RmsNormBackward(const RmsNormBackwardArguments& a) {
  if (a.rows == 0 || a.channels == 0) return;
  const ProfilerRange range("rms_norm backward");
  Context& context = ContextOf(a.device);
  const bool four = FourAtATime(a.channels, {a.r, a.dy, a.d_residual_out, a.dr, a.dx}, a.weight);
  const bool vectors = four && a.channels <= 4 * kMostVectors;
  const int threads = vectors ? static_cast<int>((a.channels / 4 + 31) / 32 * 32) : kThreads;
  VisitActivation(a.dy.dtype, [&](auto dy) {
    VisitActivation(a.dx.dtype, [&](auto dx) {
      using T = decltype(dy);
      using X = decltype(dx);
      const auto kernel = vectors ? RmsNormBackwardVectorKernel<T, X>
                          : four  ? RmsNormBackwardKernel<T, X, 4>
                                  : RmsNormBackwardKernel<T, X, 1>;
      int resident = 0;
      Check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, threads, 0),
            "rms_norm backward's blocks");
      const int64_t blocks =
          std::min(a.rows, int64_t{std::max(resident, 1)} * context.multiprocessors());
      const Scratch partial(context, a.dweight == nullptr ? 0 : blocks * a.channels * 4);
      float* sums = a.dweight == nullptr ? nullptr : partial.data<float>();
      kernel<<<static_cast<unsigned>(blocks), threads, 0, context.stream()>>>(a, sums);
      CheckLaunch("rms_norm backward");
      if (sums != nullptr) {
        AddColumnSums(context, sums, blocks, a.channels, a.channels, a.dweight);
      }
    });
  });
}

}  // namespace adder::cuda
