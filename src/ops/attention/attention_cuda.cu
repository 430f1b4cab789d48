// attention on CUDA: how the work is cut into tiles, which kernels take them, and the two small
// kernels around those: spans' results put together, and Σ dy · y for the backward.
#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "adder/backend/cuda/launch.cuh"
#include "adder/core/error.h"
#include "adder/ops/attention/attention_cuda.cuh"

namespace adder::cuda {
namespace {

// Sequences of at most so many queries a key head are cut into spans of keys, and those whose
// lengths only the device knows: by what they have room for, some spans having no keys.
constexpr int64_t kFewQueries = 64;
constexpr int64_t kLeastSpan = 256;  // keys
constexpr int64_t kSpanStep = 64;    // a span is a multiple of it, and takes as long to begin

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool SixteenBits(DType dtype) { return dtype == DType::kBF16 || dtype == DType::kF16; }

// Whether the tensor cores' kernels do: one dtype of 16 bits, and a scale that leaves the order of
// the scores as it is.
bool OnTensorCores(const AttentionProblem& p) {
  return SixteenBits(p.q.dtype) && p.keys.dtype == p.q.dtype && p.scale > 0;
}

AttentionKernelArguments Describe(const AttentionBackwardProblem& p) {
  const AttentionProblem& f = p.forward;
  AttentionKernelArguments a = {};
  a.p = p;
  a.group = static_cast<int>(f.heads / f.kv_heads);
  a.scale = f.scale * kLog2E;
  const auto aligned = [&](int64_t bytes, const Rows& rows) {
    const int64_t size = rows.dtype == DType::kF32 ? 4 : 2;
    return AlignedTo(bytes, rows.data, rows.stride, size) && f.d_head * size % bytes == 0;
  };
  a.vectors = aligned(16, f.q) && aligned(16, f.keys) && aligned(16, f.values) && aligned(16, p.dy);
  a.pairs = aligned(4, f.y) && aligned(4, p.dq) && aligned(4, p.dkeys) && aligned(4, p.dvalues);
  return a;
}

void CheckSizes(const AttentionProblem& p) {
  for (int64_t s = 0; s < p.count; ++s) {
    if (p.sequences[s].keys > std::numeric_limits<int32_t>::max() - 1024) {
      throw Error(ErrorCode::kUnsupported, "attention: a sequence has " +
                                               std::to_string(p.sequences[s].keys) +
                                               " keys, at most 2147482623 are possible on CUDA");
    }
  }
}

template <class Each>
const Each* OnDevice(Context& context, const std::vector<Each>& table) {
  if (table.empty()) return nullptr;
  return static_cast<const Each*>(
      context.Table(table.data(), static_cast<int64_t>(table.size() * sizeof(Each))));
}

// The keys that the sequence's first row sees.
int64_t Visible(const AttentionSequence& sequence) { return sequence.keys - sequence.rows + 1; }

// The sequences, those with most to do first: tiles keep to this order, so that blocks which run at
// the same time read the same keys, and the last ones are short.
std::vector<AttentionSequence> LongestFirst(const AttentionProblem& p) {
  std::vector<AttentionSequence> sequences(p.sequences, p.sequences + p.count);
  const auto cost = [](const AttentionSequence& s) {
    return static_cast<double>(s.rows) * static_cast<double>(s.keys);
  };
  std::stable_sort(sequences.begin(), sequences.end(),
                   [&](const auto& a, const auto& b) { return cost(a) > cost(b); });
  return sequences;
}

// Tiles of `size` queries of sequence `s`, each with all keys that it sees, from the last on.
void AppendQueryTiles(const AttentionSequence& s, int64_t group, int64_t size,
                      std::vector<AttentionQueryTile>* tiles) {
  const int64_t queries = s.rows * group;
  for (int64_t i = CeilDiv(queries, size) - 1; i >= 0; --i) {
    const int64_t first = i * size;
    const int64_t last_row = (std::min(first + size, queries) - 1) / group;
    tiles->push_back({s.row, queries, first, s.key, Visible(s), 0, Visible(s) + last_row, -1});
  }
}

// Where all blocks run at once, two a multiprocessor, the second ones join the first ones in order:
// the shortest then join the longest.
void PairLongWithShort(const Context& context, int64_t kv_heads,
                       std::vector<AttentionQueryTile>* tiles) {
  const auto count = static_cast<int64_t>(tiles->size());
  const int64_t first = CeilDiv(context.multiprocessors(), kv_heads);
  if (first >= count || count * kv_heads > int64_t{2} * context.multiprocessors()) return;
  std::stable_sort(tiles->begin(), tiles->end(),
                   [](const auto& a, const auto& b) { return a.end > b.end; });
  std::reverse(tiles->begin() + first, tiles->end());
}

struct ForwardPlan {
  std::vector<AttentionQueryTile> tiles;
  std::vector<AttentionQueryTile> spans;
  std::vector<AttentionSpans> combined;
  int64_t partials = 0;
};

// Blocks of the spans' kernel that a multiprocessor of an H100 runs at a time: a matter of the
// shared memory that heads of that length take.
int64_t SpanBlocks(int64_t d_head) { return d_head <= 64 ? 4 : d_head <= 128 ? 3 : 1; }

// The keys of a span: the tiles' longest in equal parts, as many as let the blocks, which all run
// for about one span, end at the same time.
int64_t SpanOf(const std::vector<AttentionQueryTile>& tiles, int64_t kv_heads,
               int64_t blocks_at_a_time) {
  constexpr int64_t kMostRounds = 12;  // after which it is no matter
  int64_t longest = 1;
  for (const AttentionQueryTile& tile : tiles) longest = std::max(longest, tile.end);
  int64_t best = longest;
  int64_t best_time = std::numeric_limits<int64_t>::max();
  for (int64_t parts = 1;; parts += std::max<int64_t>(1, parts / 32)) {
    const int64_t span = CeilDiv(CeilDiv(longest, parts), kSpanStep) * kSpanStep;
    if (parts > 1 && span < kLeastSpan) return best;
    int64_t blocks = 0;
    for (const AttentionQueryTile& tile : tiles) blocks += CeilDiv(tile.end, span) * kv_heads;
    const int64_t rounds = CeilDiv(blocks, blocks_at_a_time);
    const int64_t time = rounds * (span + kSpanStep);
    if (time < best_time) {
      best = span;
      best_time = time;
    }
    if (rounds > kMostRounds) return best;
  }
}

ForwardPlan PlanForward(const Context& context, const AttentionProblem& p, int64_t group,
                        int64_t tile_queries) {
  ForwardPlan plan;
  std::vector<AttentionQueryTile> few;
  for (const AttentionSequence& s : LongestFirst(p)) {
    if (s.rows * group <= kFewQueries || p.lengths != nullptr) {
      AppendQueryTiles(s, group, kAttentionSpanQueries, &few);
    } else {
      AppendQueryTiles(s, group, tile_queries, &plan.tiles);
    }
  }
  PairLongWithShort(context, p.kv_heads, &plan.tiles);
  const int64_t span = SpanOf(few, p.kv_heads, SpanBlocks(p.d_head) * context.multiprocessors());
  for (const AttentionQueryTile& tile : few) {
    const int64_t count = CeilDiv(tile.end, span);
    if (count == 1) {
      plan.spans.push_back(tile);
      continue;
    }
    plan.combined.push_back({tile.row, tile.queries, tile.first, plan.partials, count});
    for (int64_t i = 0; i < count; ++i) {
      AttentionQueryTile part = tile;
      part.begin = i * span;
      part.end = std::min(tile.end, (i + 1) * span);
      part.partial = plan.partials++;
      plan.spans.push_back(part);
    }
  }
  // Parts of a span come last.
  std::stable_sort(plan.spans.begin(), plan.spans.end(),
                   [](const auto& a, const auto& b) { return a.end - a.begin > b.end - b.begin; });
  return plan;
}

// ---- Small kernels ------------------------------------------------------------------------------

constexpr int kCombineThreads = 128;

// A block a tile, key head (x) and query (y): y = Σ over spans of their weighted values / Σ of
// sums.
__global__ void __launch_bounds__(kCombineThreads)
    CombineSpansKernel(AttentionKernelArguments a, const AttentionSpans* all) {
  const AttentionProblem& p = a.p.forward;
  const auto kv_heads = static_cast<unsigned>(p.kv_heads);
  LetNextKernelBegin();
  WaitForKernelsBefore();
  const AttentionSpans spans = all[blockIdx.x / kv_heads];
  const int kv_head = static_cast<int>(blockIdx.x % kv_heads);
  const int i = static_cast<int>(blockIdx.y);
  if (spans.first + i >= spans.queries) return;
  const QueryPlace place(a, spans.row, spans.first, kv_head);
  const int64_t part_size = 2 + p.d_head;
  const int64_t to_next = p.kv_heads * kAttentionSpanQueries * part_size;
  const float* parts =
      a.partials + ((spans.partial * p.kv_heads + kv_head) * kAttentionSpanQueries + i) * part_size;
  float most = kMinusInfinity;
#pragma unroll 8
  for (int64_t s = 0; s < spans.spans; ++s) most = fmaxf(most, parts[s * to_next]);
  // All of it is -infinity only where the scores are: then the sums are 0 and y is NaN.
  const float base = most == kMinusInfinity ? 0.0f : most;
  float sum = 0;
#pragma unroll 8
  for (int64_t s = 0; s < spans.spans; ++s) {
    sum = fmaf(parts[s * to_next + 1], Exp2(parts[s * to_next] - base), sum);
  }
  for (int64_t d = threadIdx.x; d < p.d_head; d += kCombineThreads) {
    float value = 0;
#pragma unroll 8
    for (int64_t s = 0; s < spans.spans; ++s) {
      value = fmaf(parts[s * to_next + 2 + d], Exp2(parts[s * to_next] - base), value);
    }
    StoreOne(value / sum, p.y.data, place.Offset(i, p.y, p.d_head) + d, p.y.dtype);
  }
  if (threadIdx.x == 0 && p.log_sum_exp != nullptr) {
    p.log_sum_exp[place.Statistic(i, p.heads)] = (most + log2f(sum)) * kLn2;
  }
}

constexpr int kDeltaThreads = 256;

// A warp a row and head: delta = Σ dy · y.
__global__ void __launch_bounds__(kDeltaThreads)
    DeltaKernel(AttentionBackwardProblem b, float* delta) {
  const AttentionProblem& p = b.forward;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * (kDeltaThreads / 32) + threadIdx.x / 32;
  if (i >= p.rows * p.heads) return;
  const int64_t row = i / p.heads;
  const int64_t head = i % p.heads;
  float sum = 0;
  for (int64_t d = threadIdx.x % 32; d < p.d_head; d += 32) {
    const float y = LoadOne(p.y.data, row * p.y.stride + head * p.d_head + d, p.y.dtype);
    const float dy = LoadOne(b.dy.data, row * b.dy.stride + head * p.d_head + d, b.dy.dtype);
    sum = fmaf(y, dy, sum);
  }
  sum = WarpSum(sum);
  if (threadIdx.x % 32 == 0) delta[i] = sum;
}

}  // namespace

void Attention(const AttentionProblem& p) {
  if (p.count == 0) return;
  const ProfilerRange range("attention");
  CheckSizes(p);
  Context& context = ContextOf(p.device);
  AttentionBackwardProblem problem = {};
  problem.forward = p;
  AttentionKernelArguments a = Describe(problem);
  const bool tensor_cores = OnTensorCores(p);
  const ForwardPlan plan = PlanForward(
      context, p, a.group, tensor_cores ? AttentionQueries(p.d_head) : kAttentionQueriesF32);
  const Scratch partials(context, plan.partials * p.kv_heads * kAttentionSpanQueries *
                                      (2 + p.d_head) * static_cast<int64_t>(sizeof(float)));
  a.partials = partials.data<float>();
  const auto tiles = static_cast<int64_t>(plan.tiles.size());
  const auto spans = static_cast<int64_t>(plan.spans.size());
  const AttentionQueryTile* device_tiles = OnDevice(context, plan.tiles);
  if (tensor_cores) {
    LaunchAttentionForward(context, a, device_tiles, tiles);
    LaunchAttentionSpans(context, a, OnDevice(context, plan.spans), spans);
  } else {
    LaunchAttentionForwardF32(context, a, device_tiles, tiles, false);
    LaunchAttentionForwardF32(context, a, OnDevice(context, plan.spans), spans, true);
  }
  if (plan.combined.empty()) return;
  const auto blocks =
      static_cast<unsigned>(static_cast<int64_t>(plan.combined.size()) * p.kv_heads);
  int64_t most_queries = 0;
  for (const AttentionSpans& each : plan.combined) {
    most_queries = std::max(most_queries, each.queries - each.first);
  }
  const auto queries =
      static_cast<unsigned>(std::min<int64_t>(most_queries, kAttentionSpanQueries));
  LaunchOverlapped(context,
                   {.name = "attention", .grid = dim3(blocks, queries), .block = kCombineThreads},
                   CombineSpansKernel, a, OnDevice(context, plan.combined));
}

void AttentionBackward(const AttentionBackwardProblem& problem) {
  const AttentionProblem& p = problem.forward;
  if (p.count == 0) return;
  const ProfilerRange range("attention backward");
  CheckSizes(p);
  Context& context = ContextOf(p.device);
  AttentionKernelArguments a = Describe(problem);
  const Scratch delta(context, p.rows * p.heads * static_cast<int64_t>(sizeof(float)));
  const auto delta_blocks = static_cast<unsigned>(CeilDiv(p.rows * p.heads, kDeltaThreads / 32));
  DeltaKernel<<<delta_blocks, kDeltaThreads, 0, context.stream()>>>(problem, delta.data<float>());
  CheckLaunch("attention backward");
  a.delta = delta.data<float>();

  const bool tensor_cores = OnTensorCores(p);
  if (problem.dkeys.data != nullptr || problem.dvalues.data != nullptr) {
    const int64_t size = tensor_cores ? kAttentionKeys : kAttentionKeysF32;
    std::vector<AttentionKeyTile> tiles;
    for (const AttentionSequence& s : LongestFirst(p)) {
      for (int64_t begin = 0; begin < s.keys; begin += size) {
        tiles.push_back({s.row, s.rows * a.group, s.key, s.keys, Visible(s), begin});
      }
    }
    const auto count = static_cast<int64_t>(tiles.size());
    if (tensor_cores) {
      LaunchAttentionKeyGradients(context, a, OnDevice(context, tiles), count);
    } else {
      LaunchAttentionKeyGradientsF32(context, a, OnDevice(context, tiles), count);
    }
  }
  if (problem.dq.data != nullptr) {
    const int64_t size = tensor_cores ? kAttentionGradientQueries : kAttentionGradientQueriesF32;
    std::vector<AttentionQueryTile> tiles;
    for (const AttentionSequence& s : LongestFirst(p)) {
      AppendQueryTiles(s, a.group, size, &tiles);
    }
    const auto count = static_cast<int64_t>(tiles.size());
    if (tensor_cores) {
      LaunchAttentionQueryGradients(context, a, OnDevice(context, tiles), count);
    } else {
      LaunchAttentionQueryGradientsF32(context, a, OnDevice(context, tiles), count);
    }
  }
}

}  // namespace adder::cuda
