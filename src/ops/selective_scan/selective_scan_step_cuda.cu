// selective_scan on CUDA for sequences of one row each, as in generation, and up to 16 real states:
// the recurrence itself. What it costs is reading and writing the states, so four lanes share a
// channel and read four states each, all that a warp wants in one piece, of several sequences at a
// time. Results are, bit for bit, those of the kernel for many rows.
#include "adder/ops/selective_scan/selective_scan_16_cuda.cuh"

namespace adder::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kLanes = kSixteen / 4;  // of a channel
constexpr int kAhead = kLanes;        // sequences at a time: each lane finishes one

struct Plan {
  SelectiveScanArguments a;
  bool B_in_fours, C_in_fours;
};

template <class T>
__global__ void __launch_bounds__(kThreads) StepKernel(const __grid_constant__ Plan p) {
  const SelectiveScanArguments& a = p.a;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int state0 = lane * 4;
  const int64_t channel = index / kLanes;
  const bool owns = channel < a.channels;
  const auto states = static_cast<int>(a.states);
  const int64_t group_column = owns ? channel / (a.channels / a.groups) * states : 0;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kAhead;

  // This lane's states of its channel in [index, D, N].
  const auto load = [&](const float* from, int64_t at, float(&to)[4]) {
    const float* own = from + (at * a.channels + channel) * states + state0;
    if (owns && states == kSixteen) {
      Load<4>(own, to);
      return;
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) to[k] = owns && state0 + k < states ? own[k] : 0.0f;
  };
  float rate[4], h[kAhead][4] = {}, x[kAhead], dt[kAhead], z[kAhead], interval[kAhead];
  uint4 B[kAhead], C[kAhead];
  load(a.A, 0, rate);
#pragma unroll
  for (int j = 0; j < kAhead; ++j) {
    const int64_t row = first + j;
    const bool exists = owns && row < a.sequences;
    if (exists && a.h0 != nullptr) load(a.h0, row, h[j]);
    const auto activation = [&](const Rows& rows) {
      if (!exists || rows.data == nullptr) return 0.0f;
      return ToFloat(static_cast<const T*>(rows.data)[row * rows.stride + channel]);
    };
    x[j] = activation(a.x);
    dt[j] = activation(a.dt);
    z[j] = activation(a.z);
    interval[j] = exists && a.interval != nullptr ? a.interval[row] : 1.0f;
    const int end = exists ? states : 0;
    B[j] = FetchFour(a.B, row, group_column, state0, end, p.B_in_fours);
    C[j] = FetchFour(a.C, row, group_column, state0, end, p.C_in_fours);
  }
  const float bias = owns && a.dt_bias != nullptr ? a.dt_bias[channel] : 0.0f;
  const float skip = owns && a.D != nullptr ? a.D[channel] : 0.0f;

  float y = 0;  // of this lane's sequence
#pragma unroll
  for (int j = 0; j < kAhead; ++j) {
    const int64_t row = first + j;
    const float t = Softplus(dt[j] + bias) * interval[j];
    const float4 B4 = ConvertFour(B[j], a.B.dtype);
    const float4 C4 = ConvertFour(C[j], a.C.dtype);
    const float Bs[4] = {B4.x, B4.y, B4.z, B4.w};
    const float Cs[4] = {C4.x, C4.y, C4.z, C4.w};
    float sum = 0;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      h[j][k] = fmaf(Exp2(t * RealRate(rate[k])), h[j][k], t * x[j] * Bs[k]);
      sum = fmaf(Cs[k], h[j][k], sum);
    }
#pragma unroll
    for (int distance = 1; distance < kLanes; distance *= 2) {
      sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    }
    if (lane == j) {
      y = fmaf(skip, x[j], sum);
      if (a.z.data != nullptr) y *= z[j] * Sigmoid(z[j]);
    }
    if (a.hT == nullptr || !owns || row >= a.sequences) continue;
    float* own = a.hT + (row * a.channels + channel) * states + state0;
    if (states == kSixteen) {
      Store<4>(h[j], own);
    } else {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (state0 + k < states) own[k] = h[j][k];
      }
    }
  }
  if (owns && first + lane < a.sequences) {
    static_cast<T*>(a.y.data)[(first + lane) * a.y.stride + channel] = FromFloat<T>(y);
  }
}

}  // namespace

bool IsScanStep(const SelectiveScanArguments& a) {
  if (!HasSixteenStates(a) || a.rows != a.sequences || a.chunk_states != nullptr) return false;
  for (int64_t s = 0; s < a.sequences; ++s) {
    if (a.offsets[s] != s) return false;
  }
  return true;
}

void SelectiveScanStep(Context& context, const SelectiveScanArguments& a) {
  const Plan plan = {.a = a, .B_in_fours = InFours(a.B, a), .C_in_fours = InFours(a.C, a)};
  const dim3 grid(static_cast<unsigned>((a.channels * kLanes + kThreads - 1) / kThreads),
                  static_cast<unsigned>((a.sequences + kAhead - 1) / kAhead));
  VisitActivation(a.x.dtype, [&](auto type) {
    StepKernel<decltype(type)><<<grid, kThreads, 0, context.stream()>>>(plan);
  });
  CheckLaunch("selective_scan's step");
}

}  // namespace adder::cuda
