// selective_scan on the CPU: who computes which tiles and blocks of channels, and the sums that
// several threads contribute to. The arithmetic is in selective_scan_kernel.cc.
#include <algorithm>
#include <limits>
#include <vector>

#include "adder/backend/cpu/parallel.h"
#include "adder/ops/selective_scan/selective_scan_backends.h"
#include "adder/ops/selective_scan/selective_scan_kernel.h"

namespace adder::cpu {
namespace {

static_assert(kScanTileRows == kScanChunkRows);

// Fewer exponentials than this, a microsecond's worth, aren't worth a thread.
constexpr int64_t kThreadExponentials = 8192;
// Rows that the backward handles between two meetings of the threads: bounds the memory for their
// shares of dB and dC.
constexpr int64_t kWindowRows = 1024;

int64_t CeilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Consecutive entries [begin, end) of something.
struct Range {
  int64_t begin, end;
  int64_t length() const { return end - begin; }
};

Range Part(int64_t count, int64_t part, int64_t parts) {
  return {count * part / parts, count * (part + 1) / parts};
}

// steps: whether tiles that are a row alone may be marked as steps.
std::vector<ScanTile> Tiles(const SequenceLayout& layout, bool steps) {
  std::vector<ScanTile> tiles;
  tiles.reserve(static_cast<size_t>(ScanChunks(layout)));
  for (int64_t s = 0; s < layout.sequences(); ++s) {
    for (int64_t row = layout.begin(s); row < layout.end(s); row += kScanTileRows) {
      const int64_t rows = std::min(kScanTileRows, layout.end(s) - row);
      tiles.push_back({.sequence = s,
                       .row = row,
                       .rows = rows,
                       .chunk = static_cast<int64_t>(tiles.size()),
                       .first = row == layout.begin(s),
                       .last = row + rows == layout.end(s),
                       .step = steps && layout.length(s) == 1});
    }
  }
  return tiles;
}

// Sequence numbers that cut the rows into `parts` nearly equal parts of whole sequences.
std::vector<int64_t> SplitSequences(const SequenceLayout& layout, int64_t parts) {
  const auto offsets = layout.offsets();
  std::vector<int64_t> cuts;
  for (int64_t part = 0; part <= parts; ++part) {
    // The cut nearest to the part's share of the rows.
    const int64_t target = layout.rows() * part / parts;
    auto cut = std::lower_bound(offsets.begin(), offsets.end(), target);
    if (cut != offsets.begin() && target - *(cut - 1) < *cut - target) --cut;
    cuts.push_back(cut - offsets.begin());
  }
  return cuts;
}

// The split of the work among threads: every unit is one range of blocks in one group of whole
// sequences, so that no thread waits for another's state.
struct Plan {
  int64_t block_parts = 1;
  std::vector<Range> sequence_groups;  // tiles
  int64_t groups() const { return static_cast<int64_t>(sequence_groups.size()); }
  int64_t units() const { return block_parts * groups(); }
};

Plan MakePlan(const SelectiveScanShape& shape, const SequenceLayout& layout,
              const std::vector<ScanTile>& tiles, int64_t blocks) {
  const int64_t exponentials = shape.rows * shape.channels * shape.components();
  const int64_t threads = std::clamp<int64_t>(exponentials / kThreadExponentials, 1, ThreadCount());
  // The time is that of the slowest unit. Of equals the one with the fewest parts of blocks, which
  // have sums in common.
  int64_t least = std::numeric_limits<int64_t>::max();
  int64_t block_parts = 1;
  std::vector<int64_t> best_cuts;
  for (int64_t parts = 1; parts <= std::min(threads, blocks); ++parts) {
    std::vector<int64_t> cuts = SplitSequences(layout, threads / parts);
    int64_t most_rows = 0;
    for (size_t i = 1; i < cuts.size(); ++i) {
      most_rows = std::max(most_rows, layout.offsets()[static_cast<size_t>(cuts[i])] -
                                          layout.offsets()[static_cast<size_t>(cuts[i - 1])]);
    }
    const int64_t time = CeilDivide(blocks, parts) * most_rows;
    if (time < least) {
      least = time;
      block_parts = parts;
      best_cuts = std::move(cuts);
    }
  }
  Plan plan{.block_parts = block_parts, .sequence_groups = {}};
  auto tile = tiles.begin();
  for (size_t i = 1; i < best_cuts.size(); ++i) {
    const auto end =
        std::lower_bound(tile, tiles.end(), best_cuts[i],
                         [](const ScanTile& a, int64_t sequence) { return a.sequence < sequence; });
    if (end != tile) plan.sequence_groups.push_back({tile - tiles.begin(), end - tiles.begin()});
    tile = end;
  }
  return plan;
}

ScanRows Rows(const Tensor& tensor) {
  if (!tensor.defined()) return {};
  return {tensor.raw(), tensor.stride(0)};
}
float* Floats(const Tensor& tensor) { return tensor.defined() ? tensor.data<float>() : nullptr; }

// What forward and backward share: the problem as the kernels see it, with A's lane arrays.
class Problem {
 public:
  // A's lane arrays are not made where no tile needs them.
  Problem(const SelectiveScanShape& shape, const SelectiveScanInputs& inputs, bool with_rates)
      : blocks_per_group_(CeilDivide(shape.channels / shape.groups, kScanBlock)) {
    if (with_rates) rates_ = LaneArrays(1, shape);
    problem_ = {.activation = inputs.x.dtype(),
                .projection = inputs.B.dtype(),
                .channels = shape.channels,
                .components = shape.components(),
                .is_complex = shape.is_complex,
                .groups = shape.groups,
                .blocks_per_group = blocks_per_group_,
                .x = Rows(inputs.x),
                .dt = Rows(inputs.dt),
                .z = Rows(inputs.z),
                .B = Rows(inputs.B),
                .C = Rows(inputs.C),
                .D = Floats(inputs.D),
                .dt_bias = Floats(inputs.dt_bias),
                .interval = Floats(inputs.interval),
                .h0 = Floats(inputs.h0),
                .A = Floats(inputs.A),
                .rates = Floats(rates_)};
    if (!with_rates) return;
    const int64_t grain = CeilDivide(kThreadExponentials, kScanBlock * shape.components());
    ParallelFor(blocks(), grain, [&](int64_t begin, int64_t end, int) {
      ScanRates({&problem_, Floats(rates_), begin, end});
    });
  }
  Problem(const Problem&) = delete;
  Problem& operator=(const Problem&) = delete;

  const ScanProblem* get() const { return &problem_; }
  int64_t blocks() const { return problem_.groups * blocks_per_group_; }
  // Floats of all blocks' lane arrays.
  int64_t lane_arrays() const { return blocks() * problem_.components * kScanBlock; }

  // `count` times the lane arrays of all blocks, uninitialised.
  Tensor LaneArrays(int64_t count, const SelectiveScanShape& shape) const {
    const int64_t blocks = shape.groups * blocks_per_group_;
    return Tensor::Empty({count, blocks, shape.components(), kScanBlock}, DType::kF32);
  }

 private:
  int64_t blocks_per_group_;
  Tensor rates_;
  ScanProblem problem_;
};

// Sequences without rows have no tiles: their final state is the initial one, backwards too.
void CopyEmptySequences(const SequenceLayout& layout, const Tensor& from, const Tensor& to) {
  if (!to.defined()) return;
  for (int64_t s = 0; s < layout.sequences(); ++s) {
    if (layout.length(s) != 0) continue;
    if (from.defined()) {
      to.Rows(s, 1).CopyFrom(from.Rows(s, 1));
    } else {
      to.Rows(s, 1).SetZero();
    }
  }
}

// One value of dB or dC.
template <class T>
void StoreSums(const float* shares, int64_t share_stride, int64_t count, int64_t width, T* to) {
  for (int64_t i = 0; i < width; ++i) {
    float sum = 0;
    for (int64_t share = 0; share < count; ++share) sum += shares[share * share_stride + i];
    to[i] = T(sum);
  }
}
void StoreSums(const float* shares, int64_t share_stride, int64_t count, int64_t width,
               const Tensor& to, int64_t row) {
  const int64_t offset = row * to.stride(0);
  switch (to.dtype()) {
    case DType::kBF16:
      return StoreSums(shares, share_stride, count, width, to.data<BFloat16>() + offset);
    case DType::kF16:
      return StoreSums(shares, share_stride, count, width, to.data<Half>() + offset);
    default:
      return StoreSums(shares, share_stride, count, width, to.data<float>() + offset);
  }
}

// The rows of a group's tiles.
Range RowsOf(const std::vector<ScanTile>& tiles, Range range) {
  const ScanTile& last = tiles[static_cast<size_t>(range.end - 1)];
  return {tiles[static_cast<size_t>(range.begin)].row, last.row + last.rows};
}

// Cuts a group's tiles into windows of about kWindowRows rows, the latest first.
std::vector<Range> Windows(const std::vector<ScanTile>& tiles, Range group) {
  std::vector<Range> windows;
  for (int64_t end = group.end; end > group.begin;) {
    int64_t begin = end;
    int64_t rows = 0;
    while (begin > group.begin && rows < kWindowRows) {
      rows += tiles[static_cast<size_t>(--begin)].rows;
    }
    windows.push_back({begin, end});
    end = begin;
  }
  return windows;
}

// Adds the groups' lane arrays to a parameter's gradient [D, M], channel by channel.
void AddLaneArrays(const ScanProblem& p, const Tensor& lane_arrays, int64_t groups,
                   int64_t components, const Tensor& to) {
  if (!to.defined()) return;
  const int64_t group_channels = p.channels / p.groups;
  const int64_t stride = p.groups * p.blocks_per_group * components * kScanBlock;
  for (int64_t d = 0; d < p.channels; ++d) {
    const int64_t in_group = d % group_channels;
    const int64_t block = d / group_channels * p.blocks_per_group + in_group / kScanBlock;
    const float* from =
        lane_arrays.data<float>() + block * components * kScanBlock + in_group % kScanBlock;
    float* gradient = to.data<float>() + d * components;
    for (int64_t m = 0; m < components; ++m) {
      float sum = 0;
      for (int64_t g = 0; g < groups; ++g) sum += from[g * stride + m * kScanBlock];
      gradient[m] += sum;
    }
  }
}

}  // namespace

void SelectiveScan(const SelectiveScanShape& shape, const SelectiveScanInputs& inputs,
                   const SelectiveScanOutputs& outputs) {
  CopyEmptySequences(inputs.layout, inputs.h0, outputs.hT);
  if (shape.rows == 0 || shape.channels == 0) return;
  const std::vector<ScanTile> tiles =
      Tiles(inputs.layout, !shape.is_complex && !outputs.chunk_states.defined());
  const bool all_steps =
      std::all_of(tiles.begin(), tiles.end(), [](const ScanTile& tile) { return tile.step; });
  const Problem problem(shape, inputs, !all_steps);
  const Plan plan = MakePlan(shape, inputs.layout, tiles, problem.blocks());
  const Tensor state = all_steps ? Tensor() : problem.LaneArrays(plan.groups(), shape);
  const int64_t scratch_size = ScanForwardScratch(shape.components(), shape.groups);
  const Tensor scratch = Tensor::Empty({plan.units(), scratch_size}, DType::kF32);

  ParallelFor(plan.units(), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t group = unit / plan.block_parts;
      const Range range = plan.sequence_groups[static_cast<size_t>(group)];
      const Range blocks = Part(problem.blocks(), unit % plan.block_parts, plan.block_parts);
      ScanForward({.problem = problem.get(),
                   .y = Rows(outputs.y),
                   .hT = Floats(outputs.hT),
                   .chunk_states = Floats(outputs.chunk_states),
                   .tiles = tiles.data() + range.begin,
                   .tile_count = range.length(),
                   .block_begin = blocks.begin,
                   .block_end = blocks.end,
                   .state = state ? Floats(state) + group * problem.lane_arrays() : nullptr,
                   .scratch = Floats(scratch) + unit * scratch_size});
    }
  });
}

void SelectiveScanBackward(const SelectiveScanShape& shape, const SelectiveScanInputs& inputs,
                           const Tensor& chunk_states, const Tensor& dy, const Tensor& dhT,
                           const SelectiveScanGradients& gradients) {
  CopyEmptySequences(inputs.layout, dhT, gradients.dh0);
  if (shape.rows == 0) return;
  if (shape.channels == 0) {
    for (const Tensor& sum : {gradients.dB, gradients.dC, gradients.d_interval}) {
      if (sum) sum.SetZero();
    }
    return;
  }
  const Problem problem(shape, inputs, true);
  const ScanProblem& p = *problem.get();
  const std::vector<ScanTile> tiles = Tiles(inputs.layout, false);
  const Plan plan = MakePlan(shape, inputs.layout, tiles, problem.blocks());

  const Tensor state = problem.LaneArrays(plan.groups(), shape);
  const Tensor dA = problem.LaneArrays(plan.groups(), shape);
  const Tensor dD = Tensor::Zeros({plan.groups(), problem.blocks(), kScanBlock}, DType::kF32);
  const Tensor d_dt_bias = Tensor::Zeros(dD.shape(), DType::kF32);
  dA.SetZero();
  const int64_t scratch_size = ScanBackwardScratch(shape.components(), shape.groups);
  const Tensor scratch = Tensor::Empty({plan.units(), scratch_size}, DType::kF32);

  std::vector<std::vector<Range>> windows;
  size_t rounds = 0;
  int64_t window_rows = 0;
  for (const Range& group : plan.sequence_groups) {
    windows.push_back(Windows(tiles, group));
    rounds = std::max(rounds, windows.back().size());
    for (const Range& window : windows.back()) {
      window_rows = std::max(window_rows, RowsOf(tiles, window).length());
    }
  }
  // Every unit's share of dB, dC and d_interval in its current window: [units][rows][columns].
  const int64_t width = shape.projection();
  const int64_t share_size = window_rows * (2 * width + 1);
  const Tensor shares = Tensor::Empty({plan.units(), share_size}, DType::kF32);
  const auto share = [&](int64_t unit) { return Floats(shares) + unit * share_size; };

  for (size_t round = 0; round < rounds; ++round) {
    const auto window_of = [&](int64_t group) {
      const std::vector<Range>& list = windows[static_cast<size_t>(group)];
      return round < list.size() ? list[round] : Range{0, 0};
    };
    ParallelFor(plan.units(), 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t group = unit / plan.block_parts;
        const Range window = window_of(group);
        if (window.length() == 0) continue;
        const Range blocks = Part(problem.blocks(), unit % plan.block_parts, plan.block_parts);
        std::fill_n(share(unit), share_size, 0.0f);
        ScanBackward({.problem = &p,
                      .chunk_states = Floats(chunk_states),
                      .dhT = Floats(dhT),
                      .dy = Rows(dy),
                      .dx = Rows(gradients.dx),
                      .ddt = Rows(gradients.ddt),
                      .dz = Rows(gradients.dz),
                      .dh0 = Floats(gradients.dh0),
                      .tiles = tiles.data() + window.begin,
                      .tile_count = window.length(),
                      .block_begin = blocks.begin,
                      .block_end = blocks.end,
                      .state = Floats(state) + group * problem.lane_arrays(),
                      .dA = Floats(dA) + group * problem.lane_arrays(),
                      .dD = Floats(dD) + group * problem.blocks() * kScanBlock,
                      .d_dt_bias = Floats(d_dt_bias) + group * problem.blocks() * kScanBlock,
                      .dB = share(unit),
                      .dC = share(unit) + window_rows * width,
                      .d_interval = gradients.d_interval.defined()
                                        ? share(unit) + 2 * window_rows * width
                                        : nullptr,
                      .scratch = Floats(scratch) + unit * scratch_size});
      }
    });
    for (int64_t group = 0; group < plan.groups(); ++group) {
      const Range window = window_of(group);
      if (window.length() == 0) continue;
      const Range rows = RowsOf(tiles, window);
      const float* first = share(group * plan.block_parts);
      ParallelFor(rows.length(), 256, [&](int64_t begin, int64_t end, int) {
        for (int64_t t = begin; t < end; ++t) {
          const float* d_B = first + t * width;
          const float* d_C = d_B + window_rows * width;
          const float* d_interval = first + 2 * window_rows * width + t;
          const int64_t row = rows.begin + t;
          if (gradients.dB) {
            StoreSums(d_B, share_size, plan.block_parts, width, gradients.dB, row);
          }
          if (gradients.dC) {
            StoreSums(d_C, share_size, plan.block_parts, width, gradients.dC, row);
          }
          if (gradients.d_interval) {
            StoreSums(d_interval, share_size, plan.block_parts, 1,
                      gradients.d_interval.data<float>() + row);
          }
        }
      });
    }
  }

  AddLaneArrays(p, dA, plan.groups(), p.components, gradients.dA);
  AddLaneArrays(p, dD, plan.groups(), 1, gradients.dD);
  AddLaneArrays(p, d_dt_bias, plan.groups(), 1, gradients.d_dt_bias);
}

}  // namespace adder::cpu
