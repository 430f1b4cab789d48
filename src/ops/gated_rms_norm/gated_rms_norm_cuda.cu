// gated_rms_norm on CUDA. Memory-bound: a block takes a group of channels of a row; the second time
// it is read from the cache.
#include <algorithm>

#include "adder/backend/cuda/column_sums.cuh"
#include "adder/backend/cuda/row_access.cuh"
#include "adder/ops/gated_rms_norm/gated_rms_norm_cuda.h"

namespace adder::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kKept = 4;  // vectors of a group whose part of dweight a thread keeps in registers

// A row's group, whose first channel is `first`.
template <int kVector>
struct Group {
  const GatedRmsNormArguments& a;
  int64_t row, first;

  // u, which is normalised, and z's gate s = sigmoid(z).
  __device__ void Inputs(int64_t d, float (&x)[kVector], float (&z)[kVector], float (&s)[kVector],
                         float (&u)[kVector]) const {
    LoadRow<kVector>(a.x, row, first + d, x);
    LoadRow<kVector>(a.z, row, first + d, z);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      s[i] = Sigmoid(z[i]);
      u[i] = a.norm_before_gate ? x[i] : x[i] * (z[i] * s[i]);
    }
  }

  // 1 / sqrt(mean(u²) + eps)
  __device__ float InverseRms() const {
    float squares = 0;
    for (int64_t d = threadIdx.x * kVector; d < a.group_size; d += kThreads * kVector) {
      float x[kVector], z[kVector], s[kVector], u[kVector];
      Inputs(d, x, z, s, u);
#pragma unroll
      for (int i = 0; i < kVector; ++i) squares = fmaf(u[i], u[i], squares);
    }
    squares = BlockSum<kThreads>(squares);
    if (!SquaresOutOfRange(squares, a.group_size, a.eps)) {
      return 1.0f / sqrtf(squares / static_cast<float>(a.group_size) + a.eps);
    }
    double exact = 0;
    for (int64_t d = threadIdx.x * kVector; d < a.group_size; d += kThreads * kVector) {
      float x[kVector], z[kVector], s[kVector], u[kVector];
      Inputs(d, x, z, s, u);
#pragma unroll
      for (int i = 0; i < kVector; ++i) exact += static_cast<double>(u[i]) * u[i];
    }
    exact = BlockSum<kThreads>(exact) / static_cast<double>(a.group_size);
    return static_cast<float>(1.0 / sqrt(exact + static_cast<double>(a.eps)));
  }
};

template <int kVector>
__global__ void __launch_bounds__(kThreads) GatedRmsNormKernel(GatedRmsNormArguments a) {
  const Group<kVector> group{a, static_cast<int64_t>(blockIdx.x), blockIdx.y * a.group_size};
  const float inverse = group.InverseRms();
  for (int64_t d = threadIdx.x * kVector; d < a.group_size; d += kThreads * kVector) {
    float x[kVector], z[kVector], s[kVector], u[kVector], w[kVector];
    group.Inputs(d, x, z, s, u);
    Load<kVector>(a.weight + group.first + d, w);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      u[i] *= inverse * w[i];
      if (a.norm_before_gate) u[i] *= z[i] * s[i];
    }
    StoreRow<kVector>(u, a.y, group.row, group.first + d);
  }
}

// A block takes rows [rows · b / blocks, rows · (b + 1) / blocks) of a group and sums their part of
// dweight: in row b of `partial`, [blocks, channels].
template <int kVector>
__global__ void __launch_bounds__(kThreads)
    GatedRmsNormBackwardKernel(GatedRmsNormBackwardArguments b, float* partial) {
  const GatedRmsNormArguments& a = b.forward;
  const int64_t begin = a.rows * blockIdx.x / gridDim.x;
  const int64_t end = a.rows * (blockIdx.x + 1) / gridDim.x;
  const int64_t first = blockIdx.y * a.group_size;
  const int64_t step = kThreads * kVector;
  if (partial != nullptr) partial += blockIdx.x * a.channels + first;
  float sums[kKept][kVector] = {};

  for (int64_t row = begin; row < end; ++row) {
    const Group<kVector> group{a, row, first};
    const float inverse = group.InverseRms();
    // The gradient of n = u · inverse.
    const auto load = [&](int64_t d, float(&x)[kVector], float(&z)[kVector], float(&s)[kVector],
                          float(&n)[kVector], float(&g)[kVector], float(&w)[kVector],
                          float(&dn)[kVector]) {
      group.Inputs(d, x, z, s, n);
      LoadRow<kVector>(b.dy, row, first + d, g);
      Load<kVector>(a.weight + first + d, w);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        n[i] *= inverse;
        dn[i] = g[i] * w[i];
        if (a.norm_before_gate) dn[i] *= z[i] * s[i];
      }
    };
    float dot = 0;
    for (int64_t d = threadIdx.x * kVector; d < a.group_size; d += step) {
      float x[kVector], z[kVector], s[kVector], n[kVector], g[kVector], w[kVector], dn[kVector];
      load(d, x, z, s, n, g, w, dn);
#pragma unroll
      for (int i = 0; i < kVector; ++i) dot = fmaf(dn[i], n[i], dot);
    }
    const float mean = BlockSum<kThreads>(dot) / static_cast<float>(a.group_size);

    const auto write = [&](int64_t d, float(&sum)[kVector]) {
      float x[kVector], z[kVector], s[kVector], n[kVector], g[kVector], w[kVector], dn[kVector];
      load(d, x, z, s, n, g, w, dn);
      float dx[kVector], dz[kVector];
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        const float gate = z[i] * s[i];
        const float slope = s[i] * fmaf(z[i], 1.0f - s[i], 1.0f);
        const float du = inverse * (dn[i] - n[i] * mean);
        dx[i] = a.norm_before_gate ? du : du * gate;
        dz[i] = (a.norm_before_gate ? g[i] * n[i] * w[i] : du * x[i]) * slope;
        sum[i] = fmaf(g[i], a.norm_before_gate ? n[i] * gate : n[i], sum[i]);
      }
      if (b.dx.data != nullptr) StoreRow<kVector>(dx, b.dx, row, first + d);
      if (b.dz.data != nullptr) StoreRow<kVector>(dz, b.dz, row, first + d);
    };
#pragma unroll
    for (int k = 0; k < kKept; ++k) {
      const int64_t d = k * step + threadIdx.x * kVector;
      if (d < a.group_size) write(d, sums[k]);
    }
    for (int64_t d = kKept * step + threadIdx.x * kVector; d < a.group_size; d += step) {
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
    if (d < a.group_size) Store<kVector>(sums[k], partial + d);
  }
}

// A grid's second dimension is of 16 bits.
constexpr int64_t kMostGroups = 65535;

}  // namespace

void GatedRmsNorm(const GatedRmsNormArguments& a) {
  if (a.rows == 0 || a.channels == 0) return;
  const ProfilerRange range("gated_rms_norm");
  Context& context = ContextOf(a.device);
  const bool four =
      a.group_size % 4 == 0 && FourAtATime({a.x, a.z, a.y}) && AlignedTo(16, a.weight, 0, 4);
  // More groups than a grid has are taken as further channels of the same rows.
  const int64_t groups = a.channels / a.group_size;
  for (int64_t begin = 0; begin < groups; begin += kMostGroups) {
    GatedRmsNormArguments part = a;
    const int64_t count = std::min(kMostGroups, groups - begin);
    const int64_t channel = begin * a.group_size;
    for (Rows* rows : {&part.x, &part.z, &part.y}) {
      rows->data = static_cast<char*>(rows->data) + channel * DTypeSize(rows->dtype);
    }
    part.weight += channel;
    const dim3 grid(static_cast<unsigned>(a.rows), static_cast<unsigned>(count));
    if (four) {
      GatedRmsNormKernel<4><<<grid, kThreads, 0, context.stream()>>>(part);
    } else {
      GatedRmsNormKernel<1><<<grid, kThreads, 0, context.stream()>>>(part);
    }
    CheckLaunch("gated_rms_norm");
  }
}

void GatedRmsNormBackward(const GatedRmsNormBackwardArguments& b) {
  const GatedRmsNormArguments& a = b.forward;
  if (a.rows == 0 || a.channels == 0) return;
  const ProfilerRange range("gated_rms_norm backward");
  Context& context = ContextOf(a.device);
  const int64_t groups = a.channels / a.group_size;
  const int64_t per_group = std::max<int64_t>(1, 4 * context.multiprocessors() / groups);
  const int64_t blocks = std::min(a.rows, per_group);
  const bool sums = b.dweight != nullptr;
  const Scratch partial(context, sums ? blocks * a.channels * 4 : 0);
  const bool four = a.group_size % 4 == 0 && FourAtATime({a.x, a.z, b.dy, b.dx, b.dz}) &&
                    AlignedTo(16, a.weight, 0, 4);
  for (int64_t begin = 0; begin < groups; begin += kMostGroups) {
    GatedRmsNormBackwardArguments part = b;
    const int64_t count = std::min(kMostGroups, groups - begin);
    const int64_t channel = begin * a.group_size;
    for (Rows* rows : {&part.forward.x, &part.forward.z, &part.dy, &part.dx, &part.dz}) {
      if (rows->data == nullptr) continue;
      rows->data = static_cast<char*>(rows->data) + channel * DTypeSize(rows->dtype);
    }
    part.forward.weight += channel;
    float* first = sums ? partial.data<float>() + channel : nullptr;
    const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(count));
    if (four) {
      GatedRmsNormBackwardKernel<4><<<grid, kThreads, 0, context.stream()>>>(part, first);
    } else {
      GatedRmsNormBackwardKernel<1><<<grid, kThreads, 0, context.stream()>>>(part, first);
    }
    CheckLaunch("gated_rms_norm backward");
  }
  if (sums) {
    AddColumnSums(context, partial.data<float>(), blocks, a.channels, a.channels, b.dweight);
  }
}

}  // namespace adder::cuda
