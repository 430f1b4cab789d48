// ssd on CUDA: the walks for f32. A block takes kChannels channels of a head; a thread keeps eight
// channels of some states, which lie in shared memory as well while they are read out.
#include "adder/ops/ssd/ssd_plain.cuh"

namespace adder::cuda::plain {
namespace {

constexpr int kChannels = 32;
constexpr int kEach = 8;  // of a thread
constexpr int kWeightsPitch = kSsdRows + 1;

constexpr int SharedFloats(int width) {
  // A tile of B or C, one of x, the states, the weights.
  return kSsdRows * (width + 1) + kSsdRows * kChannels + width * kChannels +
         kSsdRows * kWeightsPitch + 3;
}

// kOwn: states of a thread, every 64th.
template <int kOwn>
__global__ void __launch_bounds__(kThreads)
    WalkKernel(const __grid_constant__ SsdWalk w, bool output) {
  constexpr int kWidth = 64 * kOwn;
  constexpr int kTilePitch = kWidth + 1;
  extern __shared__ __align__(16) float shared_floats[];
  float* x = shared_floats;
  float* states = x + kSsdRows * kChannels;  // [kWidth][kChannels]
  float* tile = states + kWidth * kChannels;
  float* weights = tile + kSsdRows * kTilePitch;
  __shared__ SsdStep steps[kSsdRows];
  const int tid = static_cast<int>(threadIdx.x);

  const auto P = static_cast<int>(w.head_dim);
  const auto N = static_cast<int>(w.states);
  const int64_t head_blocks = (w.head_dim + kChannels - 1) / kChannels;
  const int64_t segment_index = blockIdx.x / (w.heads * head_blocks);
  const int64_t head = blockIdx.x / head_blocks % w.heads;
  const auto channel = static_cast<int>(blockIdx.x % head_blocks) * kChannels;
  const int64_t group = head / (w.heads / w.groups);
  const int count = min(kChannels, P - channel);
  const SsdSegment segment = w.segments[segment_index];
  const int64_t state_size = w.head_dim * w.states;
  const int64_t state_offset = head * state_size + static_cast<int64_t>(channel) * N;

  const int own_channel = tid % 4 * kEach;
  const int own_row = tid / 4;  // and its first state
  float h[kOwn][kEach] = {};
  const auto for_each_state = [&](const auto& visit) {
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      const int n = own_row + 64 * k;
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        if (n < N && own_channel + i < count) visit((own_channel + i) * N + n, h[k][i]);
      }
    }
  };
  if (w.first != nullptr && (w.first_of_segments || w.Begins(segment))) {
    const int64_t index = w.first_of_segments ? segment_index : segment.sequence;
    const float* from = w.first + index * w.heads * state_size + state_offset;
    for_each_state([&](int offset, float& value) { value = from[offset]; });
  }
  const auto fill_tile = [&](const Rows& from, int64_t row, int rows) {
    const float* data = static_cast<const float*>(from.data) + row * from.stride + group * N;
    for (int i = tid; i < kSsdRows * kWidth; i += kThreads) {
      const int r = i / kWidth;
      const int n = i % kWidth;
      tile[r * kTilePitch + n] = r < rows && n < N ? data[r * from.stride + n] : 0.0f;
    }
  };

  const auto chunks = static_cast<int>((segment.rows + kSsdRows - 1) / kSsdRows);
  float total = 0;
  for (int i = 0; i < chunks; ++i) {
    const int c = w.reverse ? chunks - 1 - i : i;
    const int64_t row = segment.row + static_cast<int64_t>(c) * kSsdRows;
    const auto rows =
        static_cast<int>(min(segment.row + segment.rows - row, static_cast<int64_t>(kSsdRows)));
    const int64_t chunk = segment.chunk + c;
    if (w.chunk_states != nullptr) {
      float* to = w.chunk_states + chunk * w.heads * state_size + state_offset;
      for_each_state([&](int offset, float value) { to[offset] = value; });
    }
    __syncthreads();  // what the chunk before left in shared memory has been read
    if (tid < kSsdRows) steps[tid] = w.steps[(chunk * w.heads + head) * kSsdRows + tid];
    const float* values = static_cast<const float*>(w.values.data) + row * w.values.stride +
                          head * w.head_dim + channel;
    for (int k = tid; k < kSsdRows * kChannels; k += kThreads) {
      const int r = k / kChannels;
      const int p = k % kChannels;
      x[k] = r < rows && p < count ? values[r * w.values.stride + p] : 0.0f;
    }
    if (output) {
      fill_tile(w.readout, row, rows);
#pragma unroll
      for (int k = 0; k < kOwn; ++k) {
        float* to = states + (own_row + 64 * k) * kChannels + own_channel;
#pragma unroll
        for (int e = 0; e < kEach; ++e) to[e] = h[k][e];
      }
      __syncthreads();
      const float* products = w.products + (chunk * w.groups + group) * kSsdProducts;
      for (int k = tid; k < kSsdRows * kSsdRows; k += kThreads) {
        const int t = k / kSsdRows;
        const int s = k % kSsdRows;
        if (s > t) continue;
        weights[t * kWeightsPitch + s] =
            products[ProductIndex(t, s)] * Exp2(SumBetween(steps[t], steps[s])) * steps[s].step;
      }
      __syncthreads();
      float y[kEach] = {};
      const auto add = [&](float factor, const float* from) {
#pragma unroll
        for (int e = 0; e < kEach; ++e) y[e] = fmaf(factor, from[e], y[e]);
      };
      for (int n = 0; n < N; ++n) {
        add(tile[own_row * kTilePitch + n], states + n * kChannels + own_channel);
      }
      const float decay = Exp2(steps[own_row].sum + steps[own_row].rest);
#pragma unroll
      for (int e = 0; e < kEach; ++e) y[e] *= decay;
      for (int s = 0; s <= own_row; ++s) {
        add(weights[own_row * kWeightsPitch + s], x + s * kChannels + own_channel);
      }
      if (w.D != nullptr) add(w.D[head], x + own_row * kChannels + own_channel);
      if (own_row < rows) {
        float* to = static_cast<float*>(w.y.data) + (row + own_row) * w.y.stride +
                    head * w.head_dim + channel + own_channel;
#pragma unroll
        for (int e = 0; e < kEach; ++e) {
          if (own_channel + e < count) to[e] = y[e];
        }
      }
    }
    __syncthreads();
    fill_tile(w.projection, row, rows);
    for (int k = tid; k < kSsdRows * kChannels; k += kThreads) {
      const SsdStep step = steps[k / kChannels];
      x[k] *= w.reverse ? Exp2(step.sum + step.rest) : step.weight;
    }
    __syncthreads();
    const float sum = steps[kSsdRows - 1].sum + steps[kSsdRows - 1].rest;
    total += sum;
    const float decay = Exp2(sum);
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
#pragma unroll
      for (int e = 0; e < kEach; ++e) h[k][e] *= decay;
    }
    for (int s = 0; s < rows; ++s) {
      float each[kEach];
#pragma unroll
      for (int e = 0; e < kEach; ++e) each[e] = x[s * kChannels + own_channel + e];
#pragma unroll
      for (int k = 0; k < kOwn; ++k) {
        const float B = tile[s * kTilePitch + own_row + 64 * k];
#pragma unroll
        for (int e = 0; e < kEach; ++e) h[k][e] = fmaf(B, each[e], h[k][e]);
      }
    }
  }
  if (w.last != nullptr && (w.last_of_segments || w.Ends(segment))) {
    const int64_t index = w.last_of_segments ? segment_index : segment.sequence;
    float* to = w.last + index * w.heads * state_size + state_offset;
    for_each_state([&](int offset, float value) { to[offset] = value; });
  }
  if (w.totals != nullptr && channel == 0 && tid == 0) {
    w.totals[segment_index * w.heads + head] = total;
  }
}

// A block takes a chunk and a group.
__global__ void __launch_bounds__(kThreads)
    ProductsKernel(Rows B, Rows C, int64_t groups, int64_t states, const SsdChunk* chunks,
                   float* products) {
  __shared__ __align__(16) float panels[2][kPanel];
  const int64_t group = blockIdx.x % groups;
  const SsdChunk chunk = chunks[blockIdx.x / groups];
  const float* B_rows = static_cast<const float*>(B.data) + chunk.row * B.stride + group * states;
  const float* C_rows = static_cast<const float*>(C.data) + chunk.row * C.stride + group * states;
  float sums[4][4] = {};
  for (int n = 0; n < states; n += 64) {
    const int columns = min(64, static_cast<int>(states) - n);
    __syncthreads();
    FillPanel(panels[0], C_rows + n, C.stride, chunk.rows, columns, true);
    FillPanel(panels[1], B_rows + n, B.stride, chunk.rows, columns, true);
    __syncthreads();
    MultiplyAdd(panels[0], panels[1], 0, columns, sums);
  }
  float* to = products + blockIdx.x * kSsdProducts;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int t = OwnRow() + i;
      const int s = OwnColumn() + j;
      if (s / 16 <= t / 16) to[ProductIndex(t, s)] = sums[i][j];
    }
  }
}

int64_t Blocks(int64_t heads, int64_t head_dim) {
  return heads * ((head_dim + kChannels - 1) / kChannels);
}

}  // namespace

int64_t SsdWalkBlocks(const SsdArguments& a) { return Blocks(a.heads, a.head_dim); }
int64_t SsdWalksResident(const Context& context, const SsdArguments& a) {
  return context.multiprocessors() * (a.states > 128 ? 1 : 2);
}

void LaunchSsdProducts(Context& context, const SsdArguments& a, const SsdPlan& plan,
                       float* products) {
  ProductsKernel<<<static_cast<unsigned>(plan.chunk_count * a.groups), kThreads, 0,
                   context.stream()>>>(a.B, a.C, a.groups, a.states, plan.chunks, products);
  CheckLaunch("ssd's products");
}

void LaunchSsdWalk(Context& context, const SsdPlan& plan, const SsdWalk& walk, bool output) {
  const auto launch = [&](auto kernel, int width) {
    const int bytes = SharedFloats(width) * 4;
    Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
          "ssd's shared memory");
    kernel<<<static_cast<unsigned>(plan.segment_count * Blocks(walk.heads, walk.head_dim)),
             kThreads, static_cast<size_t>(bytes), context.stream()>>>(walk, output);
    CheckLaunch("ssd's walk");
  };
  if (walk.states <= 64) return launch(WalkKernel<1>, 64);
  if (walk.states <= 128) return launch(WalkKernel<2>, 128);
  launch(WalkKernel<4>, 256);
}

}  // namespace adder::cuda::plain
