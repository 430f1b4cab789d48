// selective_scan on CUDA: from what each segment of a sequence adds to a state of zero, the states
// that the segments begin with; and the same of gradients, from the last segment to the first.
#include "adder/ops/selective_scan/selective_scan_cuda.cuh"

namespace adder::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kAhead = 16;  // segments whose loads are under way at a time

struct Plan {
  SelectiveScanArguments a;
  const int64_t* first_segments;  // of each sequence, and the number of all
  const float* begin;             // [sequences, D, components], or null: 0
  const float* time;              // [segments, D]: Σ dt'
  float* states;                  // [segments, D, components]
};

// h = exp(A · Σ dt') · h + what the segment adds (backward: conj of the factor), each h in place of
// what the segment adds. What the last of them adds is not read: no segment begins with it. A
// thread for each state of a channel; blockIdx.y: the sequence.
template <bool kComplex, bool kBackward>
__global__ void __launch_bounds__(kThreads) CombineKernel(const __grid_constant__ Plan p) {
  constexpr int kNumbers = kComplex ? 2 : 1;
  const SelectiveScanArguments& a = p.a;
  const int64_t all = a.channels * a.states;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= all) return;
  const int64_t channel = i / a.states;
  const int64_t sequence = blockIdx.y;
  const float rate[2] = {RealRate(a.A[i * kNumbers]),
                         kComplex ? ImaginaryRate(a.A[i * kNumbers + kNumbers - 1]) : 0.0f};
  float h[kNumbers];
#pragma unroll
  for (int k = 0; k < kNumbers; ++k) {
    h[k] = p.begin == nullptr ? 0.0f : p.begin[(sequence * all + i) * kNumbers + k];
  }
  const int64_t first = p.first_segments[sequence];
  const int64_t count = p.first_segments[sequence + 1] - first;
  const auto segment = [&](int64_t step) { return first + (kBackward ? count - 1 - step : step); };
  for (int64_t done = 0; done < count; done += kAhead) {
    float time[kAhead] = {}, added[kAhead][kNumbers] = {};
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (done + j + 1 >= count) continue;
      const int64_t s = segment(done + j);
      time[j] = p.time[s * a.channels + channel];
#pragma unroll
      for (int k = 0; k < kNumbers; ++k) added[j][k] = p.states[(s * all + i) * kNumbers + k];
    }
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (done + j >= count) continue;
      const int64_t s = segment(done + j);
      const Decay<kComplex> decay(time[j], rate);
#pragma unroll
      for (int k = 0; k < kNumbers; ++k) p.states[(s * all + i) * kNumbers + k] = h[k];
      if constexpr (kComplex) {
        const float im = kBackward ? -decay.im : decay.im;
        const float re = fmaf(decay.re, h[0], -im * h[1]) + added[j][0];
        h[1] = fmaf(decay.re, h[1], im * h[0]) + added[j][1];
        h[0] = re;
      } else {
        h[0] = fmaf(decay.re, h[0], added[j][0]);
      }
    }
  }
}

template <bool kBackward>
void Combine(Context& context, const SelectiveScanArguments& a, const SegmentPlan& cut,
             const float* begin, const float* time, float* states) {
  const Plan plan = {.a = a,
                     .first_segments = TableOf(context, cut.first_segments),
                     .begin = begin,
                     .time = time,
                     .states = states};
  const dim3 grid(static_cast<unsigned>((a.channels * a.states + kThreads - 1) / kThreads),
                  static_cast<unsigned>(a.sequences));
  if (a.is_complex) {
    CombineKernel<true, kBackward><<<grid, kThreads, 0, context.stream()>>>(plan);
  } else {
    CombineKernel<false, kBackward><<<grid, kThreads, 0, context.stream()>>>(plan);
  }
  CheckLaunch("selective_scan's segments");
}

}  // namespace

void CombineStates(Context& context, const SelectiveScanArguments& a, const SegmentPlan& cut,
                   const float* time, float* states) {
  Combine<false>(context, a, cut, a.h0, time, states);
}

void CombineGradients(Context& context, const SelectiveScanBackwardArguments& b,
                      const SegmentPlan& cut, const float* time, float* gradients) {
  Combine<true>(context, b.forward, cut, b.dhT, time, gradients);
}

}  // namespace adder::cuda
