// mamba_step on CUDA, for one sequence, in four kernels: norm, in_proj and convolution; x_proj;
// dt_proj and scan; out_proj. What joins them is that a channel's convolution needs one product of
// in_proj alone, and its scan one of dt_proj: the team of threads that has it goes on.
#include <algorithm>
#include <type_traits>

#include "adder/ops/linear/linear_few_rows_kernel.cuh"
#include "adder/ops/linear/linear_quantized_rows_kernel.cuh"
#include "adder/ops/mamba_step/mamba_step_cuda.h"
#include "adder/ops/selective_scan/selective_scan_cuda.cuh"

namespace adder::cuda {
namespace {

constexpr int kMostWidth = 4;
constexpr int kStates = 16;
constexpr int kScanLanes = 8;  // of a channel
constexpr int kLaneStates = kStates / kScanLanes;

// in_proj's products: of a row that is added to the residual stream and normed; those of the first
// half of W's rows are convolved.
struct EnterBlock {
  static constexpr int kLeastLanes = 1;
  static constexpr bool kStagesRows = true;
  static constexpr int kLanes = 32;

  Rows x, residual, residual_out;
  const float* norm;
  float norm_eps;
  int64_t d_inner;
  int d_conv;
  const float* conv;
  const float* conv_bias;
  float* window;
  DType dtype;

  DType KeptType(const LinearArguments&) const { return dtype; }

  // What may have left the cache since the last step.
  __device__ void Prefetch(const LinearArguments& a) const {
    const int64_t line = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * 32;
    if (line < a.K) cuda::Prefetch(norm + line);
  }

  // Lane 0 convolves.
  template <int kRows>
  struct Row {
    float taps[kMostWidth - 1];
    float weight[kMostWidth];
    float bias;

    __device__ void Fetch(const EnterBlock& block, const LinearArguments&, int64_t n, int lane) {
      if (n >= block.d_inner || lane > 0) return;
#pragma unroll
      for (int k = 0; k < kMostWidth; ++k) {
        if (k < block.d_conv) weight[k] = block.conv[n * block.d_conv + k];
        if (k + 1 < block.d_conv && k + 1 < kMostWidth) {
          taps[k] = block.window[k * block.d_inner + n];
        }
      }
      bias = block.conv_bias != nullptr ? block.conv_bias[n] : 0.0f;
    }
  };

  template <int kThreads, int kRows, class X>
  __device__ void KeepRows(const LinearArguments& a, const X& kept) const {
    static_assert(kRows == 1);
    constexpr int kAtOnce = 2;  // of a thread, all on their way together
    const auto quads = static_cast<int>(a.K / 4);
    const auto units = static_cast<int>(a.K / X::kUnit);
    const auto thread = static_cast<int>(threadIdx.x);
    const int warp = thread & ~31;  // its first
    const auto weights_of = [&](int unit, float(&weights)[X::kUnit]) {
#pragma unroll
      for (int j = 0; j < X::kUnit; j += 4) {
        float four[4] = {};
        if (unit < units) Load<4>(norm + unit * X::kUnit + j, four);
#pragma unroll
        for (int c = 0; c < 4; ++c) weights[j + c] = four[c];
      }
    };
    float squares = 0;
    float weights[kAtOnce][X::kUnit];
    for (int i = thread; i < quads; i += kAtOnce * kThreads) {
      RawRow<4> some[kAtOnce];
      float more[kAtOnce][4] = {};
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const int at = i + j * kThreads;
        if (at >= quads) continue;
        some[j] = FetchRow<4>(x, 0, 4 * at);
        if (residual.data != nullptr) {
          Load<4>(static_cast<const float*>(residual.data) + 4 * at, more[j]);
        }
      }
      if (i == thread) {
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) weights_of(thread + j * kThreads, weights[j]);
      }
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const int at = i + j * kThreads;
        if (at >= quads) continue;
        float sum[4];
        ConvertRow<4>(some[j], x.dtype, sum);
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          sum[c] += more[j][c];
          squares = fmaf(sum[c], sum[c], squares);
        }
        kept.Stage(0, at) = {sum[0], sum[1], sum[2], sum[3]};
        if (blockIdx.x == 0) StoreRow<4>(sum, residual_out, 0, 4 * at);
      }
    }
    squares = BlockSum<kThreads>(squares);  // and all is staged
    float inverse = 1.0f / sqrtf(squares / static_cast<float>(a.K) + norm_eps);
    if (SquaresOutOfRange(squares, a.K, norm_eps)) {
      double exact = 0;
      for (int i = thread; i < quads; i += kThreads) {
        const float4 four = kept.Stage(0, i);
        for (const float value : {four.x, four.y, four.z, four.w}) {
          exact += static_cast<double>(value) * value;
        }
      }
      inverse = static_cast<float>(
          1.0 / sqrt(BlockSum<kThreads>(exact) / static_cast<double>(a.K) + norm_eps));
    }
    const auto keep = [&](int unit, const float(&weight)[X::kUnit]) {
      float values[X::kUnit] = {};
      if (unit < units) {
#pragma unroll
        for (int j = 0; j < X::kUnit; j += 4) {
          const float4 four = kept.Stage(0, (unit * X::kUnit + j) / 4);
          values[j] = Rounded(four.x * inverse * weight[j], dtype);
          values[j + 1] = Rounded(four.y * inverse * weight[j + 1], dtype);
          values[j + 2] = Rounded(four.z * inverse * weight[j + 2], dtype);
          values[j + 3] = Rounded(four.w * inverse * weight[j + 3], dtype);
        }
      }
      kept.Keep(0, unit, values);
    };
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      if (warp + j * kThreads < units) keep(thread + j * kThreads, weights[j]);
    }
    for (int i = kAtOnce * kThreads; warp + i < units; i += kThreads) {
      float weight[X::kUnit];
      weights_of(thread + i, weight);
      keep(thread + i, weight);
    }
  }

  template <int kRows>
  __device__ void Finish(const LinearArguments& a, const Row<kRows>& own,
                         const float (&sums)[kRows], int64_t n, int lane) const {
    if (lane > 0 || n >= a.N) return;
    float value = Rounded(sums[0], dtype);
    if (n < d_inner) {
      float* to = window + n;
      float sum = own.bias;
#pragma unroll
      for (int k = 0; k + 1 < kMostWidth; ++k) {
        if (k + 1 < d_conv) sum = fmaf(own.weight[k], own.taps[k], sum);
      }
      sum = fmaf(Pick(own.weight, d_conv - 1), value, sum);
#pragma unroll
      for (int k = 0; k + 2 < kMostWidth; ++k) {
        if (k + 2 < d_conv) to[k * d_inner] = own.taps[k + 1];
      }
      to[(d_conv - 2) * d_inner] = value;
      value = sum * Sigmoid(sum);
    }
    StoreOne(value, a.y.data, n, a.y.dtype);
  }
};

// dt_proj's products: each goes through its channel's recurrence at once.
struct StepScan {
  static constexpr int kLeastLanes = kScanLanes;
  static constexpr bool kStagesRows = false;
  static constexpr int kLanes = kScanLanes;

  Rows v, z, B, C;
  const float* A;
  const float* D;
  const float* dt_bias;
  float* h;
  DType dtype;

  DType KeptType(const LinearArguments& a) const { return a.x.dtype; }
  __device__ void Prefetch(const LinearArguments&) const {}

  // A lane has kLaneStates states of the channel.
  template <int kRows>
  struct Row {
    float rate[kLaneStates], h[kLaneStates];
    RawRow<kLaneStates> B, C;
    RawRow<1> v, z;
    float bias, skip;

    __device__ void Fetch(const StepScan& scan, const LinearArguments&, int64_t n, int lane) {
      const int64_t state = n * kStates + lane * kLaneStates;
      Load<kLaneStates>(scan.A + state, rate);
      Load<kLaneStates>(scan.h + state, h);
      B = FetchRow<kLaneStates>(scan.B, 0, lane * kLaneStates);
      C = FetchRow<kLaneStates>(scan.C, 0, lane * kLaneStates);
      v = FetchRow<1>(scan.v, 0, n);
      z = FetchRow<1>(scan.z, 0, n);
      bias = scan.dt_bias[n];
      skip = scan.D[n];
    }
  };

  template <int kThreads, int kRows, class X>
  __device__ void KeepRows(const LinearArguments& a, const X& kept) const {
    cuda::KeepRows<kThreads, kRows>(a.x, a.rows, a.K, kept);
  }

  template <int kRows>
  __device__ void Finish(const LinearArguments& a, const Row<kRows>& own,
                         const float (&sums)[kRows], int64_t n, int lane) const {
    static_assert(kRows == 1);
    float v[1], z[1], B[kLaneStates], C[kLaneStates];
    ConvertRow<1>(own.v, dtype, v);
    ConvertRow<1>(own.z, dtype, z);
    ConvertRow<kLaneStates>(own.B, dtype, B);
    ConvertRow<kLaneStates>(own.C, dtype, C);
    const float t = Softplus(Rounded(sums[0], dtype) + own.bias);
    const float input = t * v[0];
    float state[kLaneStates];
    float sum = 0;
#pragma unroll
    for (int k = 0; k < kLaneStates; ++k) {
      state[k] = fmaf(Exp2(t * RealRate(own.rate[k])), own.h[k], input * B[k]);
      sum = fmaf(C[k], state[k], sum);
    }
#pragma unroll
    for (int distance = kScanLanes / 2; distance > 0; distance /= 2) {
      sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    }
    if (n >= a.N) return;
    Store<kLaneStates>(state, h + n * kStates + lane * kLaneStates);
    const float y = fmaf(own.skip, v[0], sum) * (z[0] * Sigmoid(z[0]));
    if (lane == 0) StoreOne(y, a.y.data, n, a.y.dtype);
  }
};

template <class Ends>
void Product(Context& context, const LinearArguments& a, const Ends& ends) {
  if (IsQuantized(a.W.dtype)) {
    VisitBlock(a.W.dtype,
               [&](auto block) { quantized_rows::Launch<decltype(block), 1>(context, a, ends); });
  } else {
    VisitActivation(a.W.dtype, [&](auto type) {
      few_rows::Launch<decltype(type), 1, Ends::kLanes>(context, a, ends);
    });
  }
}

void Product(Context& context, const LinearArguments& a) {
  IsQuantized(a.W.dtype) ? LinearQuantizedRows(context, a) : LinearFewRows(context, a);
}

LinearArguments ProductOf(const MambaStepArguments& a, const MambaStepProjection& projection,
                          const Rows& x, const Rows& y) {
  return {.device = a.device,
          .rows = 1,
          .N = projection.N,
          .K = projection.K,
          .x = x,
          .W = projection.W,
          .W_row_bytes = projection.W_row_bytes,
          .bias = projection.bias,
          .y = y};
}

bool Takes(const Context& context, const LinearArguments& a) {
  return TakesFewRows(a) || TakesQuantizedRows(context, a);
}

// A matrix's columns from one on.
Rows From(const Rows& rows, int64_t column) {
  const int64_t size = rows.dtype == DType::kF32 ? 4 : 2;
  return {static_cast<std::byte*>(rows.data) + column * size, rows.stride, rows.dtype};
}

}  // namespace

bool MambaStep(const MambaStepArguments& a) {
  if (a.d_state != kStates || a.d_conv < 2 || a.d_conv > kMostWidth || a.dt_rank % 4 != 0) {
    return false;
  }
  const ProfilerRange range("mamba_step");
  Context& context = ContextOf(a.device);
  const int64_t size = a.dtype == DType::kF32 ? 4 : 2;
  const int64_t selected = (a.dt_rank + 2 * kStates + 7) / 8 * 8;  // aligned
  const Scratch scratch(context, (3 * a.d_inner + selected) * size);
  auto* const memory = scratch.data<std::byte>();
  const Rows vz = {memory, 2 * a.d_inner, a.dtype};
  const Rows y = {memory + 2 * a.d_inner * size, a.d_inner, a.dtype};
  const Rows selection = {memory + 3 * a.d_inner * size, selected, a.dtype};

  LinearArguments in = ProductOf(a, a.in_proj, a.x, vz);
  LinearArguments select = ProductOf(a, a.x_proj, vz, selection);
  LinearArguments dt = ProductOf(a, a.dt_proj, selection, y);
  LinearArguments out = ProductOf(a, a.out_proj, y, a.y);
  // dt_proj's rows are taken by eight lanes each.
  const bool in_fits = IsQuantized(in.W.dtype)
                           ? quantized_rows::Fits<EnterBlock>(context, a.dtype, in.K)
                           : in.K * 4 <= few_rows::kMostShared;
  const bool dt_fits = IsQuantized(dt.W.dtype)
                           ? dt.K <= kScanLanes * quantized_rows::kBlock
                           : dt.K * (dt.W.dtype == DType::kF32 ? 4 : 2) <= few_rows::kShortRow;
  for (const LinearArguments& product : {in, select, dt, out}) {
    if (!Takes(context, product)) return false;
  }
  if (!in_fits || !dt_fits || !FourAtATime({a.x, a.residual, a.residual_out})) return false;

  Product(context, in,
          EnterBlock{.x = a.x,
                     .residual = a.residual,
                     .residual_out = a.residual_out,
                     .norm = a.norm,
                     .norm_eps = a.norm_eps,
                     .d_inner = a.d_inner,
                     .d_conv = a.d_conv,
                     .conv = a.conv,
                     .conv_bias = a.conv_bias,
                     .window = a.window,
                     .dtype = a.dtype});
  Product(context, select);
  Product(context, dt,
          StepScan{.v = vz,
                   .z = From(vz, a.d_inner),
                   .B = From(selection, a.dt_rank),
                   .C = From(selection, a.dt_rank + kStates),
                   .A = a.A,
                   .D = a.D,
                   .dt_bias = a.dt_bias,
                   .h = a.h,
                   .dtype = a.dtype});
  Product(context, out);
  return true;
}

}  // namespace adder::cuda
