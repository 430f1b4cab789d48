// selective_scan on CUDA for sequences of one row each, as in generation, and 16 real states: the
// recurrence itself. What it costs is reading and writing the states, so four lanes share a channel
// and read four states each, all that a warp wants in one piece, of several sequences at a time and
// without a branch in between. Results are, bit for bit, those of the kernel for many rows.
#include "adder/backend/cuda/launch.cuh"
#include "adder/ops/selective_scan/selective_scan_16_cuda.cuh"

namespace adder::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kLanes = kSixteen / 4;               // of a channel
constexpr int kMany = kLanes;                      // sequences at a time: each lane finishes one
constexpr int64_t kMostSequences = kMany * 65535;  // that a grid's second dimension holds

// kAhead: sequences at a time, 1 or kMany. What lies past the last channel or sequence is computed
// as the last one, and not written.
template <class T, class P, int kAhead>
__global__ void __launch_bounds__(kThreads)
    StepKernel(const __grid_constant__ SelectiveScanArguments a) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const bool owns = index / kLanes < a.channels;
  const int64_t channel = min(index / kLanes, a.channels - 1);
  const int64_t group_column = channel / (a.channels / a.groups) * kSixteen;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kAhead;
  const auto row_of = [&](int j) { return min(first + j, a.sequences - 1); };
  const int64_t state = channel * kSixteen + lane * 4;  // of those of a sequence
  const int64_t all = a.channels * kSixteen;

  LetNextKernelBegin();
  Prefetch(a.A + state);
  if (a.dt_bias != nullptr) Prefetch(a.dt_bias + channel);
  if (a.D != nullptr) Prefetch(a.D + channel);
  if (a.h0 != nullptr) Prefetch(a.h0 + row_of(0) * all + state);
  WaitForKernelsBefore();

  float rate[4], h[kAhead][4] = {}, x[kAhead], dt[kAhead], z[kAhead] = {}, interval[kAhead];
  float B[kAhead][4], C[kAhead][4];
  Load<4>(a.A + state, rate);
  if (a.h0 != nullptr) {
#pragma unroll
    for (int j = 0; j < kAhead; ++j) Load<4>(a.h0 + row_of(j) * all + state, h[j]);
  }
  const auto activation = [&](const Rows& rows, float(&to)[kAhead]) {
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      to[j] = ToFloat(static_cast<const T*>(rows.data)[row_of(j) * rows.stride + channel]);
    }
  };
  const auto projection = [&](const Rows& rows, float(&to)[kAhead][4]) {
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      Load<4>(static_cast<const P*>(rows.data) + row_of(j) * rows.stride + group_column + lane * 4,
              to[j]);
    }
  };
  activation(a.x, x);
  activation(a.dt, dt);
  projection(a.B, B);
  projection(a.C, C);
  if (a.z.data != nullptr) activation(a.z, z);
#pragma unroll
  for (int j = 0; j < kAhead; ++j) interval[j] = 1;
  if (a.interval != nullptr) {
#pragma unroll
    for (int j = 0; j < kAhead; ++j) interval[j] = a.interval[row_of(j)];
  }
  const float bias = a.dt_bias != nullptr ? a.dt_bias[channel] * kLog2E : 0.0f;
  const float skip = a.D != nullptr ? a.D[channel] : 0.0f;

  float sums[kAhead];
#pragma unroll
  for (int j = 0; j < kAhead; ++j) {
    const float t = SoftplusOfTwo(fmaf(dt[j], kLog2E, bias)) * interval[j];
    const float v = t * x[j];
    float sum = 0;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      h[j][k] = fmaf(Exp2(t * rate[k]), h[j][k], v * (kLn2 * B[j][k]));
      sum = fmaf(C[j][k], h[j][k], sum);
    }
    sums[j] = sum;
  }
#pragma unroll
  for (int distance = 1; distance < kLanes; distance *= 2) {
#pragma unroll
    for (int j = 0; j < kAhead; ++j) sums[j] += __shfl_xor_sync(0xffffffffu, sums[j], distance);
  }
  if (a.hT != nullptr) {
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (owns && first + j < a.sequences) Store<4>(h[j], a.hT + (first + j) * all + state);
    }
  }
  // This lane's sequence.
  float y = 0;
#pragma unroll
  for (int j = 0; j < kAhead; ++j) {
    float result = fmaf(skip, x[j], sums[j]);
    if (a.z.data != nullptr) result *= z[j] * Sigmoid(z[j]);
    if (lane == j) y = result;
  }
  if (owns && lane < kAhead && first + lane < a.sequences) {
    static_cast<T*>(a.y.data)[(first + lane) * a.y.stride + channel] = FromFloat<T>(y);
  }
}

template <class T, class P, int kAhead>
void Launch(Context& context, const SelectiveScanArguments& a) {
  const dim3 grid(static_cast<unsigned>((a.channels * kLanes + kThreads - 1) / kThreads),
                  static_cast<unsigned>((a.sequences + kAhead - 1) / kAhead));
  LaunchOverlapped(context, {.name = "selective_scan's step", .grid = grid, .block = kThreads},
                   StepKernel<T, P, kAhead>, a);
}

}  // namespace

bool IsScanStep(const SelectiveScanArguments& a) {
  if (a.is_complex || a.states != kSixteen || a.chunk_states != nullptr) return false;
  if (a.rows != a.sequences || !InFours(a.B, a) || !InFours(a.C, a)) return false;
  if (a.sequences > kMostSequences) return false;
  for (int64_t s = 0; s < a.sequences; ++s) {
    if (a.offsets[s] != s) return false;
  }
  return true;
}

void SelectiveScanStep(Context& context, const SelectiveScanArguments& a) {
  VisitActivation(a.x.dtype, [&](auto activation) {
    VisitActivation(a.B.dtype, [&](auto projection) {
      using T = decltype(activation);
      using P = decltype(projection);
      if (a.sequences < kMany) {
        Launch<T, P, 1>(context, a);
      } else {
        Launch<T, P, kMany>(context, a);
      }
    });
  });
}

}  // namespace adder::cuda
