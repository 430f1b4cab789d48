// layer_norm on CUDA. Memory-bound: a block takes a row; the second and third time the row is read
// from the cache. The variance is summed around the mean, as on the CPU.
#include <algorithm>

#include "adder/backend/cuda/column_sums.cuh"
#include "adder/backend/cuda/launch.cuh"
#include "adder/backend/cuda/row_access.cuh"
#include "adder/ops/layer_norm/layer_norm_cuda.h"

namespace adder::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kKept =
    4;  // vectors of a row whose parameters' gradients a thread keeps in registers

struct Statistics {
  float mean;
  float rest;     // the mean less `mean`: what an f32 cannot hold of it
  float inverse;  // 1 / sqrt(variance + eps)
};

// value(d, r): loads elements [d, d + kVector).
template <int kVector, class Value>
__device__ Statistics RowStatistics(int64_t channels, float eps, const Value& value) {
  const int64_t step = kThreads * kVector;
  const auto count = static_cast<float>(channels);
  float sum = 0;
  for (int64_t d = threadIdx.x * kVector; d < channels; d += step) {
    float r[kVector];
    value(d, r);
#pragma unroll
    for (int i = 0; i < kVector; ++i) sum += r[i];
  }
  Statistics result;
  result.mean = BlockSum<kThreads>(sum) / count;
  float squares = 0;
  float off = 0;
  for (int64_t d = threadIdx.x * kVector; d < channels; d += step) {
    float r[kVector];
    value(d, r);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const float centred = r[i] - result.mean;
      squares = fmaf(centred, centred, squares);
      off += centred;
    }
  }
  squares = BlockSum<kThreads>(squares);
  result.rest = BlockSum<kThreads>(off) / count;
  result.inverse = 1.0f / sqrtf(fmaxf(squares / count - result.rest * result.rest, 0.0f) + eps);
  if (isfinite(result.mean) && !SquaresOutOfRange(squares, channels, eps)) return result;

  double exact = 0;
  for (int64_t d = threadIdx.x * kVector; d < channels; d += step) {
    float r[kVector];
    value(d, r);
#pragma unroll
    for (int i = 0; i < kVector; ++i) exact += static_cast<double>(r[i]);
  }
  const double mean = BlockSum<kThreads>(exact) / static_cast<double>(channels);
  exact = 0;
  for (int64_t d = threadIdx.x * kVector; d < channels; d += step) {
    float r[kVector];
    value(d, r);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const double centred = static_cast<double>(r[i]) - mean;
      exact += centred * centred;
    }
  }
  exact = BlockSum<kThreads>(exact) / static_cast<double>(channels);
  result.mean = static_cast<float>(mean);
  result.rest = static_cast<float>(mean - static_cast<double>(result.mean));
  result.inverse = static_cast<float>(1.0 / sqrt(exact + static_cast<double>(eps)));
  return result;
}

template <int kVector>
__global__ void __launch_bounds__(kThreads) LayerNormKernel(LayerNormArguments a) {
  LetNextKernelBegin();
  WaitForKernelsBefore();
  const int64_t row = blockIdx.x;
  const int64_t step = kThreads * kVector;
  const auto sum_of = [&](int64_t d, float(&r)[kVector]) {
    LoadRow<kVector>(a.x, row, d, r);
    if (a.residual.data == nullptr) return;
    float more[kVector];
    LoadRow<kVector>(a.residual, row, d, more);
#pragma unroll
    for (int i = 0; i < kVector; ++i) r[i] += more[i];
  };
  // What lay in residual may have been replaced by the sum: it is formed once, by the thread that
  // reads it again.
  const bool stored = a.residual_out.data != nullptr;
  if (stored) {
    for (int64_t d = threadIdx.x * kVector; d < a.channels; d += step) {
      float r[kVector];
      sum_of(d, r);
      StoreRow<kVector>(r, a.residual_out, row, d);
    }
  }
  const auto value = [&](int64_t d, float(&r)[kVector]) {
    if (stored) {
      LoadRow<kVector>(a.residual_out, row, d, r);
    } else {
      sum_of(d, r);
    }
  };
  const Statistics s = RowStatistics<kVector>(a.channels, a.eps, value);
  for (int64_t d = threadIdx.x * kVector; d < a.channels; d += step) {
    float r[kVector], w[kVector], b[kVector];
    value(d, r);
    Load<kVector>(a.weight + d, w);
    if (a.bias != nullptr) Load<kVector>(a.bias + d, b);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      r[i] = (r[i] - s.mean - s.rest) * s.inverse * w[i];
      if (a.bias != nullptr) r[i] += b[i];
    }
    StoreRow<kVector>(r, a.y, row, d);
  }
}

// A block takes rows [rows · b / blocks, rows · (b + 1) / blocks) and sums their part of dweight
// and dbias: row b of `partial`, [blocks, 2 · channels].
template <int kVector>
__global__ void __launch_bounds__(kThreads)
    LayerNormBackwardKernel(LayerNormBackwardArguments a, float* partial) {
  const int64_t begin = a.rows * blockIdx.x / gridDim.x;
  const int64_t end = a.rows * (blockIdx.x + 1) / gridDim.x;
  const int64_t step = kThreads * kVector;
  const auto count = static_cast<float>(a.channels);
  if (partial != nullptr) partial += blockIdx.x * 2 * a.channels;
  float dweight[kKept][kVector] = {};
  float dbias[kKept][kVector] = {};

  for (int64_t row = begin; row < end; ++row) {
    const Statistics s = RowStatistics<kVector>(
        a.channels, a.eps,
        [&](int64_t d, float(&r)[kVector]) { LoadRow<kVector>(a.r, row, d, r); });
    // n = (r - mean) · inverse; dn = dy · weight.
    const auto load = [&](int64_t d, float(&n)[kVector], float(&g)[kVector], float(&dn)[kVector]) {
      float w[kVector];
      LoadRow<kVector>(a.r, row, d, n);
      LoadRow<kVector>(a.dy, row, d, g);
      Load<kVector>(a.weight + d, w);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        n[i] = (n[i] - s.mean - s.rest) * s.inverse;
        dn[i] = g[i] * w[i];
      }
    };
    float sum_dn = 0;
    float sum_dn_n = 0;
    for (int64_t d = threadIdx.x * kVector; d < a.channels; d += step) {
      float n[kVector], g[kVector], dn[kVector];
      load(d, n, g, dn);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        sum_dn += dn[i];
        sum_dn_n = fmaf(dn[i], n[i], sum_dn_n);
      }
    }
    const float mean_dn = BlockSum<kThreads>(sum_dn) / count;
    const float mean_dn_n = BlockSum<kThreads>(sum_dn_n) / count;

    const auto write = [&](int64_t d, float(&weight_sum)[kVector], float(&bias_sum)[kVector]) {
      float n[kVector], g[kVector], dn[kVector];
      load(d, n, g, dn);
      float result[kVector];
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        weight_sum[i] = fmaf(g[i], n[i], weight_sum[i]);
        bias_sum[i] += g[i];
        result[i] = s.inverse * (dn[i] - mean_dn - n[i] * mean_dn_n);
      }
      if (a.d_residual_out.data != nullptr) {
        float through[kVector];
        LoadRow<kVector>(a.d_residual_out, row, d, through);
#pragma unroll
        for (int i = 0; i < kVector; ++i) result[i] += through[i];
      }
      if (a.dr.data != nullptr) StoreRow<kVector>(result, a.dr, row, d);
      if (a.dx.data != nullptr) StoreRow<kVector>(result, a.dx, row, d);
    };
#pragma unroll
    for (int k = 0; k < kKept; ++k) {
      const int64_t d = k * step + threadIdx.x * kVector;
      if (d < a.channels) write(d, dweight[k], dbias[k]);
    }
    for (int64_t d = kKept * step + threadIdx.x * kVector; d < a.channels; d += step) {
      float w[kVector] = {};
      float b[kVector] = {};
      if (partial != nullptr && row > begin) {
        Load<kVector>(partial + d, w);
        Load<kVector>(partial + a.channels + d, b);
      }
      write(d, w, b);
      if (partial != nullptr) {
        Store<kVector>(w, partial + d);
        Store<kVector>(b, partial + a.channels + d);
      }
    }
  }
  if (partial == nullptr) return;
#pragma unroll
  for (int k = 0; k < kKept; ++k) {
    const int64_t d = k * step + threadIdx.x * kVector;
    if (d >= a.channels) continue;
    Store<kVector>(dweight[k], partial + d);
    Store<kVector>(dbias[k], partial + a.channels + d);
  }
}

}  // namespace

void LayerNorm(const LayerNormArguments& a) {
  if (a.rows == 0 || a.channels == 0) return;
  const ProfilerRange range("layer_norm");
  Context& context = ContextOf(a.device);
  const LaunchShape shape = {
      .name = "layer_norm", .grid = static_cast<unsigned>(a.rows), .block = kThreads};
  if (a.channels % 4 == 0 && FourAtATime({a.x, a.residual, a.y, a.residual_out}) &&
      AlignedTo(16, a.weight, 0, 4) && AlignedTo(16, a.bias, 0, 4)) {
    LaunchOverlapped(context, shape, LayerNormKernel<4>, a);
  } else {
    LaunchOverlapped(context, shape, LayerNormKernel<1>, a);
  }
}

void LayerNormBackward(const LayerNormBackwardArguments& a) {
  if (a.rows == 0 || a.channels == 0) return;
  const ProfilerRange range("layer_norm backward");
  Context& context = ContextOf(a.device);
  const int64_t blocks = std::min<int64_t>(a.rows, 4 * context.multiprocessors());
  const bool sums = a.dweight != nullptr || a.dbias != nullptr;
  const Scratch partial(context, sums ? blocks * 2 * a.channels * 4 : 0);
  float* first = sums ? partial.data<float>() : nullptr;
  if (a.channels % 4 == 0 && FourAtATime({a.r, a.dy, a.d_residual_out, a.dr, a.dx}) &&
      AlignedTo(16, a.weight, 0, 4)) {
    LayerNormBackwardKernel<4>
        <<<static_cast<unsigned>(blocks), kThreads, 0, context.stream()>>>(a, first);
  } else {
    LayerNormBackwardKernel<1>
        <<<static_cast<unsigned>(blocks), kThreads, 0, context.stream()>>>(a, first);
  }
  CheckLaunch("layer_norm backward");
  const int64_t width = 2 * a.channels;
  if (a.dweight != nullptr) AddColumnSums(context, first, blocks, width, a.channels, a.dweight);
  if (a.dbias != nullptr) {
    AddColumnSums(context, first + a.channels, blocks, width, a.channels, a.dbias);
  }
}

}  // namespace adder::cuda
