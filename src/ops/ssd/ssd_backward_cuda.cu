// ssd on CUDA, backward: what surrounds the kernels of ssd_backward_*.cu.
#include "adder/backend/cuda/column_sums.cuh"
#include "adder/backend/cuda/row_access.cuh"
#include "adder/ops/ssd/ssd_backward_cuda.cuh"

namespace adder::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBlockHeads = 16;

struct FinishArguments {
  SsdArguments a;
  Rows ddt;
  const SsdChunk* chunks;
  const SsdStep* steps;
  const SsdRowGradient* rows;
  float* dA;          // [chunks, H], or null
  float* d_dt_bias;   // the same
  float* d_interval;  // [blocks of heads, rows], or null
};

// The gradients of what dt' is made of. A block takes a chunk and kBlockHeads heads, a warp a
// head's rows, two a lane.
__global__ void __launch_bounds__(kThreads)
    FinishKernel(const __grid_constant__ FinishArguments f) {
  __shared__ float ddt[kSsdRows][kBlockHeads + 1];
  __shared__ float d_interval[kSsdRows][kBlockHeads + 1];
  const SsdArguments& a = f.a;
  const SsdChunk chunk = f.chunks[blockIdx.x];
  const int64_t head0 = static_cast<int64_t>(blockIdx.y) * kBlockHeads;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int k = static_cast<int>(threadIdx.x) / 32; k < kBlockHeads; k += kThreads / 32) {
    const int64_t head = head0 + k;
    if (head >= a.heads) {
      for (int i = 0; i < 2; ++i) d_interval[2 * lane + i][k] = 0;
      continue;
    }
    const int64_t at = (blockIdx.x * a.heads + head) * kSsdRows + 2 * lane;
    const SsdRowGradient row[2] = {f.rows[at], f.rows[at + 1]};
    // Of the lanes from this one on, and of those up to it.
    double arriving = static_cast<double>(row[0].arriving) + row[1].arriving;
    double leaving = static_cast<double>(row[0].leaving) + row[1].leaving;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const double after = __shfl_down_sync(0xffffffffu, arriving, distance);
      const double before = __shfl_up_sync(0xffffffffu, leaving, distance);
      if (lane + distance < 32) arriving += after;
      if (lane >= distance) leaving += before;
    }
    const double A = a.A[head];
    double dA = 0;
    double d_bias = 0;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int t = 2 * lane + i;
      // The sums are those of both rows of the lane.
      const double increment = arriving - (i == 1 ? row[0].arriving : 0.0f) + leaving -
                               row[1].leaving - (i == 0 ? row[0].leaving : 0.0f) + row[i].own;
      const float step = f.steps[at + i].step;
      float ddt_value = 0;
      float interval_value = 0;
      if (t < chunk.rows) {
        const int64_t r = chunk.row + t;
        const double total = increment * A + row[i].step;
        const float bias = a.dt_bias == nullptr ? 0.0f : a.dt_bias[head];
        const float raw = LoadOne(a.dt.data, r * a.dt.stride + head, a.dt.dtype) + bias;
        const float interval = a.interval == nullptr ? 1.0f : a.interval[r];
        const float softplus = Softplus(raw);
        const bool outside = softplus < a.dt_min || softplus > a.dt_max;
        const float limited = softplus < a.dt_min   ? a.dt_min
                              : softplus > a.dt_max ? a.dt_max
                                                    : softplus;
        ddt_value = outside ? 0.0f : static_cast<float>(total * (Sigmoid(raw) * interval));
        interval_value = static_cast<float>(total * limited);
        dA += increment * step;
        d_bias += ddt_value;
      }
      ddt[t][k] = ddt_value;
      d_interval[t][k] = interval_value;
    }
    dA = WarpSum(dA);
    d_bias = WarpSum(d_bias);
    if (lane == 0) {
      const int64_t to = blockIdx.x * a.heads + head;
      if (f.dA != nullptr) f.dA[to] = static_cast<float>(dA);
      if (f.d_dt_bias != nullptr) f.d_dt_bias[to] = static_cast<float>(d_bias);
    }
  }
  __syncthreads();
  if (f.ddt.data != nullptr) {
    for (int i = static_cast<int>(threadIdx.x); i < kSsdRows * kBlockHeads; i += kThreads) {
      const int t = i / kBlockHeads;
      const int k = i % kBlockHeads;
      if (t >= chunk.rows || head0 + k >= a.heads) continue;
      StoreOne(ddt[t][k], f.ddt.data, (chunk.row + t) * f.ddt.stride + head0 + k, f.ddt.dtype);
    }
  }
  const int t = static_cast<int>(threadIdx.x);
  if (f.d_interval != nullptr && t < chunk.rows) {
    float sum = 0;
    for (int k = 0; k < kBlockHeads; ++k) sum += d_interval[t][k];
    f.d_interval[blockIdx.y * a.rows + chunk.row + t] = sum;
  }
}

// to[row, column] = Σ_part partial[part, row, column]
__global__ void AddPartsKernel(const float* partial, int64_t parts, int64_t rows, int64_t columns,
                               Rows to) {
  const int64_t all = rows * columns;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < all;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    float sum = 0;
#pragma unroll 4
    for (int64_t part = 0; part < parts; ++part) sum += partial[part * all + i];
    StoreOne(sum, to.data, i / columns * to.stride + i % columns, to.dtype);
  }
}

void AddParts(Context& context, const float* partial, int64_t parts, int64_t rows, int64_t columns,
              const Rows& to) {
  if (to.data == nullptr || rows * columns == 0) return;
  const int64_t blocks = std::min<int64_t>((rows * columns + kThreads - 1) / kThreads, 1 << 20);
  AddPartsKernel<<<static_cast<unsigned>(blocks), kThreads, 0, context.stream()>>>(
      partial, parts, rows, columns, to);
  CheckLaunch("ssd backward's sums");
}

// Into how many parts a group's heads are cut so that blocks, of which the device takes one a
// multiprocessor at a time, end together, and each does enough to be worth its sums.
int64_t Splits(const Context& context, int64_t blocks, int64_t heads) {
  constexpr int64_t kMostSplits = 16;
  constexpr int64_t kOverhead = 2;  // of a block, in heads
  int64_t best = 1;
  int64_t best_cost = 0;
  for (int64_t splits = 1; splits <= std::min(kMostSplits, heads); ++splits) {
    const int64_t waves =
        (blocks * splits + context.multiprocessors() - 1) / context.multiprocessors();
    const int64_t cost = waves * ((heads + splits - 1) / splits + kOverhead);
    if (splits == 1 || cost < best_cost) {
      best = splits;
      best_cost = cost;
    }
  }
  return best;
}

}  // namespace

void SsdBackward(const SsdBackwardArguments& b) {
  const SsdArguments& a = b.forward;
  if (a.sequences == 0 || a.heads == 0) return;
  CheckSsdStates(a);
  const ProfilerRange range("ssd backward");
  Context& context = ContextOf(a.device);
  const bool plain = a.x.dtype == DType::kF32;
  const SsdPlan plan =
      PlanSsd(context, a, true, plain ? plain::SsdWalkBlocks(a) : tensor::SsdWalkBlocks(a),
              plain ? plain::SsdWalksResident(context, a) : tensor::SsdWalksResident(context, a),
              !plain, nullptr);
  const int64_t chunks = plan.chunk_count;
  const int64_t chunk_heads = chunks * a.heads;

  const Scratch steps(context, chunk_heads * kSsdRows * static_cast<int64_t>(sizeof(SsdStep)));
  const Scratch states(context, chunks * a.state_size() * (plain ? 4 : 2));
  RunSsdSteps(context, a, plan, steps.data<SsdStep>());
  RunSsdWalk(context, a, plan,
             {.segments = plan.segments,
              .pieces = nullptr,
              .first_pieces = nullptr,
              .handed = nullptr,
              .ready = nullptr,
              .heads = a.heads,
              .head_dim = a.head_dim,
              .groups = a.groups,
              .states = a.states,
              .reverse = true,
              .values = b.dy,
              .projection = a.C,
              .readout = {},
              .y = {},
              .D = nullptr,
              .steps = steps.data<SsdStep>(),
              .products = nullptr,
              .first = b.dhT,
              .first_of_segments = false,
              .last = b.dh0,
              .last_of_segments = false,
              .totals = nullptr,
              .chunk_states = plain ? states.data<float>() : nullptr,
              .activation_states = plain ? nullptr : states.data<void>()},
             false);
  if (chunks == 0) return;

  const Scratch products(context, chunks * a.groups * kSsdProducts * 4);
  if (plain) {
    plain::LaunchSsdProducts(context, a, plan, products.data<float>());
  } else {
    tensor::LaunchSsdProducts(context, a, plan, products.data<float>());
  }
  const int64_t splits = Splits(context, chunks * a.groups, a.heads / a.groups);
  const int64_t columns = a.groups * a.states;
  const int64_t projection_bytes = splits * a.rows * columns * 4;
  const Scratch rows(context,
                     chunk_heads * kSsdRows * static_cast<int64_t>(sizeof(SsdRowGradient)));
  const Scratch dD(context, chunk_heads * 4);
  const Scratch dB(context, projection_bytes);
  const Scratch dC(context, projection_bytes);
  const SsdBackwardWork work = {.b = b,
                                .chunks = plan.chunks,
                                .steps = steps.data<SsdStep>(),
                                .products = products.data<float>(),
                                .state_gradients = states.data<void>(),
                                .rows = rows.data<SsdRowGradient>(),
                                .dD = dD.data<float>(),
                                .splits = splits,
                                .dB = dB.data<float>(),
                                .dC = dC.data<float>()};
  if (plain) {
    plain::LaunchSsdBackward(context, work, chunks);
  } else {
    tensor::LaunchSsdBackward(context, work, chunks);
  }
  AddParts(context, work.dB, splits, a.rows, columns, b.dB);
  AddParts(context, work.dC, splits, a.rows, columns, b.dC);

  const int64_t head_blocks = (a.heads + kBlockHeads - 1) / kBlockHeads;
  const Scratch dA(context, b.dA == nullptr ? 0 : chunk_heads * 4);
  const Scratch d_dt_bias(context, b.d_dt_bias == nullptr ? 0 : chunk_heads * 4);
  const Scratch d_interval(context, b.d_interval == nullptr ? 0 : head_blocks * a.rows * 4);
  const FinishArguments finish = {
      .a = a,
      .ddt = b.ddt,
      .chunks = plan.chunks,
      .steps = steps.data<SsdStep>(),
      .rows = rows.data<SsdRowGradient>(),
      .dA = b.dA == nullptr ? nullptr : dA.data<float>(),
      .d_dt_bias = b.d_dt_bias == nullptr ? nullptr : d_dt_bias.data<float>(),
      .d_interval = b.d_interval == nullptr ? nullptr : d_interval.data<float>()};
  FinishKernel<<<dim3(static_cast<unsigned>(chunks), static_cast<unsigned>(head_blocks)), kThreads,
                 0, context.stream()>>>(finish);
  CheckLaunch("ssd backward's steps");
  if (b.dA != nullptr) AddColumnSums(context, finish.dA, chunks, a.heads, a.heads, b.dA);
  if (b.dD != nullptr) AddColumnSums(context, work.dD, chunks, a.heads, a.heads, b.dD);
  if (b.d_dt_bias != nullptr) {
    AddColumnSums(context, finish.d_dt_bias, chunks, a.heads, a.heads, b.d_dt_bias);
  }
  if (b.d_interval != nullptr) {
    AddParts(context, finish.d_interval, head_blocks, a.rows, 1, {b.d_interval, 1, DType::kF32});
  }
}

}  // namespace adder::cuda
