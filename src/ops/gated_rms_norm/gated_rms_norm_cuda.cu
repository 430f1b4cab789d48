// gated_rms_norm on CUDA. Memory-bound: a block takes a group of channels of a row, in its
// registers where the group is of whole 16-byte pieces and not too large; else it is read again,
// from the cache.
#include <algorithm>
#include <initializer_list>

#include "adder/backend/cuda/block_sums.cuh"
#include "adder/backend/cuda/column_sums.cuh"
#include "adder/backend/cuda/launch.cuh"
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
  LetNextKernelBegin();
  WaitForKernelsBefore();
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

// ---- Groups of 16-byte pieces, one for each thread of a block: read once, kept in registers -----

constexpr int kMostThreads = 640;

template <class T>
constexpr int kPiece = 16 / static_cast<int>(sizeof(T));  // elements

template <int kCount>
__device__ void LoadWeights(const float* from, float (&to)[kCount]) {
  static_assert(kCount % 4 == 0);
#pragma unroll
  for (int i = 0; i < kCount; i += 4) {
    float four[4];
    Load<4>(from + i, four);
#pragma unroll
    for (int j = 0; j < 4; ++j) to[i + j] = four[j];
  }
}

template <class T>
__global__ void __launch_bounds__(kMostThreads) PieceKernel(GatedRmsNormArguments a) {
  LetNextKernelBegin();
  WaitForKernelsBefore();
  constexpr int kVector = kPiece<T>;
  const int64_t row = blockIdx.x;
  const int64_t channel = blockIdx.y * a.group_size + threadIdx.x * kVector;
  const bool mine = threadIdx.x * kVector < a.group_size;
  float gate[kVector] = {};
  float u[kVector] = {};
  float w[kVector] = {};
  if (mine) {
    float z[kVector];
    Load<kVector>(static_cast<const T*>(a.x.data) + row * a.x.stride + channel, u);
    Load<kVector>(static_cast<const T*>(a.z.data) + row * a.z.stride + channel, z);
    LoadWeights(a.weight + channel, w);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      gate[i] = z[i] * Sigmoid(z[i]);
      if (!a.norm_before_gate) u[i] *= gate[i];
    }
  }
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kVector; ++i) squares = fmaf(u[i], u[i], squares);
  squares = SumOfBlock<kMostThreads>(squares);
  float inverse = 1.0f / sqrtf(squares / static_cast<float>(a.group_size) + a.eps);
  if (SquaresOutOfRange(squares, a.group_size, a.eps)) {
    double exact = 0;
#pragma unroll
    for (int i = 0; i < kVector; ++i) exact += static_cast<double>(u[i]) * u[i];
    exact = SumOfBlock<kMostThreads>(exact) / static_cast<double>(a.group_size);
    inverse = static_cast<float>(1.0 / sqrt(exact + static_cast<double>(a.eps)));
  }
  if (!mine) return;
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    u[i] *= inverse * w[i];
    if (a.norm_before_gate) u[i] *= gate[i];
  }
  Store<kVector>(u, static_cast<T*>(a.y.data) + row * a.y.stride + channel);
}

// A block takes rows [rows · b / blocks, rows · (b + 1) / blocks) of a group, a row's pieces on
// their way while the row before is computed, and sums their part of dweight: in row b of
// `partial`.
template <class T>
__global__ void __launch_bounds__(kMostThreads)
    PieceBackwardKernel(GatedRmsNormBackwardArguments b, float* partial) {
  constexpr int kVector = kPiece<T>;
  const GatedRmsNormArguments& a = b.forward;
  const int64_t begin = a.rows * blockIdx.x / gridDim.x;
  const int64_t end = a.rows * (blockIdx.x + 1) / gridDim.x;
  const int64_t channel = blockIdx.y * a.group_size + threadIdx.x * kVector;
  const bool mine = threadIdx.x * kVector < a.group_size;
  const auto count = static_cast<float>(a.group_size);
  float sum[kVector] = {};
  // Read for each row, from the cache, rather than kept in registers.
  const auto load_weights = [&](float(&w)[kVector]) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) w[i] = 0;
    if (mine) LoadWeights(a.weight + channel, w);
  };

  using Piece = Bits<T, kVector>;
  Piece x_piece = {}, z_piece = {}, dy_piece = {};
  const auto fetch = [&](int64_t row) {
    if (!mine || row >= end) return;
    x_piece = LoadBits<kVector>(static_cast<const T*>(a.x.data) + row * a.x.stride + channel);
    z_piece = LoadBits<kVector>(static_cast<const T*>(a.z.data) + row * a.z.stride + channel);
    dy_piece = LoadBits<kVector>(static_cast<const T*>(b.dy.data) + row * b.dy.stride + channel);
  };
  // Rows further on are asked of the cache, once for each of its lines.
  constexpr int kFarAhead = 4;
  constexpr int kLineThreads = 128 / 16;
  const auto ask_for = [&](int64_t row) {
    if (threadIdx.x % kLineThreads != 0 || !mine || row >= end) return;
    Prefetch(static_cast<const T*>(a.x.data) + row * a.x.stride + channel);
    Prefetch(static_cast<const T*>(a.z.data) + row * a.z.stride + channel);
    Prefetch(static_cast<const T*>(b.dy.data) + row * b.dy.stride + channel);
  };
  fetch(begin);
  for (int i = 1; i < kFarAhead; ++i) ask_for(begin + i);
  for (int64_t row = begin; row < end; ++row) {
    ask_for(row + kFarAhead);
    float x[kVector], z[kVector], g[kVector], s[kVector], u[kVector], du[kVector];
    Unpack<T, kVector>(x_piece, x);
    Unpack<T, kVector>(z_piece, z);
    Unpack<T, kVector>(dy_piece, g);
    fetch(row + 1);
    float w[kVector];
    load_weights(w);
    // u is normalised to n = u · inverse; du is the gradient of n at first.
    float squares = 0;
    float dot = 0;
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      s[i] = Sigmoid(z[i]);
      u[i] = a.norm_before_gate ? x[i] : x[i] * (z[i] * s[i]);
      du[i] = g[i] * w[i];
      if (a.norm_before_gate) du[i] *= z[i] * s[i];
      squares = fmaf(u[i], u[i], squares);
      dot = fmaf(du[i], u[i], dot);
    }
    const float2 sums = SumsOfRow<kMostThreads>({squares, dot}, row);
    squares = sums.x;
    dot = sums.y;
    float inverse = 1.0f / sqrtf(squares / count + a.eps);
    float mean = dot / count * inverse;  // of du · n
    if (SquaresOutOfRange(squares, a.group_size, a.eps)) {
      double exact = 0;
      double exact_dot = 0;
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        exact += static_cast<double>(u[i]) * u[i];
        exact_dot += static_cast<double>(du[i]) * u[i];
      }
      exact = SumOfBlock<kMostThreads>(exact) / static_cast<double>(a.group_size);
      exact_dot = SumOfBlock<kMostThreads>(exact_dot) / static_cast<double>(a.group_size);
      const double exact_inverse = 1.0 / sqrt(exact + static_cast<double>(a.eps));
      inverse = static_cast<float>(exact_inverse);
      mean = static_cast<float>(exact_dot * exact_inverse);
    }
    float dz[kVector];
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const float gate = z[i] * s[i];
      const float slope = s[i] * fmaf(z[i], 1.0f - s[i], 1.0f);
      const float n = u[i] * inverse;
      du[i] = inverse * (du[i] - n * mean);
      dz[i] = (a.norm_before_gate ? g[i] * n * w[i] : du[i] * x[i]) * slope;
      if (!a.norm_before_gate) du[i] *= gate;
      sum[i] = fmaf(g[i], a.norm_before_gate ? n * gate : n, sum[i]);
    }
    if (!mine) continue;
    if (b.dx.data != nullptr) {
      Store<kVector>(du, static_cast<T*>(b.dx.data) + row * b.dx.stride + channel);
    }
    if (b.dz.data != nullptr) {
      Store<kVector>(dz, static_cast<T*>(b.dz.data) + row * b.dz.stride + channel);
    }
  }
  if (partial == nullptr || !mine) return;
  partial += blockIdx.x * a.channels + channel;
#pragma unroll
  for (int i = 0; i < kVector; ++i) partial[i] = sum[i];
}

// The threads of a block whose threads have a piece each, whole warps; 0 where there is no such
// block, or not all are of one type.
int PieceThreads(const GatedRmsNormArguments& a, std::initializer_list<Rows> all) {
  const int64_t size = DTypeSize(a.x.dtype);
  const int64_t pieces = a.group_size * size / 16;
  if (a.group_size * size % 16 != 0 || pieces > kMostThreads || !AlignedTo(16, a.weight, 0, 4)) {
    return 0;
  }
  for (const Rows& rows : all) {
    if (rows.data == nullptr) continue;
    if (rows.dtype != a.x.dtype || !AlignedTo(16, rows.data, rows.stride, size)) return 0;
  }
  return static_cast<int>((pieces + 31) / 32 * 32);
}

// Blocks of rows that run at a time, of all groups.
template <class T>
int64_t PieceBackwardBlocks(const Context& context, int threads) {
  int blocks = 0;
  Check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, PieceBackwardKernel<T>, threads, 0),
        "gated_rms_norm backward's blocks");
  return int64_t{std::max(blocks, 1)} * context.multiprocessors();
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
  const int threads = PieceThreads(a, {a.x, a.z, a.y});
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
    const auto launch = [&](auto kernel, int block) {
      LaunchOverlapped(
          context, {.name = "gated_rms_norm", .grid = grid, .block = static_cast<unsigned>(block)},
          kernel, part);
    };
    if (threads > 0) {
      VisitActivation(a.x.dtype, [&](auto type) { launch(PieceKernel<decltype(type)>, threads); });
    } else if (four) {
      launch(GatedRmsNormKernel<4>, kThreads);
    } else {
      launch(GatedRmsNormKernel<1>, kThreads);
    }
  }
}

void GatedRmsNormBackward(const GatedRmsNormBackwardArguments& b) {
  const GatedRmsNormArguments& a = b.forward;
  if (a.rows == 0 || a.channels == 0) return;
  const ProfilerRange range("gated_rms_norm backward");
  Context& context = ContextOf(a.device);
  const int64_t groups = a.channels / a.group_size;
  const int threads = PieceThreads(a, {a.x, a.z, b.dy, b.dx, b.dz});
  int64_t at_a_time = int64_t{4} * context.multiprocessors();
  if (threads > 0) {
    VisitActivation(a.x.dtype, [&](auto type) {
      at_a_time = PieceBackwardBlocks<decltype(type)>(context, threads);
    });
  }
  const int64_t blocks = std::min(a.rows, std::max<int64_t>(1, at_a_time / groups));
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
    if (threads > 0) {
      VisitActivation(a.x.dtype, [&](auto type) {
        PieceBackwardKernel<decltype(type)><<<grid, threads, 0, context.stream()>>>(part, first);
      });
    } else if (four) {
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
