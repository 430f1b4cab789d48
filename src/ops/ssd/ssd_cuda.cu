// ssd on CUDA, forward: what surrounds the walks, and the recurrence itself for single rows.
#include <string>

#include "adder/backend/cuda/launch.cuh"
#include "adder/backend/cuda/row_access.cuh"
#include "adder/core/error.h"
#include "adder/ops/ssd/ssd_cuda.cuh"

namespace adder::cuda {
namespace {

constexpr int kThreads = 256;

// softplus(dt + bias), limited, times interval. NaN stays NaN.
__device__ float StepOf(const SsdArguments& a, int64_t row, int64_t head) {
  const float bias = a.dt_bias == nullptr ? 0.0f : a.dt_bias[head];
  const float raw = LoadOne(a.dt.data, row * a.dt.stride + head, a.dt.dtype) + bias;
  const float softplus = Softplus(raw);
  const float limited = softplus < a.dt_min ? a.dt_min : softplus > a.dt_max ? a.dt_max : softplus;
  return a.interval == nullptr ? limited : limited * a.interval[row];
}

// ---- Steps --------------------------------------------------------------------------------------

constexpr int kStepHeads = 16;  // of a block

// A block takes a chunk and kStepHeads heads; a warp scans a head's rows, two a lane. Sums are
// formed in f64: they may be large where their differences are small.
__global__ void __launch_bounds__(kThreads)
    StepsKernel(const __grid_constant__ SsdArguments a, const SsdChunk* chunks, SsdStep* steps) {
  __shared__ float shared[kSsdRows][kStepHeads + 1];
  const SsdChunk chunk = chunks[blockIdx.x];
  const int64_t head0 = static_cast<int64_t>(blockIdx.y) * kStepHeads;
  for (int i = static_cast<int>(threadIdx.x); i < kSsdRows * kStepHeads; i += kThreads) {
    const int row = i / kStepHeads;
    const int64_t head = head0 + i % kStepHeads;
    const bool inside = row < chunk.rows && head < a.heads;
    shared[row][i % kStepHeads] = inside ? StepOf(a, chunk.row + row, head) : 0.0f;
  }
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int k = static_cast<int>(threadIdx.x) / 32; k < kStepHeads; k += kThreads / 32) {
    const int64_t head = head0 + k;
    if (head >= a.heads) break;
    const double rate = static_cast<double>(a.A[head]) * static_cast<double>(kLog2E);
    const float step0 = shared[2 * lane][k];
    const float step1 = shared[2 * lane + 1][k];
    const double first = 2 * lane < chunk.rows ? step0 * rate : 0.0;
    const double second = 2 * lane + 1 < chunk.rows ? step1 * rate : 0.0;
    double sum = first + second;  // becomes that of all lanes up to this one
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const double before = __shfl_up_sync(0xffffffffu, sum, distance);
      if (lane >= distance) sum += before;
    }
    double preceding = __shfl_up_sync(0xffffffffu, sum, 1);
    if (lane == 0) preceding = 0;
    const double last = __shfl_sync(0xffffffffu, sum, 31);
    const double sum0 = preceding + first;
    const double sum1 = sum0 + second;
    SsdStep* to = steps + (blockIdx.x * a.heads + head) * kSsdRows + 2 * lane;
    const auto store = [&](SsdStep* step, double total, float value) {
      const auto leading = static_cast<float>(total);
      *step = {leading, static_cast<float>(total - static_cast<double>(leading)), value,
               value * Exp2(static_cast<float>(last - total))};
    };
    store(to, sum0, step0);
    store(to + 1, sum1, step1);
  }
}

// ---- Segments -----------------------------------------------------------------------------------

// The state before each segment (in reverse: its gradient after it), in place of what the segment
// adds to it. A thread for each number of a state; blocks of a sequence follow each other.
__global__ void CombineKernel(int64_t heads, int64_t head_size, bool reverse, int64_t blocks,
                              const int64_t* first_segments, const float* totals,
                              const float* initial, float* states) {
  constexpr int kAhead = 8;  // segments whose loads are under way at a time
  const int64_t all = heads * head_size;
  const int64_t sequence = blockIdx.x / blocks;
  const int64_t i = (blockIdx.x % blocks) * blockDim.x + threadIdx.x;
  if (i >= all) return;
  const int64_t head = i / head_size;
  float h = initial == nullptr ? 0.0f : initial[sequence * all + i];
  const int64_t begin = first_segments[sequence];
  const int64_t count = first_segments[sequence + 1] - begin;
  const auto segment_at = [&](int64_t k) { return begin + (reverse ? count - 1 - k : k); };
  for (int64_t k = 0; k < count; k += kAhead) {
    float total[kAhead], added[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (k + j >= count) continue;
      total[j] = totals[segment_at(k + j) * heads + head];
      added[j] = states[segment_at(k + j) * all + i];
    }
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (k + j >= count) continue;
      states[segment_at(k + j) * all + i] = h;
      h = fmaf(Exp2(total[j]), h, added[j]);
    }
  }
}

// ---- Single rows --------------------------------------------------------------------------------

struct Single {
  int64_t row;
  int64_t sequence;
};

constexpr int kAheadChannels = 4;  // whose states are under way at a time

// A row's recurrence. A block takes a row and a head, `lanes` neighbouring threads a channel,
// kCount times kVector states each.
template <int kVector, int kCount>
__global__ void __launch_bounds__(kThreads)
    SingleRowsKernel(const __grid_constant__ SsdArguments a, const Single* singles, int lanes) {
  LetNextKernelBegin();
  WaitForKernelsBefore();
  const Single single = singles[blockIdx.x / a.heads];
  const int64_t head = blockIdx.x % a.heads;
  const auto N = static_cast<int>(a.states);
  const auto P = static_cast<int>(a.head_dim);
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  const int channels = kThreads / lanes;  // at a time
  const int64_t column = head / (a.heads / a.groups) * a.states;
  const float step = StepOf(a, single.row, head);
  const float decay = Exp2(step * a.A[head] * kLog2E);
  const float skip = a.D == nullptr ? 0.0f : a.D[head];
  float B[kCount][kVector] = {};
  float C[kCount][kVector] = {};
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    const int n = (k * lanes + lane) * kVector;
    if (n >= N) continue;
    LoadRow<kVector>(a.B, single.row, column + n, B[k]);
    LoadRow<kVector>(a.C, single.row, column + n, C[k]);
  }
  const int64_t offset = (single.sequence * a.heads + head) * a.head_dim * a.states;
  for (int p0 = static_cast<int>(threadIdx.x) / lanes;
       p0 - static_cast<int>(threadIdx.x) / lanes < P; p0 += kAheadChannels * channels) {
    float h[kAheadChannels][kCount][kVector] = {};
    float x[kAheadChannels];
#pragma unroll
    for (int j = 0; j < kAheadChannels; ++j) {
      const int p = p0 + j * channels;
      x[j] = p < P ? LoadOne(a.x.data, single.row * a.x.stride + head * P + p, a.x.dtype) : 0.0f;
#pragma unroll
      for (int k = 0; k < kCount; ++k) {
        const int n = (k * lanes + lane) * kVector;
        if (p >= P || n >= N || a.h0 == nullptr) continue;
        Load<kVector>(a.h0 + offset + static_cast<int64_t>(p) * N + n, h[j][k]);
      }
    }
#pragma unroll
    for (int j = 0; j < kAheadChannels; ++j) {
      const int p = p0 + j * channels;
      const float weighted = step * x[j];
      float y = 0;
#pragma unroll
      for (int k = 0; k < kCount; ++k) {
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
          // Not decay · 0 where there is no state: a decay may be infinite.
          const float added = weighted * B[k][i];
          h[j][k][i] = a.h0 == nullptr ? added : fmaf(decay, h[j][k][i], added);
          y = fmaf(h[j][k][i], C[k][i], y);
        }
        const int n = (k * lanes + lane) * kVector;
        if (p >= P || n >= N || a.hT == nullptr) continue;
        Store<kVector>(h[j][k], a.hT + offset + static_cast<int64_t>(p) * N + n);
      }
      for (int distance = lanes / 2; distance > 0; distance /= 2) {
        y += __shfl_xor_sync(0xffffffffu, y, distance);
      }
      if (lane != 0 || p >= P) continue;
      StoreOne(fmaf(skip, x[j], y), a.y.data, single.row * a.y.stride + head * P + p, a.y.dtype);
    }
  }
}

void RunSingleRows(Context& context, const SsdArguments& a, const std::vector<int64_t>& sequences) {
  std::vector<Single> singles;
  for (const int64_t s : sequences) singles.push_back({a.offsets[s], s});
  const int64_t size = a.x.dtype == DType::kF32 ? 4 : 2;
  const bool four = a.states % 4 == 0 && AlignedTo(16, a.h0, 0, 4) && AlignedTo(16, a.hT, 0, 4) &&
                    AlignedTo(4 * size, a.B.data, a.B.stride, size) &&
                    AlignedTo(4 * size, a.C.data, a.C.stride, size);
  const int64_t vectors = four ? a.states / 4 : a.states;
  int lanes = 1;
  while (lanes < 32 && lanes < vectors) lanes *= 2;
  const Single* table = SsdTable(context, singles);
  const auto blocks = static_cast<unsigned>(static_cast<int64_t>(singles.size()) * a.heads);
  const auto launch = [&](auto kernel) {
    LaunchOverlapped(context, {.name = "ssd's single rows", .grid = blocks, .block = kThreads},
                     kernel, a, table, lanes);
  };
  if (!four) {
    launch(SingleRowsKernel<1, 8>);
  } else if (vectors <= 32) {
    launch(SingleRowsKernel<4, 1>);
  } else {
    launch(SingleRowsKernel<4, 2>);
  }
}

}  // namespace

void CheckSsdStates(const SsdArguments& a) {
  constexpr int64_t kMostStates = 256;
  if (a.states <= kMostStates) return;
  throw Error(ErrorCode::kUnsupported, "ssd: B has " + std::to_string(a.states) +
                                           " states, CUDA takes at most " +
                                           std::to_string(kMostStates));
}

namespace {

int64_t ChunksOf(int64_t rows) { return (rows + kSsdRows - 1) / kSsdRows; }

// Chunks [begin, end) of a segment, in the order that they are walked in.
SsdSegment PartOf(const SsdSegment& segment, bool reverse, int64_t begin, int64_t end) {
  const int64_t chunks = ChunksOf(segment.rows);
  if (reverse) {
    const int64_t first = chunks - end;
    end = chunks - begin;
    begin = first;
  }
  SsdSegment part = segment;
  part.row += begin * kSsdRows;
  part.rows = std::min(segment.rows, end * kSsdRows) - begin * kSsdRows;
  part.chunk += begin;
  if (begin > 0) part.first = 0;
  if (end < chunks) part.last = 0;
  return part;
}

// Shares of the chunks of all walks, laid end to end.
void CutIntoShares(const std::vector<SsdSegment>& segments, bool reverse, int64_t blocks,
                   int64_t chunks, int64_t shares, std::vector<SsdPiece>* pieces,
                   std::vector<int32_t>* first_pieces) {
  const auto share_begin = [&](int64_t share) { return chunks * share / shares; };
  std::vector<SsdPiece> own;  // of the share that is being filled
  int64_t share = 0;
  const auto end_share = [&] {
    first_pieces->push_back(static_cast<int32_t>(pieces->size()));
    // What is handed on goes first, what another share hands on last.
    for (const bool hands_on : {true, false}) {
      for (const bool goes_on : {false, true}) {
        for (const SsdPiece& piece : own) {
          if ((piece.to >= 0) == hands_on && (piece.from >= 0) == goes_on) pieces->push_back(piece);
        }
      }
    }
    own.clear();
    ++share;
  };
  int64_t at = 0;
  for (const SsdSegment& segment : segments) {
    const int64_t length = ChunksOf(segment.rows);
    for (int64_t block = 0; block < blocks; ++block) {
      int64_t done = 0;
      do {
        while (share + 1 < shares && at >= share_begin(share + 1)) end_share();
        const int64_t count = std::min(length - done, share_begin(share + 1) - at);
        own.push_back({.segment = PartOf(segment, reverse, done, done + count),
                       .block = block,
                       .from = done > 0 ? static_cast<int32_t>(share - 1) : -1,
                       .to = done + count < length ? static_cast<int32_t>(share) : -1});
        done += count;
        at += count;
      } while (done < length);
    }
  }
  while (share < shares) end_share();
  first_pieces->push_back(static_cast<int32_t>(pieces->size()));
}

}  // namespace

SsdPlan PlanSsd(Context& context, const SsdArguments& a, bool reverse, int64_t blocks,
                int64_t resident, bool shares, std::vector<int64_t>* singles) {
  const auto is_single = [&](int64_t s) {
    return singles != nullptr && a.offsets[s + 1] - a.offsets[s] == 1;
  };
  std::vector<SsdChunk> chunks;
  int64_t walked = 0;
  int64_t longest = 1;
  for (int64_t s = 0; s < a.sequences; ++s) {
    const int64_t end = a.offsets[s + 1];
    for (int64_t row = a.offsets[s]; row < end; row += kSsdRows) {
      chunks.push_back({row, static_cast<int32_t>(std::min<int64_t>(kSsdRows, end - row)),
                        static_cast<int32_t>(s)});
    }
    if (is_single(s)) {
      singles->push_back(s);
      continue;
    }
    walked += ChunksOf(end - a.offsets[s]);
    longest = std::max(longest, ChunksOf(end - a.offsets[s]));
  }
  SsdPlan plan = {};
  plan.blocks = blocks;
  // A block's share of the chunks. Two passes cost some one and a half times one; they pay where
  // one would keep some blocks busy for longer than that.
  const int64_t share = std::max<int64_t>(1, (walked * blocks + resident - 1) / resident);
  plan.one_pass = longest <= 2 * share;
  const int64_t most = (plan.one_pass ? longest : share) * kSsdRows;

  std::vector<SsdSegment> segments;
  std::vector<int64_t> first_segments;
  int64_t chunk = 0;
  for (int64_t s = 0; s < a.sequences; ++s) {
    first_segments.push_back(static_cast<int64_t>(segments.size()));
    const int64_t end = a.offsets[s + 1];
    int64_t row = a.offsets[s];
    if (is_single(s)) {
      ++chunk;
      continue;
    }
    do {  // at least one: an empty sequence passes its state on
      SsdSegment& segment = segments.emplace_back();
      segment.row = row;
      segment.rows = std::min(most, end - row);
      segment.chunk = chunk;
      segment.sequence = static_cast<int32_t>(s);
      segment.first = row == a.offsets[s] ? 1 : 0;
      row += segment.rows;
      segment.last = row >= end ? 1 : 0;
      chunk += ChunksOf(segment.rows);
    } while (row < end);
  }
  first_segments.push_back(static_cast<int64_t>(segments.size()));
  plan.chunk_count = static_cast<int64_t>(chunks.size());
  plan.segment_count = static_cast<int64_t>(segments.size());
  if (plan.segment_count == 0) return plan;
  if (plan.chunk_count > 0) plan.chunks = SsdTable(context, chunks);
  plan.segments = SsdTable(context, segments);
  if (!plan.one_pass) plan.first_segments = SsdTable(context, first_segments);
  // Shares pay where the last blocks would leave the device idle; a walk is cut once at most.
  const int64_t walks = plan.segment_count * blocks;
  if (shares && plan.one_pass && walks > resident && walks < 8 * resident &&
      walked * blocks >= resident * longest) {
    std::vector<SsdPiece> pieces;
    std::vector<int32_t> first_pieces;
    CutIntoShares(segments, reverse, blocks, walked * blocks, resident, &pieces, &first_pieces);
    plan.pieces = SsdTable(context, pieces);
    plan.first_pieces = SsdTable(context, first_pieces);
    plan.shares = resident;
  }
  return plan;
}

void RunSsdSteps(Context& context, const SsdArguments& a, const SsdPlan& plan, SsdStep* steps) {
  if (plan.chunk_count == 0) return;
  const dim3 grid(static_cast<unsigned>(plan.chunk_count),
                  static_cast<unsigned>((a.heads + kStepHeads - 1) / kStepHeads));
  StepsKernel<<<grid, kThreads, 0, context.stream()>>>(a, plan.chunks, steps);
  CheckLaunch("ssd's steps");
}

void RunSsdWalk(Context& context, const SsdArguments& a, const SsdPlan& plan, const SsdWalk& walk,
                bool output) {
  const auto launch = [&](const SsdWalk& w, bool with_output) {
    if (w.values.dtype == DType::kF32) {
      plain::LaunchSsdWalk(context, plan, w, with_output);
    } else {
      tensor::LaunchSsdWalk(context, plan, w, with_output);
    }
  };
  if (plan.one_pass) return launch(walk, output);
  const Scratch states(context, plan.segment_count * a.state_size() * 4);
  const Scratch totals(context, plan.segment_count * a.heads * 4);
  SsdWalk adds = walk;
  adds.first = nullptr;
  adds.last = states.data<float>();
  adds.last_of_segments = true;
  adds.totals = totals.data<float>();
  adds.chunk_states = nullptr;
  adds.activation_states = nullptr;
  launch(adds, false);
  const int64_t blocks = (a.state_size() + kThreads - 1) / kThreads;
  CombineKernel<<<static_cast<unsigned>(blocks * a.sequences), kThreads, 0, context.stream()>>>(
      a.heads, a.head_dim * a.states, walk.reverse, blocks, plan.first_segments,
      totals.data<float>(), walk.first, states.data<float>());
  CheckLaunch("ssd's segments");
  SsdWalk second = walk;
  second.first = states.data<float>();
  second.first_of_segments = true;
  launch(second, output);
}

void Ssd(const SsdArguments& a) {
  if (a.sequences == 0 || a.heads == 0) return;
  CheckSsdStates(a);
  const ProfilerRange range("ssd");
  Context& context = ContextOf(a.device);
  const bool plain = a.x.dtype == DType::kF32;
  std::vector<int64_t> singles;
  const SsdPlan plan =
      PlanSsd(context, a, false, plain ? plain::SsdWalkBlocks(a) : tensor::SsdWalkBlocks(a),
              plain ? plain::SsdWalksResident(context, a) : tensor::SsdWalksResident(context, a),
              !plain, a.chunk_states == nullptr ? &singles : nullptr);
  if (!singles.empty()) RunSingleRows(context, a, singles);
  if (plan.segment_count == 0) return;

  const Scratch steps(
      context, plan.chunk_count * a.heads * kSsdRows * static_cast<int64_t>(sizeof(SsdStep)));
  const Scratch products(context, plan.chunk_count * a.groups * kSsdProducts * 4);
  RunSsdSteps(context, a, plan, steps.data<SsdStep>());
  if (plan.chunk_count > 0) {
    if (plain) {
      plain::LaunchSsdProducts(context, a, plan, products.data<float>());
    } else {
      tensor::LaunchSsdProducts(context, a, plan, products.data<float>());
    }
  }
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
              .reverse = false,
              .values = a.x,
              .projection = a.B,
              .readout = a.C,
              .y = a.y,
              .D = a.D,
              .steps = steps.data<SsdStep>(),
              .products = products.data<float>(),
              .first = a.h0,
              .first_of_segments = false,
              .last = a.hT,
              .last_of_segments = false,
              .totals = nullptr,
              .chunk_states = a.chunk_states,
              .activation_states = nullptr},
             true);
}

}  // namespace adder::cuda
