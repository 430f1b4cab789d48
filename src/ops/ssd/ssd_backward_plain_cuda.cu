// ssd on CUDA, backward within chunks for f32: everything as products of 64 x 64 panels.
#include "adder/ops/ssd/ssd_backward_cuda.cuh"
#include "adder/ops/ssd/ssd_plain.cuh"

namespace adder::cuda::plain {
namespace {

// Panels of a block: x and dy by channels, dy by rows, weights, and three that change.
constexpr int kPanels = 7;

// The sum over the 16 threads of a row of a product.
__device__ float RowSum(float value) {
#pragma unroll
  for (int distance = 8; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, distance);
  }
  return value;
}

// kBlocks: of 64 states.
template <int kBlocks>
__global__ void __launch_bounds__(kThreads, 1)
    BackwardKernel(const __grid_constant__ SsdBackwardWork work) {
  extern __shared__ __align__(16) float panels[];
  float* x = panels;                  // [p][s]
  float* dy = panels + kPanel;        // [p][t]
  float* dy_rows = dy + kPanel;       // [t][p]
  float* weights = dy_rows + kPanel;  // [t][s]
  float* reaching = weights + kPanel;
  float* left = reaching + kPanel;
  float* right = left + kPanel;
  __shared__ SsdStep steps[kSsdRows];
  __shared__ float own[kSsdRows], d_step[kSsdRows], leaving[kSsdRows], arriving[kSsdRows];
  __shared__ float state_sums[kThreads / 32], skip_sums[kThreads / 32];

  const SsdArguments& a = work.b.forward;
  const int tid = static_cast<int>(threadIdx.x);
  const auto P = static_cast<int>(a.head_dim);
  const auto N = static_cast<int>(a.states);
  const int64_t split = blockIdx.x % work.splits;
  const int64_t group = blockIdx.x / work.splits % a.groups;
  const int64_t chunk_index = blockIdx.x / (work.splits * a.groups);
  const SsdChunk chunk = work.chunks[chunk_index];
  const int64_t group_heads = a.heads / a.groups;
  const int64_t end_head = group * group_heads + group_heads * (split + 1) / work.splits;
  const float* products = work.products + (chunk_index * a.groups + group) * kSsdProducts;
  const auto rows_of = [&](const Rows& rows) {
    return static_cast<const float*>(rows.data) + chunk.row * rows.stride;
  };
  const float* B = rows_of(a.B) + group * N;
  const float* C = rows_of(a.C) + group * N;

  float dB[kBlocks][4][4] = {};
  float dC[kBlocks][4][4] = {};
  float d_products[4][4] = {};

  for (int64_t head = group * group_heads + group_heads * split / work.splits; head < end_head;
       ++head) {
    const float* state = work.b.chunk_states + (chunk_index * a.heads + head) * P * N;
    const float* gradient =
        static_cast<const float*>(work.state_gradients) + (chunk_index * a.heads + head) * P * N;
    const auto fill_channels = [&](int p) {
      const int64_t column = head * P + p;
      const int count = min(64, P - p);
      FillPanel(x, rows_of(a.x) + column, a.x.stride, chunk.rows, count, true);
      FillPanel(dy, rows_of(work.b.dy) + column, work.b.dy.stride, chunk.rows, count, true);
      FillPanel(dy_rows, rows_of(work.b.dy) + column, work.b.dy.stride, chunk.rows, count, false);
    };
    __syncthreads();  // what the head before left in shared memory has been read
    if (tid < kSsdRows) {
      steps[tid] = work.steps[(chunk_index * a.heads + head) * kSsdRows + tid];
      leaving[tid] = 0;
      arriving[tid] = 0;
    }

    // Within the chunk.
    float dyx[4][4] = {};
    for (int p = 0; p < P; p += 64) {
      if (p > 0) __syncthreads();
      fill_channels(p);
      __syncthreads();
      MultiplyAdd(dy, x, 0, min(64, P - p), dyx);
    }
    float skip = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int t = OwnRow() + i;
        const int s = OwnColumn() + j;
        float weight = 0;
        float reached = 0;
        if (s <= t) {
          const float product = products[ProductIndex(t, s)];
          const float decay = Exp2(SumBetween(steps[t], steps[s]));
          weight = product * decay * steps[s].step;
          reached = product * decay * dyx[i][j];
          d_products[i][j] = fmaf(decay * dyx[i][j], steps[s].step, d_products[i][j]);
        }
        if (s == t) skip += dyx[i][j];
        weights[t * kPitch + s] = weight;
        reaching[t * kPitch + s] = reached;
      }
    }
    skip = WarpSum(skip);
    if (tid % 32 == 0) skip_sums[tid / 32] = skip;
    __syncthreads();
    if (tid < kSsdRows) {  // what reaches rows t and later from row s, in place
      float sum = 0;
      for (int t = kSsdRows - 1; t >= tid; --t) {
        sum += reaching[t * kPitch + tid];
        reaching[t * kPitch + tid] = sum * steps[tid].step;
      }
      d_step[tid] = sum;
    }
    __syncthreads();
    if (tid < kSsdRows) {
      float sum = 0;
      for (int s = 0; s < tid; ++s) sum += reaching[tid * kPitch + s];
      own[tid] = sum;
    }

    // Through the states.
    float states = 0;
    for (int p = 0; p < P; p += 64) {
      const int channels = min(64, P - p);
      if (P > 64) {
        __syncthreads();
        fill_channels(p);
      }
      float dx[4][4] = {};
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
        const int n = 64 * block;
        const int count = min(64, N - n);
        if (count <= 0) continue;
        __syncthreads();
        FillPanel(left, B + n, a.B.stride, chunk.rows, count, true);
        FillPanel(right, gradient + p * N + n, N, channels, count, true);
        __syncthreads();
        MultiplyAdd(left, right, 0, count, dx);
        __syncthreads();
        FillPanel(left, gradient + p * N + n, N, channels, count, false);
        FillPanel(right, state + p * N + n, N, channels, count, false);
        __syncthreads();
        float term[4][4] = {};
        MultiplyAdd(x, left, 0, channels, term);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float weight = steps[OwnRow() + i].weight;
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            dB[block][i][j] = fmaf(term[i][j], weight, dB[block][i][j]);
            term[i][j] = 0;
          }
        }
        MultiplyAdd(dy, right, 0, channels, term);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int t = OwnRow() + i;
          const float decay = Exp2(steps[t].sum + steps[t].rest);
          float dot = 0;
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            const int column = OwnColumn() + j;
            if (t < chunk.rows && column < count) {
              dot = fmaf(term[i][j], C[t * a.C.stride + n + column], dot);
            }
            dC[block][i][j] = fmaf(term[i][j], decay, dC[block][i][j]);
          }
          dot = RowSum(dot);
          if (tid % 16 == 0) arriving[t] = fmaf(dot, decay, arriving[t]);
        }
        for (int i = tid; i < 64 * 64; i += kThreads) {
          const int at = i / 64 * kPitch + i % 64;
          states = fmaf(left[at], right[at], states);
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int s = OwnRow() + i;
        float dot = 0;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          dot = fmaf(dx[i][j], x[(OwnColumn() + j) * kPitch + s], dot);
          dx[i][j] *= steps[s].weight;
        }
        dot = RowSum(dot);
        if (tid % 16 == 0) leaving[s] += dot;
      }
      MultiplyAdd(weights, dy_rows, OwnRow(), kSsdRows, dx);
      if (work.b.dx.data != nullptr) {
        const float factor = a.D == nullptr ? 0.0f : a.D[head];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int s = OwnRow() + i;
          if (s >= chunk.rows) continue;
          float* to = static_cast<float*>(work.b.dx.data) + (chunk.row + s) * work.b.dx.stride +
                      head * P + p;
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            const int column = OwnColumn() + j;
            if (column < channels) {
              to[column] = fmaf(factor, dy_rows[s * kPitch + column], dx[i][j]);
            }
          }
        }
      }
    }
    states = WarpSum(states);
    if (tid % 32 == 0) state_sums[tid / 32] = states;
    __syncthreads();
    if (tid < kSsdRows) {
      const SsdStep last = steps[kSsdRows - 1];
      const float to_state = leaving[tid] * Exp2(SumBetween(last, steps[tid]));
      float arrives = arriving[tid];
      if (tid == kSsdRows - 1) {
        float sum = 0;
        for (int i = 0; i < kThreads / 32; ++i) sum += state_sums[i];
        arrives += sum * Exp2(last.sum + last.rest);
      }
      work.rows[(chunk_index * a.heads + head) * kSsdRows + tid] = {
          arrives, to_state * steps[tid].step, own[tid], d_step[tid] + to_state};
      if (tid == 0) {
        float sum = 0;
        for (int i = 0; i < kThreads / 32; ++i) sum += skip_sums[i];
        work.dD[chunk_index * a.heads + head] = sum;
      }
    }
  }

  // The heads together: through C·B.
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int t = OwnRow() + i;
      const int s = OwnColumn() + j;
      weights[t * kPitch + s] = d_products[i][j];
      reaching[s * kPitch + t] = d_products[i][j];
    }
  }
  const int64_t width = a.groups * a.states;
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
    const int n = 64 * block;
    const int count = min(64, N - n);
    if (count <= 0) continue;
    __syncthreads();
    FillPanel(left, B + n, a.B.stride, chunk.rows, count, false);
    FillPanel(right, C + n, a.C.stride, chunk.rows, count, false);
    __syncthreads();
    MultiplyAdd(weights, right, OwnRow(), kSsdRows, dB[block]);
    MultiplyAdd(reaching, left, 0, OwnRow() + 4, dC[block]);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int t = OwnRow() + i;
      if (t >= chunk.rows) continue;
      const int64_t to = (split * a.rows + chunk.row + t) * width + group * N + n;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int column = OwnColumn() + j;
        if (column >= count) continue;
        work.dB[to + column] = dB[block][i][j];
        work.dC[to + column] = dC[block][i][j];
      }
    }
  }
}

}  // namespace

void LaunchSsdBackward(Context& context, const SsdBackwardWork& work, int64_t chunks) {
  const SsdArguments& a = work.b.forward;
  const auto launch = [&](auto kernel) {
    constexpr int kShared = kPanels * kPanel * 4;
    Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared),
          "ssd backward's shared memory");
    kernel<<<static_cast<unsigned>(chunks * a.groups * work.splits), kThreads, kShared,
             context.stream()>>>(work);
    CheckLaunch("ssd backward");
  };
  if (a.states <= 64) return launch(BackwardKernel<1>);
  if (a.states <= 128) return launch(BackwardKernel<2>);
  launch(BackwardKernel<4>);
}

}  // namespace adder::cuda::plain
