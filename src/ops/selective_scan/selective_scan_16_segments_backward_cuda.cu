// selective_scan on CUDA, backward, for up to 16 real states, where sequences are cut into segments
// that are done at the same time: what each segment makes of a gradient of zero after its last row,
// and its Σ dt', from which the gradients follow that the segments begin with. A thread owns a
// channel.
#include "adder/ops/selective_scan/selective_scan_16_cuda.cuh"

namespace adder::cuda {
namespace {

constexpr int kPassChannels = 128;
constexpr int kPassRows = 16;
constexpr int kPassTogether = 4;

struct Pass {
  SelectiveScanBackwardArguments b;
  const Segment* segments;
  int64_t blocks_per_group;
  float* added;  // [segments, D, N]
  float* time;   // [segments, D]
  int dt_unit, z_unit, dy_unit;
  bool C_in_fours;
};

template <class T>
struct PassTiles {
  T dt[2][kPassRows][kPassChannels];
  T z[2][kPassRows][kPassChannels];
  T dy[2][kPassRows][kPassChannels];
  float C[2][kPassRows][kSixteen];
};

template <class T>
__global__ void __launch_bounds__(kPassChannels, 3)
    GradientPassKernel(const __grid_constant__ Pass p) {
  extern __shared__ __align__(16) char shared[];
  auto& tiles = *reinterpret_cast<PassTiles<T>*>(shared);
  const SelectiveScanArguments& a = p.b.forward;
  const Place place = PlaceOf<kPassChannels>(a, p.segments, p.blocks_per_group);
  const Segment& segment = place.segment;
  if (segment.first) return;  // no segment ends with its gradient
  const int c = static_cast<int>(threadIdx.x);
  const bool owns = c < place.count;
  const int64_t channel = place.channel0 + c;
  const auto states = static_cast<int>(a.states);
  const bool gated = a.z.data != nullptr;
  float rate[kSixteen], G[kSixteen] = {};
#pragma unroll
  for (int n = 0; n < kSixteen; ++n) {
    rate[n] = owns && n < states ? RealRate(a.A[channel * states + n]) : 0.0f;
  }
  const float bias = owns && a.dt_bias != nullptr ? a.dt_bias[channel] : 0.0f;
  const float* interval = a.interval == nullptr ? nullptr : a.interval + segment.row;
  float time = 0;

  const auto rows_at = [&](int64_t tile) {
    return static_cast<int>(min(int64_t{kPassRows}, segment.rows - tile * kPassRows));
  };
  const auto copy = [&](int64_t tile, int stage) {
    const int64_t row = segment.row + tile * kPassRows;
    const auto activation = [&](const Rows& from, T(&to)[kPassRows][kPassChannels], int unit) {
      CopyTile<kPassChannels>(to,
                              static_cast<const T*>(from.data) + row * from.stride + place.channel0,
                              from.stride, rows_at(tile), place.count, unit);
    };
    activation(a.dt, tiles.dt[stage], p.dt_unit);
    activation(p.b.dy, tiles.dy[stage], p.dy_unit);
    if (gated) activation(a.z, tiles.z[stage], p.z_unit);
  };
  // A quad of C for half of the threads.
  const int quad_row = c / (kSixteen / 4);
  const int quad = c % (kSixteen / 4) * 4;
  const auto fetch = [&](int64_t tile) {
    return FetchFour(a.C, segment.row + tile * kPassRows + quad_row, place.group * states, quad,
                     quad_row < rows_at(tile) ? states : 0, p.C_in_fours);
  };
  const auto put = [&](uint4 bits, int stage) {
    if (quad_row >= kPassRows) return;
    *reinterpret_cast<float4*>(&tiles.C[stage][quad_row][quad]) = ConvertFour(bits, a.C.dtype);
  };
  // Rows (row - kCount, row] of a tile, from the last on.
  const auto retreat = [&](auto count, int64_t tile, int stage, int row) {
    constexpr int kCount = decltype(count)::value;
    float t[kCount], g[kCount];
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      t[j] = Softplus(ToFloat(tiles.dt[stage][row - j][c]) + bias);
      g[j] = ToFloat(tiles.dy[stage][row - j][c]);
    }
    if (interval != nullptr) {
#pragma unroll
      for (int j = 0; j < kCount; ++j) t[j] *= interval[tile * kPassRows + row - j];
    }
    if (gated) {
#pragma unroll
      for (int j = 0; j < kCount; ++j) {
        const float z = ToFloat(tiles.z[stage][row - j][c]);
        g[j] *= z * Sigmoid(z);
      }
    }
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const auto* C = reinterpret_cast<const float4*>(tiles.C[stage][row - j]);
#pragma unroll
      for (int q = 0; q < kSixteen / 4; ++q) {
        const float4 C4 = C[q];
        const float Cs[4] = {C4.x, C4.y, C4.z, C4.w};
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          float& gradient = G[q * 4 + k];
          gradient = fmaf(Cs[k], g[j], gradient) * Exp2(t[j] * rate[q * 4 + k]);
        }
      }
      time += t[j];
    }
  };

  const int64_t count = (segment.rows + kPassRows - 1) / kPassRows;
  if (count > 0) {
    copy(count - 1, 0);
    put(fetch(count - 1), 0);
  }
  CommitCopies();
  for (int64_t i = 0; i < count; ++i) {
    const int64_t tile = count - 1 - i;
    const int stage = static_cast<int>(i & 1);
    WaitForCopies<0>();
    __syncthreads();  // the tile is there, and nobody reads the one before any more
    uint4 bits = {};
    if (tile > 0) {
      copy(tile - 1, stage ^ 1);
      bits = fetch(tile - 1);
    }
    CommitCopies();
    int row = rows_at(tile) - 1;
#pragma unroll 1
    for (; row + 1 >= kPassTogether; row -= kPassTogether) {
      retreat(std::integral_constant<int, kPassTogether>(), tile, stage, row);
    }
#pragma unroll 1
    for (; row >= 0; --row) retreat(std::integral_constant<int, 1>(), tile, stage, row);
    if (tile > 0) put(bits, stage ^ 1);
  }
  if (!owns) return;
#pragma unroll
  for (int n = 0; n < kSixteen; ++n) {
    if (n < states) p.added[(place.index * a.channels + channel) * states + n] = G[n];
  }
  p.time[place.index * a.channels + channel] = time;
}

template <class T>
void Launch(Context& context, const SelectiveScanBackwardArguments& b, const SegmentPlan& cut,
            const Segment* segments, float* gradients) {
  const SelectiveScanArguments& a = b.forward;
  const int64_t group_channels = a.channels / a.groups;
  const auto count = static_cast<int64_t>(cut.segments.size());
  const Scratch time(context, count * a.channels * 4);
  // Blocks begin at multiples of kPassChannels.
  const int64_t step = a.groups > 1 ? group_channels : kPassChannels;
  Pass pass = {};
  pass.b = b;
  pass.segments = segments;
  pass.blocks_per_group = (group_channels + kPassChannels - 1) / kPassChannels;
  pass.added = gradients;
  pass.time = time.data<float>();
  pass.dt_unit = UnitOf(a.dt, step);
  pass.z_unit = UnitOf(a.z, step);
  pass.dy_unit = UnitOf(b.dy, step);
  pass.C_in_fours = InFours(a.C, a);
  const auto kernel = GradientPassKernel<T>;
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             sizeof(PassTiles<T>)),
        "selective_scan backward's shared memory");
  kernel<<<static_cast<unsigned>(count * a.groups * pass.blocks_per_group), kPassChannels,
           sizeof(PassTiles<T>), context.stream()>>>(pass);
  CheckLaunch("selective_scan backward's segments");
  CombineGradients(context, b, cut, pass.time, gradients);
}

}  // namespace

void FindSegmentGradients(Context& context, const SelectiveScanBackwardArguments& b,
                          const SegmentPlan& cut, const Segment* segments, float* gradients) {
  VisitActivation(b.forward.x.dtype,
                  [&](auto type) { Launch<decltype(type)>(context, b, cut, segments, gradients); });
}

}  // namespace adder::cuda
