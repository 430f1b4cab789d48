// rotary on CUDA: a block takes a row; a thread takes pairs of it, forms the angle once, in double,
// and turns the pair in every head.
#include <algorithm>

#include "adder/backend/cuda/launch.cuh"
#include "adder/backend/cuda/row_access.cuh"
#include "adder/ops/rotary/rotary_cuda.h"

namespace adder::cuda {
namespace {

constexpr int kMostThreads = 256;
constexpr int kAhead = 4;  // heads whose loads are under way at a time

__global__ void __launch_bounds__(kMostThreads)
    RotaryKernel(RotaryArguments a, const double* frequencies) {
  const int64_t row = blockIdx.x;
  LetNextKernelBegin();
  WaitForKernelsBefore();
  const auto position = static_cast<double>(a.positions[row]);
  // Channels that are not turned are copied, each as a pair's first.
  const int64_t copied = a.d_head - 2 * a.pairs;
  for (int64_t i = threadIdx.x; i < a.pairs + copied; i += blockDim.x) {
    const bool turned = i < a.pairs;
    const int64_t first = !turned ? a.pairs + i : a.interleaved ? 2 * i : i;
    const int64_t second = a.interleaved ? first + 1 : first + a.pairs;
    float sine = 0;
    float cosine = 1;
    if (turned) {
      const double quarters = position * frequencies[i];
      double exact_sine, exact_cosine;
      sincospi(0.5 * (quarters - 4.0 * floor(quarters * 0.25)), &exact_sine, &exact_cosine);
      sine = static_cast<float>(exact_sine) * a.direction;
      cosine = static_cast<float>(exact_cosine);
    }
    for (int64_t head = 0; head < a.heads; head += kAhead) {
      float p[kAhead][1], q[kAhead][1];
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        const int64_t channel = (head + j) * a.d_head;
        q[j][0] = 0;
        if (head + j < a.heads) LoadRow<1>(a.x, row, channel + first, p[j]);
        if (head + j < a.heads && turned) LoadRow<1>(a.x, row, channel + second, q[j]);
      }
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        if (head + j >= a.heads) break;
        const int64_t channel = (head + j) * a.d_head;
        const float one[1] = {turned ? p[j][0] * cosine - q[j][0] * sine : p[j][0]};
        const float two[1] = {p[j][0] * sine + q[j][0] * cosine};
        StoreRow<1>(one, a.y, row, channel + first);
        if (turned) StoreRow<1>(two, a.y, row, channel + second);
      }
    }
  }
}

}  // namespace

void Rotary(const RotaryArguments& a) {
  if (a.rows == 0 || a.heads == 0) return;
  const ProfilerRange range("rotary");
  Context& context = ContextOf(a.device);
  const double* frequencies =
      a.pairs == 0 ? nullptr
                   : static_cast<const double*>(context.Table(a.frequencies, a.pairs * 8));
  const int64_t lanes = (a.d_head - a.pairs + 31) / 32 * 32;
  const auto threads = static_cast<unsigned>(std::min<int64_t>(lanes, kMostThreads));
  LaunchOverlapped(context,
                   {.name = "rotary", .grid = static_cast<unsigned>(a.rows), .block = threads},
                   RotaryKernel, a, frequencies);
}

}  // namespace adder::cuda
